"""A scenario that fails, made as small as it can be and still fail.

First whole faults are left out (A. Zeller and R. Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", 2002: ddmin), then what is left is made shorter and weaker, one value at a
time, until nothing more can be done. Nothing is drawn: the same scenario and the same test give the
same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError

from faults.entries import Fault
from faults.errors import ScenarioError
from faults.processes import Process
from faults.scenario import Scenario
from faults.writing import content, write
from topologies import units

SHORTEST_NS = 1_000_000
LONGEST_NS = 10**15
_One = TypeVar("_One")
_Entry = Fault | Process


def minimize(
    scenario: Scenario, fails: Callable[[Scenario], bool], *, most_runs: int = 1_000
) -> Scenario:
    """The smallest scenario found that still fails.

    Each fault keeps its name in it: its position in the scenario that was given is its ``id``.
    A process is one fault here; to have only some of its crashes, minimize ``faults.parse(
    faults.concrete(faults.expand(…), name=…))`` instead.

    Args:
        fails: runs a scenario, and says whether what is looked for happens. A scenario that doesn't
            fit the topology (a ScenarioError) doesn't fail.
        most_runs: after so many runs the smallest scenario until then is returned.

    Raises ``ValueError`` when the scenario as it is doesn't fail.
    """
    search = _Search(scenario, fails, most_runs)
    entries = search.entries()
    if not search.fails(entries):
        raise ValueError(f"{scenario.name} does not fail as it is: there is nothing to minimize")
    entries = fewest(entries, search.fails)
    return search.scenario(_weakest(entries, search.fails))


class _Search:
    """What was tried, and how it ended."""

    def __init__(
        self, scenario: Scenario, fails: Callable[[Scenario], bool], most_runs: int
    ) -> None:
        self._given = scenario
        self._fails = fails
        self._runs_left = most_runs
        self._known: dict[str, bool] = {}

    def entries(self) -> list[_Entry]:
        """All faults and processes, each with its name."""
        found: list[_Entry] = []
        for index, fault in enumerate(self._given.timeline, start=1):
            found.append(_with(fault, content(fault) | {"id": fault.id or str(index)}))
        for index, process in enumerate(self._given.processes, start=1):
            name = process.id or f"{process.kind}-{index}"
            found.append(_with(process, content(process) | {"id": name}))
        return found

    def scenario(self, entries: Sequence[_Entry]) -> Scenario:
        """The scenario with only these entries."""
        return replace(
            self._given,
            timeline=tuple(entry for entry in entries if isinstance(entry, Fault)),
            processes=tuple(entry for entry in entries if isinstance(entry, Process)),
        )

    def fails(self, entries: Sequence[_Entry]) -> bool:
        """Whether it still fails with only these; not, once there were too many runs."""
        candidate = self.scenario(entries)
        key = write(candidate)
        if key not in self._known:
            if self._runs_left <= 0:
                return False
            self._runs_left -= 1
            try:
                self._known[key] = self._fails(candidate)
            except ScenarioError:
                self._known[key] = False
        return self._known[key]


def _with(entry: _Entry, said: dict[str, Any]) -> _Entry:
    return type(entry).model_validate(said)


def fewest(things: list[_One], fails: Callable[[list[_One]], bool]) -> list[_One]:
    """ddmin: a part of these things that still fails, and of which none can be left out; nothing
    where nothing fails, too.
    """
    if not things or fails([]):
        return []
    parts = 2
    while len(things) >= 2:
        size = -(-len(things) // parts)
        chunks = [things[at : at + size] for at in range(0, len(things), size)]
        for index, chunk in enumerate(chunks):
            if fails(chunk):
                things, parts = chunk, 2
                break
            rest = [thing for other in chunks[:index] + chunks[index + 1 :] for thing in other]
            if len(chunks) > 2 and fails(rest):
                things, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(things):
                break
            parts = min(2 * parts, len(things))
    return things


def _weakest(entries: list[_Entry], fails: Callable[[Sequence[_Entry]], bool]) -> list[_Entry]:
    """Each of these as short and as weak as it can be while all of them together still fail."""
    again = True
    while again:
        again = False
        for index in range(len(entries)):
            before = content(entries[index])
            for said in _weaker_entries(before):
                try:
                    weaker = _with(entries[index], said)
                except ValidationError:
                    continue
                if content(weaker) == before:
                    continue
                candidate = [*entries[:index], weaker, *entries[index + 1 :]]
                if fails(candidate):
                    entries, again = candidate, True
                    break
    return entries


def _weaker_entries(said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same entry with one thing in it left out, shorter or weaker."""
    for key, value in said.items():
        if key in ("at", "id"):
            continue
        for weaker in _weaker_values(key, value):
            yield {**said, key: weaker}


def _weaker_values(key: str, value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in value:
            if len(value) > 1:
                yield {other: inner for other, inner in value.items() if other != name}
        yield from _weaker_entries(value)
    elif isinstance(value, list) and key != "link":
        for index in range(len(value)):
            if len(value) > 1:
                yield value[:index] + value[index + 1 :]
            for weaker in _weaker_values("", value[index]):
                yield [*value[:index], weaker, *value[index + 1 :]]
    elif key in _WEAKER and isinstance(value, str | int | float):
        weaker = _WEAKER[key](str(value))
        if weaker is not None:
            yield float(weaker) if isinstance(value, int | float) else weaker


def _half(
    read: Callable[[object], Any], show: Callable[[Any], str], least: float
) -> Callable[[str], str | None]:
    """Half of a quantity in round figures, with the + that it may have; None where it is small
    enough.
    """

    def half(text: str) -> str | None:
        plus = "+" if text.startswith("+") else ""
        value = read(text.removeprefix("+"))
        less = type(value)(float(f"{value / 2:.2g}"))
        return plus + show(less).removeprefix("+") if abs(less) >= least else None

    return half


def _double(
    read: Callable[[object], Any], show: Callable[[Any], str], most: float
) -> Callable[[str], str | None]:
    def double(text: str) -> str | None:
        more = read(text) * 2
        return show(more) if more <= most else None

    return double


def _nearer_to_one(text: str) -> str | None:
    given = units.factor(text)
    times = round((1 + given) / 2, 2)
    return units.show_factor(times) if times not in (given, 1) else None


def _relative_or(absolute: Callable[[str], str | None]) -> Callable[[str], str | None]:
    return lambda text: (_nearer_to_one if text.endswith(("%", "x")) else absolute)(text)


_shorter = _half(units.nanoseconds, units.show_nanoseconds, SHORTEST_NS)
_longer = _double(units.nanoseconds, units.show_nanoseconds, LONGEST_NS)
_fewer = _half(units.fraction, units.show_fraction, 0.001)
_sooner = _relative_or(_half(units.duration, units.show_duration, 0.001))
_WEAKER: dict[str, Callable[[str], str | None]] = {
    **dict.fromkeys(("for", "down", "mean_down", "until"), _shorter),
    **dict.fromkeys(("up", "mean_up", "mean_between"), _longer),
    **dict.fromkeys(("loss", "chance", "duplicate", "reorder", "corrupt"), _fewer),
    **dict.fromkeys(("delay", "jitter"), _sooner),
    "burst": _half(lambda text: float(str(text)), units.show_number, 1),
    "compute": _nearer_to_one,
    "memory": _relative_or(_double(units.size, units.show_size, 2**50)),
    "bandwidth": _relative_or(_double(units.bandwidth, units.show_bandwidth, 1e12)),
    "rate": _half(units.bandwidth, units.show_bandwidth, 1_000),
    "offset": _half(units.offset, units.show_offset, SHORTEST_NS),
    "drift": _half(units.drift, units.show_drift, 1e-6),
}
