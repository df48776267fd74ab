"""The smallest trial that still fails in the same way.

First fewer and weaker faults (`faults.minimize`), then fewer nodes, then a smaller seed, then
rounder times; again, until nothing gets smaller or too much was tried. Nothing is drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import faults
from broker.exploring.drawing import around, joins, restricted
from broker.exploring.trial import Attempt, Failure, Trial
from faults import Scenario, ScenarioError
from faults.entries import Fault
from faults.minimizing import fewest
from faults.writing import content, write
from topologies import units

MOST_TRIALS = 600
_SEEDS = 8
_ROUND_NS = (10**10, 10**9, 10**8, 10**7, 10**6)
_LEAST_NS = 10**6


def shrink(
    trial: Trial,
    failure: Failure,
    attempt: Attempt,
    *,
    nodes: Sequence[str] = (),
    most_trials: int = MOST_TRIALS,
    budget_s: float = math.inf,
) -> Trial:
    """The smallest trial found that fails as this one does, after so many trials or real seconds at
    most. `nodes` have a part in it.
    """
    search = _Search(attempt, failure, most_trials, time.monotonic() + budget_s)
    before = ""
    while before != (now := _size(trial)) and search.left > 0:
        before = now
        trial = _fewer_faults(trial, search)
        trial = _fewer_nodes(trial, search, nodes)
        trial = _smaller_seed(trial, search)
        trial = _rounder(trial, search)
    return _without_names(trial, search)


class _Search:
    """What may still be tried."""

    def __init__(
        self, attempt: Attempt, failure: Failure, most_trials: int, until_s: float
    ) -> None:
        self._attempt = attempt
        self._until_s = until_s
        self._signature = failure.signature
        self.left = most_trials

    def fails(self, trial: Trial) -> bool:
        """Whether this fails in the same way; not, once too much was tried."""
        if self.left <= 0 or time.monotonic() > self._until_s:
            return False
        self.left -= 1
        try:
            failure = self._attempt(trial).failure
        except ScenarioError:
            return False
        return failure is not None and failure.signature == self._signature


def _size(trial: Trial) -> str:
    faults_text = "" if trial.scenario is None else write(trial.scenario)
    return f"{trial.seed} {list(trial.topology.nodes)} {faults_text}"


def _fewer_faults(trial: Trial, search: _Search) -> Trial:
    scenario = trial.scenario
    if scenario is None:
        return trial

    def fails(candidate: Scenario) -> bool:
        return search.fails(replace(trial, scenario=candidate))

    if not scenario.timeline and not scenario.processes:
        return trial
    try:
        smaller = faults.minimize(scenario, fails, most_runs=search.left)
    except ValueError:
        return trial
    return replace(trial, scenario=smaller)


def _fewer_nodes(trial: Trial, search: _Search, nodes: Sequence[str]) -> Trial:
    """Without nodes that have no part in it; first all of them at once, then as many as can go.

    `nodes` reach each other as before: a network that falls apart would be one more fault.
    """
    whole = trial.topology

    def fails(names: Sequence[str]) -> bool:
        if not names:
            return False
        part = restricted(whole, names)
        return joins(part, whole, nodes) and search.fails(replace(trial, topology=part))

    names = list(whole.nodes)
    near = list(around(whole, nodes).nodes)
    if len(near) < len(names) and fails(near):
        names = near
    return replace(trial, topology=restricted(whole, fewest(names, fails)))


def _smaller_seed(trial: Trial, search: _Search) -> Trial:
    for seed in range(min(trial.seed, _SEEDS)):
        candidate = replace(trial, seed=seed)
        if search.fails(candidate):
            return candidate
    return trial


def _rounder(trial: Trial, search: _Search) -> Trial:
    """Times that a person would write."""
    scenario = trial.scenario
    if scenario is None:
        return trial
    for index in range(len(scenario.timeline)):
        for fault in _rounder_times(scenario.timeline[index]):
            timeline = (*scenario.timeline[:index], fault, *scenario.timeline[index + 1 :])
            candidate = replace(scenario, timeline=timeline)
            if search.fails(replace(trial, scenario=candidate)):
                scenario = candidate
                break
    return replace(trial, scenario=scenario)


def _rounder_times(fault: Fault) -> Iterator[Fault]:
    """The same fault at rounder times, the roundest first."""
    said = content(fault)
    for unit_ns in _ROUND_NS:
        at_ns = round(fault.at / unit_ns) * unit_ns
        lasts_ns = None if fault.for_ is None else -(-fault.for_ // unit_ns) * unit_ns
        if (at_ns, lasts_ns) == (fault.at, fault.for_):
            return
        if lasts_ns is not None and fault.for_ is not None and lasts_ns > 2 * fault.for_:
            continue
        rounder = said | {"at": units.show_nanoseconds(at_ns)}
        if lasts_ns is not None:
            rounder["for"] = units.show_nanoseconds(lasts_ns)
        yield Fault.model_validate(rounder)


def _without_names(trial: Trial, search: _Search) -> Trial:
    """Names that `faults.minimize` gave, where nothing depends on them."""
    if trial.scenario is None:
        return trial
    timeline = tuple(_nameless(fault) for fault in trial.scenario.timeline)
    candidate = replace(trial, scenario=replace(trial.scenario, timeline=timeline))
    search.left = max(search.left, 1)
    return candidate if search.fails(candidate) else trial


def _nameless(fault: Fault) -> Fault:
    return Fault.model_validate({key: said for key, said in content(fault).items() if key != "id"})
