"""Looking for what breaks a test: many seeds, random faults, and the smallest that fails.

    trial      what is tried (a seed, faults, a topology), and what came of it
    drawing    random faults where they can matter
    search     trials in parallel over the cores, until one fails or the budget ends
    shrinking  the smallest trial that still fails
    writing    a fault file and a test that repeat it
    item       all of it for a test of pytest

`explore` does it for anything that can be tried; `pytest.mark.explore` and `python -m broker
explore FILE::test` for tests. The same settings find the same, however many cores look for it.
"""

from broker.exploring.search import Exploration, Settings, explore
from broker.exploring.shrinking import shrink
from broker.exploring.trial import Attempt, Failure, Outcome, Trial, in_world

__all__ = [
    "Attempt",
    "Exploration",
    "Failure",
    "Outcome",
    "Settings",
    "Trial",
    "explore",
    "in_world",
    "shrink",
]
