"""Traces: what was recorded on a real link, or of real devices, as a file has it.

The kind is found out from the content:

- *packet opportunities* (Mahimahi): whole milliseconds, one a line, ascending; at each of them one
  packet of 1500 bytes could be sent; the file is as long as its last line says.
- *bandwidths*: lines of ``timestamp bandwidth``; each value holds until the next line, the last one
  as long as the one before it. Times count from the first line.
- *availability* (FedScale's client traces, as JSON instead of pickle): for each client, by any
  name, ``{"active": [10, …], "inactive": [30, …], "finish_time": 100}``, in seconds: it is there
  from each of ``active`` to the one of ``inactive`` that belongs to it. Other keys are left alone.

Empty lines, and lines that begin with ``#``, say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from faults.errors import ScenarioError
from topologies.document import read_text

MILLISECOND = 10**6
SECOND = 10**9
PACKET_BITS = 1500 * 8
LONGEST_NS = 2**62

Steps: TypeAlias = tuple[tuple[int, float], ...]
"""From when on, in nanoseconds from the beginning, there is how much."""


@dataclass(frozen=True)
class Opportunities:
    """When one packet of 1500 bytes could be sent, in milliseconds from the beginning."""

    at_ms: tuple[int, ...]

    @property
    def length_ns(self) -> int:
        """How long it is until it begins again."""
        return self.at_ms[-1] * MILLISECOND

    def steps(self, window_ns: int) -> Steps:
        """Bits per second, averaged over windows."""
        counts: dict[int, int] = {}
        for at_ms in self.at_ms:
            # An opportunity at a window's very end is what it has waited for.
            window = max(at_ms * MILLISECOND - 1, 0) // window_ns
            counts[window] = counts.get(window, 0) + 1
        windows = range(-(-self.length_ns // window_ns))
        return tuple(
            (
                window * window_ns,
                counts.get(window, 0)
                * PACKET_BITS
                * SECOND
                / (min((window + 1) * window_ns, self.length_ns) - window * window_ns),
            )
            for window in windows
        )


@dataclass(frozen=True)
class Bandwidths:
    """From when on there was how much, in the unit of the file."""

    values: Steps
    length_ns: int


@dataclass(frozen=True)
class Availability:
    """When each of some devices was there, in nanoseconds from the beginning."""

    devices: tuple[Presence, ...]


@dataclass(frozen=True)
class Presence:
    """When one device was there, with a gap after each time; it begins again after its length."""

    there: tuple[tuple[int, int], ...]
    length_ns: int

    def absences(self, until_ns: int) -> Iterator[tuple[int, int]]:
        """From when to when it is away, until then."""
        if self.there == ((0, self.length_ns),):
            return
        left_ns = 0
        for begin_ns in range(0, until_ns, self.length_ns):
            for here_ns, gone_ns in self.there:
                if begin_ns + here_ns > left_ns:
                    yield left_ns, min(begin_ns + here_ns, until_ns)
                left_ns = begin_ns + gone_ns
                if left_ns >= until_ns:
                    return
        if left_ns < until_ns:
            yield left_ns, until_ns


Recording: TypeAlias = Opportunities | Bandwidths | Availability


def read(path: Path) -> Recording:
    """The recording in this file. Raises ScenarioError, naming the line."""
    return parse(read_text(path, ScenarioError), str(path))


def parse(text: str, file: str) -> Recording:
    """The recording that this text is; *file* is its name in errors. Raises ScenarioError."""
    if text.lstrip().startswith("{"):
        return _availability(text, file)
    rows = [
        (number, line.split())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not rows:
        raise ScenarioError("nothing was recorded", file=file, remedy=_FORMATS)
    width = len(rows[0][1])
    if width not in (1, 2):
        raise _error(f"there are {width} words here", file, rows[0][0])
    for number, words in rows:
        if len(words) != width:
            raise _error(f"there were {width} words to a line, and here are {len(words)}", file,
                         number)  # fmt: skip
    return _opportunities(rows, file) if width == 1 else _bandwidths(rows, file)


_FORMATS = (
    "A trace is a line of milliseconds for each packet (Mahimahi), lines of `timestamp bandwidth`, "
    "or JSON with active, inactive and finish_time (FedScale)"
)


def _error(problem: str, file: str, line: int) -> ScenarioError:
    return ScenarioError(problem, file=file, line=line, remedy=_FORMATS)


def _opportunities(rows: Sequence[tuple[int, list[str]]], file: str) -> Opportunities:
    at_ms: list[int] = []
    for number, (word,) in rows:
        if not word.isascii() or not word.isdigit() or len(word) > 12:
            raise _error(f'"{word}" is no number of milliseconds', file, number)
        if at_ms and int(word) < at_ms[-1]:
            raise _error(f"{word} comes after {at_ms[-1]}: time goes backwards", file, number)
        at_ms.append(int(word))
    if not at_ms[-1]:
        raise _error("this trace is over as soon as it begins", file, rows[-1][0])
    return Opportunities(tuple(at_ms))


def _bandwidths(rows: Sequence[tuple[int, list[str]]], file: str) -> Bandwidths:
    if len(rows) < 2:
        raise _error("one line doesn't say how long it lasts: write two or more", file, rows[0][0])
    times: list[int] = []
    values: list[float] = []
    for number, (time, value) in rows:
        seconds, bandwidth = (_number(word, file, number) for word in (time, value))
        at_ns = round(seconds * SECOND)
        if times and at_ns <= times[-1]:
            raise _error(f"{time} s is not after the line before it", file, number)
        times.append(at_ns)
        values.append(bandwidth)
    last_ns = times[-1] - times[-2]
    return Bandwidths(
        tuple((at_ns - times[0], value) for at_ns, value in zip(times, values, strict=True)),
        times[-1] + last_ns - times[0],
    )


def _number(word: object, file: str, line: int) -> float:
    try:
        value = float(str(word))
    except ValueError:
        value = -1.0
    if isinstance(word, bool) or not 0 <= value < LONGEST_NS / SECOND:
        raise _error(f'"{word}" is no number from 0 on', file, line)
    return value


def _availability(text: str, file: str) -> Availability:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise _error("this is not JSON", file, line) from None
    devices = tuple(_presence(name, device, file) for name, device in content.items())
    if not devices:
        raise ScenarioError("nothing was recorded", file=file, remedy=_FORMATS)
    return Availability(devices)


def _presence(name: str, device: object, file: str) -> Presence:
    def wrong(problem: str) -> ScenarioError:
        return ScenarioError(problem, file=file, key=name, remedy=_FORMATS)

    if not isinstance(device, dict):
        raise wrong("a mapping of active, inactive and finish_time was expected here")
    for key in ("active", "inactive"):
        if not isinstance(device.get(key), list):
            raise wrong(f"{key} has to be a list of seconds")
    numbers = [*device["active"], *device["inactive"], device.get("finish_time")]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise wrong(f"{number!r} is no number of seconds".replace("None", "no finish_time"))
        if not 0 <= number < LONGEST_NS / SECOND:
            raise wrong(f"{number} is no number of seconds from 0 on")
    here, gone = (
        [round(second * SECOND) for second in device[key]] for key in ("active", "inactive")
    )
    length_ns = round(device["finish_time"] * SECOND)
    if len(here) != len(gone):
        raise wrong(f"there are {len(here)} active and {len(gone)} inactive: they come in pairs")
    there = tuple(zip(here, gone, strict=True))
    ordered = [second for pair in there for second in pair]
    if any(a > b for a, b in pairwise(ordered)) or (ordered and ordered[-1] > length_ns):
        raise wrong("active, inactive, active, … and finish_time have to ascend")
    if length_ns <= 0:
        raise wrong("finish_time has to be more than 0")
    return Presence(_with_gaps(there), length_ns)


def _with_gaps(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for here, gone in spans:
        if joined and joined[-1][1] == here:
            joined[-1] = (joined[-1][0], gone)
        elif here < gone:
            joined.append((here, gone))
    return tuple(joined)
