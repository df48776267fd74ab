"""What goes wrong, and when: scenario files, the events they mean, and what those do to a network.

>>> import faults, topologies
>>> network = topologies.load("edge-clusters")
>>> for event in faults.expand(faults.load("tiny"), network, seed=1)[:1]:
...     print(event.text)
slow client-2: compute 4x

`load` reads a scenario by name or path, `expand` makes concrete events of it, `resolve` fills in
what only a run can know, `Conditions` says what is broken at an instant, and `concrete` writes
events as a scenario that can be run again. `random` draws a scenario, `faults.patterns` has what
breaks many programs, and `minimize` shrinks a scenario to what is needed for a failure;
`faults.strategies` is for property tests with Hypothesis. Everything wrong with a file is a
`ScenarioError` that says where and what would be right.
"""

from faults.conditions import Conditions, Traffic
from faults.drawing import random
from faults.entries import KINDS
from faults.errors import ScenarioError
from faults.event import Amount, Change, Event
from faults.minimizing import minimize
from faults.processes import PROCESSES
from faults.scenario import Scenario, catalog, load, parse
from faults.selection import Selection
from faults.timeline import expand, resolve
from faults.writing import concrete, write

__all__ = [
    "KINDS",
    "PROCESSES",
    "Amount",
    "Change",
    "Conditions",
    "Event",
    "Scenario",
    "ScenarioError",
    "Selection",
    "Traffic",
    "catalog",
    "concrete",
    "expand",
    "load",
    "minimize",
    "parse",
    "random",
    "resolve",
    "write",
]
