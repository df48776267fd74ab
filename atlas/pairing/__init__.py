"""Who hosts which layers for whom: a pure function of what the devices say of themselves.

A client keeps both ends of the model; the layers between are cut into spans, and each (client,
span) is a job that some host takes. A plan gives every job a host, ranked stand-ins out of the same
neighborhood, and ranked hosts of other neighborhoods to fall back to, the nearest neighborhood
first. No host is given more than its memory holds, and the slowest client's round is made as short
as can be: `objective` says what that is, `exact` proves it for small problems, `heuristic` comes
near for large ones, `rules` has the alternatives.
"""

from atlas.pairing.cut import cheapest_cut
from atlas.pairing.lending import lend
from atlas.pairing.objective import Arrangement, Problem
from atlas.pairing.planning import pair, plan, unsplit
from atlas.pairing.rules import RULES, Rule, RuleName
from atlas.pairing.types import (
    Capability,
    Hosting,
    PairingError,
    Plan,
    SpanCost,
    StepCost,
    Way,
    Ways,
)

__all__ = [
    "RULES",
    "Arrangement",
    "Capability",
    "Hosting",
    "PairingError",
    "Plan",
    "Problem",
    "Rule",
    "RuleName",
    "SpanCost",
    "StepCost",
    "Way",
    "Ways",
    "cheapest_cut",
    "lend",
    "pair",
    "plan",
    "unsplit",
]
