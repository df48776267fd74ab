"""The time line of events as a picture of characters, a line for each fault of the scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faults.event import Event
from topologies import units

SHADES = " ░▒▓█"


@dataclass(frozen=True)
class Lane:
    """One fault, or all that one process or one trace did, over time.

    Attributes:
        name: of the fault, without the number of its part.
        kind: of its first event.
        cells: how many of its parts hold on average, as a shade: a full one for as many as ever
            hold at once, a light one for few of them or for a short time, none for nothing at all.
    """

    name: str
    kind: str
    cells: str


@dataclass(frozen=True)
class Picture:
    """The lanes in the order in which they begin, and the axis below them."""

    lanes: tuple[Lane, ...]
    axis: str


def picture(events: Sequence[Event], width: int) -> Picture:
    """These events, as `faults.expand` gives them, in lanes of so many characters."""
    end_ns = max((event.at_ns for event in events), default=0) or 1
    spans: dict[str, list[tuple[int, int]]] = {}
    kinds: dict[str, str] = {}
    over = {event.fault: event.at_ns for event in events if event.phase == "end"}
    for event in events:
        if event.phase == "begin":
            name = event.fault.partition(".")[0]
            kinds.setdefault(name, event.kind)
            span = (event.at_ns, over.get(event.fault, end_ns + 1))
            spans.setdefault(name, []).append(span)
    lanes = (Lane(name, kinds[name], _cells(spans[name], end_ns, width)) for name in spans)
    return Picture(tuple(lanes), _axis(end_ns, width))


def _cells(spans: Sequence[tuple[int, int]], end_ns: int, width: int) -> str:
    cell_ns = -(-end_ns // width)
    held_ns = [0] * width
    steps = [0] * (width + 1)
    for begin_ns, over_ns in spans:
        # Where it holds through the whole cell is counted by steps; the ends of it by themselves.
        first, last = (min(at // cell_ns, width - 1) for at in (begin_ns, over_ns))
        steps[first] += 1
        steps[last + 1] -= 1
        held_ns[first] -= begin_ns - first * cell_ns
        held_ns[last] -= max((last + 1) * cell_ns - over_ns, 0)
    now = 0
    for place in range(width):
        now += steps[place]
        held_ns[place] += now * cell_ns
    full_ns = _most_at_once(spans) * cell_ns
    shades = len(SHADES) - 1
    return "".join(SHADES[min(-(-shades * held // full_ns), shades)] for held in held_ns)


def _most_at_once(spans: Sequence[tuple[int, int]]) -> int:
    changes = sorted(
        [(begin_ns, 1) for begin_ns, _ in spans] + [(over_ns, -1) for _, over_ns in spans]
    )
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return max(most, 1)


def _axis(end_ns: int, width: int) -> str:
    """Times at equal distances, as far as there is room; those of both ends come first."""
    line = [" "] * width
    for quarter in (0, 4, 2, 1, 3):
        text = units.show_duration(end_ns * quarter / 4 / 1e9, digits=3)
        at = min(width * quarter // 4, width - len(text))
        if at >= 0 and all(cell == " " for cell in line[max(at - 1, 0) : at + len(text) + 1]):
            line[at : at + len(text)] = text
    return "".join(line).rstrip()
