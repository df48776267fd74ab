"""Exploring a test of pytest: its mark, its many runs, and the one report of them all.

A test is run as pytest runs it, with its fixtures of function scope made anew each time. First
without faults: what fails then needs no exploration. If no trial fails the test has passed; else
its report is that of the smallest one, with what was found in a sentence.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from broker.exploring import shrinking
from broker.exploring.search import Exploration, Settings, explore
from broker.exploring.trial import Failure, Outcome, Trial, seen
from broker.exploring.writing import sentence, write
from broker.testing import marks, session
from faults import KINDS, Scenario
from topologies import InputError, units
from topologies.errors import did_you_mean

_KNOWN = ("seeds", "faults", "intensity", "kinds", "budget", "jobs")
_NOTHING = Scenario("nothing")


def protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Explores a test, and reports it as one."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        reports = _explored(item)
    except InputError as error:
        problem = str(error)
        reports = [_refusal(item, problem)]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def settings_of(item: pytest.Item) -> Settings:
    """What the mark explore says, and the command line over it. Raises InputError."""
    mark = item.get_closest_marker("explore")
    said = dict(mark.kwargs) if mark is not None else {}
    if mark is not None and mark.args:
        raise _error(item, "", f"{mark.args[0]!r} stands without a name", "Write seeds=1000")
    said |= json.loads(item.config.option.network_explore or "{}")
    return checked(said, item)


def checked(said: Mapping[str, Any], item: pytest.Item) -> Settings:
    """These settings, as they are meant. Raises InputError."""
    for key in said:
        if key not in _KNOWN:
            remedy = did_you_mean(key, _KNOWN, what="settings")
            raise _error(item, key, "this mark has no such setting", remedy)
    seeds, jobs = said.get("seeds", Settings.seeds), said.get("jobs", Settings.jobs)
    for key, value, least in (("seeds", seeds, 1), ("jobs", jobs, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise _error(item, key, f"{value!r} is no whole number from {least} on")
    drawn = said.get("faults", "random")
    if drawn not in ("random", None):
        remedy = "Write random, or None: those of the mark network, under many seeds"
        raise _error(item, "faults", f"{drawn!r} is neither", remedy)
    intensity = said.get("intensity", Settings.intensity)
    if not isinstance(intensity, int | float) or not 0 <= intensity <= 1:
        raise _error(item, "intensity", f"{intensity!r} is no number from 0 to 1")
    kinds = tuple(said.get("kinds", ()))
    for kind in kinds:
        if kind not in KINDS:
            remedy = did_you_mean(str(kind), KINDS, what="kinds")
            raise _error(item, "kinds", f"there is no fault {kind!r}", remedy)
    budget = said.get("budget", Settings.budget_s)
    try:
        budget_s = units.duration(budget) if isinstance(budget, str) else float(budget)
    except (InputError, TypeError, ValueError) as error:
        raise _error(item, "budget", str(error), 'Write "1 min"') from error
    if "PYTEST_XDIST_WORKER" in os.environ:
        jobs = 1  # the cores are busy with other tests
    return Settings(seeds, drawn == "random", float(intensity), kinds, budget_s, jobs)


class _Runs:
    """A test's runs, each with its reports."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self.reports: list[pytest.TestReport] = []

    def attempt(self, trial: Trial, *, brief: bool = True) -> Outcome:
        """One run. A `brief` one has no report to be read: most of their time would go into it."""
        item = self._item
        option = item.config.option
        style = option.tbstyle
        item.stash[session.INSTEAD] = session.Instead(
            trial.seed, trial.scenario, trial.topology, trial.limit_s, brief
        )
        if session.ERROR in item.stash:
            del item.stash[session.ERROR]
        if brief:
            option.tbstyle = "native"
        try:
            # The test itself is torn down; what it shares with its neighbors stays.
            reports = runtestprotocol(item, log=False, nextitem=item.parent)  # type: ignore[arg-type]
        finally:
            option.tbstyle = style
            del item.stash[session.INSTEAD]
        self.reports = reports
        world = item.stash.get(session.WORLD, None)
        failure = None
        for report in reports:
            if report.failed:
                failure = _failure(item, report, item.stash.get(session.ERROR, None))
                break
        return Outcome(failure) if world is None else seen(world, failure)


def _explored(item: pytest.Item) -> list[pytest.TestReport]:
    if item.get_closest_marker("network") is None:
        remedy = 'Write @pytest.mark.network(topology="edge-clusters") beside it'
        raise _error(item, "", "only a test with a network can be explored", remedy)
    settings = settings_of(item)
    own = marks.read(item)
    callspec = getattr(item, "callspec", None)
    topology = marks.topology(item, callspec.params.get("network") if callspec else None)
    runs = _Runs(item)
    calm = runs.attempt(
        Trial(own.seed, _NOTHING if settings.random else None, topology), brief=False
    )
    if calm.failure is not None or all(report.skipped for report in runs.reports[:1]):
        return runs.reports
    passed = runs.reports
    begin = _Quiet(item.config)
    found = explore(runs.attempt, topology, settings, calm=calm, first_seed=own.seed, begin=begin)
    if found.trial is None or found.failure is None:
        return _told(passed, f"{item.nodeid}: {_tried(found)}; none failed{_coverage(found)}")
    smallest = shrinking.shrink(
        found.trial,
        found.failure,
        runs.attempt,
        nodes=runs.attempt(found.trial).nodes,
        budget_s=settings.budget_s,
    )
    return _report(item, runs, found, found.trial, smallest)


def _report(
    item: pytest.Item, runs: _Runs, found: Exploration, trial: Trial, smallest: Trial
) -> list[pytest.TestReport]:
    """The smallest trial that fails, written down; its reports."""
    last = runs.attempt(smallest, brief=False).failure or found.failure
    assert last is not None
    own = marks.read(item)
    if smallest.scenario is None and isinstance(own.faults, Scenario):
        smallest = replace(smallest, scenario=own.faults)
    said = sentence(item.name, smallest, last)
    folder = Path(item.config.option.network_found or item.config.rootpath / "found")
    files = write(item, smallest, said, folder)
    before = len(trial.scenario.timeline) if trial.scenario else 0
    after = len(smallest.scenario.timeline) if smallest.scenario else 0
    nodes = f"{len(trial.topology.nodes)} nodes to {len(smallest.topology.nodes)}"
    how = (
        f"{_tried(found)}; seed {trial.seed} failed. Shrunk from {_count(before)} to {after}, "
        f"and from {nodes}{_coverage(found)}"
    )
    text = f"{said}\n{how}\nrepeat it with:\n  pytest {_short(files[-1])}"
    reports = _told(runs.reports, text)
    for report in reports:
        if report.failed:
            report.sections.append(("Captured exploration", text))
    return reports


def _short(path: Path) -> Path:
    """Relative to where we are, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _count(faults: int) -> str:
    return f"{faults} fault" + ("" if faults == 1 else "s")


def _tried(found: Exploration) -> str:
    return (
        f"{found.tried:,} scenarios in {found.seconds:.1f} s ({found.rate:,.0f} a second), "
        f"{found.virtual_s:,.0f} virtual seconds"
    )


def _coverage(found: Exploration) -> str:
    return f". Scenarios in which it struck: {found.coverage}" if found.coverage else ""


def _told(reports: list[pytest.TestReport], text: str) -> list[pytest.TestReport]:
    """The reports, the last of which says this in the summary."""
    reports[-1].user_properties.append(("exploration", text))
    return reports


def _failure(item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> Failure:
    """How a run failed: by the type of what was raised, and the test's own line it came through."""
    said = str(error) if error is not None else str(report.longrepr)
    _, named, words = said.partition(f"{item.nodeid}: ")
    if error is None or (named and said.startswith(named)):
        return _failure_in_words(report.when, (words or said).splitlines())
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(item.path)] or frames
    text = ": ".join(filter(None, (kind, said.partition("\n")[0])))
    return Failure(f"{report.when}: {kind} by {own[-1].filename}:{own[-1].lineno}", text)


def _failure_in_words(when: str | None, lines: list[str]) -> Failure:
    """One that has no traceback of its own: a network that is stuck, or a program that failed."""
    text = lines[0]
    kind = "".join(letter for letter in text.partition(":")[0] if not letter.isdigit())
    places = [index for index, line in enumerate(lines) if line.lstrip(" |").startswith("File ")]
    if kind != "ProgramError" or not places:
        return Failure(f"{when}: {kind}", text)
    behind = [line for line in lines[places[-1] + 1 :] if line.strip(" |^~")]
    raised = next((line for line in behind if not line[0].isspace()), behind[-1]).strip()
    place = lines[places[-1]].strip(" |")
    return Failure(f"{when}: {kind} {raised.partition(':')[0]} by {place}", f"{text} {raised}")


class _Quiet:
    """What a forked process begins with: what tests print there nobody reads."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def __call__(self) -> None:
        capture = self._config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture(in_=True)
            self._config.pluginmanager.unregister(capture)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def _refusal(item: pytest.Item, problem: str) -> pytest.TestReport:
    return pytest.TestReport(
        item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", problem, "setup"
    )


def _error(item: pytest.Item, key: str, problem: str, remedy: str | None = None) -> InputError:
    mark = f"mark explore, {key}" if key else "mark explore"
    return InputError(problem, file=item.nodeid, key=mark, remedy=remedy)
