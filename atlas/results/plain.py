"""Plain lines about a run, for outputs that are no terminal: logs, pipes, CI."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from atlas.results.display import count, show_bytes, show_loss, show_moment, show_seconds
from atlas.results.events import (
    Aggregated,
    Evaluated,
    Event,
    Fault,
    Finished,
    Moved,
    NeighborhoodsFound,
    Refused,
    Registered,
    Repaired,
    Signed,
    Step,
    Suspected,
)
from atlas.results.notes import Note
from atlas.results.searches import Search, Searches
from atlas.results.tally import Tally
from atlas.results.telling import tell
from atlas.results.view import groups_of, losses_by_group


class PlainView:
    """One line for each event worth telling, for logs and pipes.

    A line has the virtual time and a sentence. Always told are the neighborhoods, the beginning
    of each fault, the scores, and the rounds (each as long as they are few, later some of them).
    Repairs, clients that come back and ends of faults have `most_lines` lines; what was tried
    before a repair (a search, told as one) and hosts that change without a loss have a quarter of
    that beside them. The rest is left to `metrics.jsonl`.
    """

    def __init__(
        self,
        console: Console,
        *,
        most_lines: int = 40,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._clock = clock
        self._left = most_lines
        self._left_of_minor = most_lines // 4
        self._tally = Tally()
        self._searches = Searches()
        self._truth: Mapping[str, str] = {}
        self._steps = 0
        self._told_rounds: set[int] = set()
        self._devices_told = False
        self._began = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for search in self._searches.end():
            self._search(self._tally.time_s, search)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._print(f"interrupted after {show_seconds(self._clock() - self._began)}")

    def expect(self, *, steps: int, truth: Mapping[str, str]) -> None:
        self._steps, self._truth = steps, dict(truth)

    def say(self, text: str) -> None:
        self._print(text)

    def note(self, note: Note) -> None:
        event = self._tally.add(note)
        starts = not isinstance(event, Registered | Signed | Fault | Evaluated)
        if starts and self._tally.devices and not self._devices_told:
            self._devices_told = True
            self._line(note.time_s, f"{count(len(self._tally.devices), 'device')} registered")
        for search in self._searches.add(note.time_s, event):
            # A repair says itself which host was lost.
            if not (isinstance(event, Repaired) and search.hosts == {event.lost}):
                self._search(note.time_s, search)
        if isinstance(event, Aggregated):
            self._round(note, event)
        elif not isinstance(event, Suspected | Refused | Step):
            self._event(note.time_s, event)

    def _event(self, time_s: float, event: Event | None) -> None:
        sentence = tell(event)
        if sentence is None:
            return
        if isinstance(event, Moved):
            self._minor(time_s, sentence.text)
        elif _is_always_told(event):
            self._line(time_s, sentence.text)
        elif self._left > 0:
            self._line(time_s, sentence.text)
            self._left -= 1
            if self._left == 0:
                self._line(time_s, "further repairs are in metrics.jsonl; faults are told on")

    def _search(self, time_s: float, search: Search) -> None:
        self._minor(time_s, search.sentence().text)

    def _minor(self, time_s: float, text: str) -> None:
        if self._left_of_minor > 0:
            self._line(time_s, text)
            self._left_of_minor -= 1
            if self._left_of_minor == 0:
                self._line(time_s, "further searches for hosts are in metrics.jsonl")

    def _round(self, note: Note, event: Aggregated) -> None:
        """Tell a round when its first neighborhood has combined; the later, the fewer of them."""
        if event.round in self._told_rounds:
            return
        self._told_rounds.add(event.round)
        told = len(self._told_rounds)
        if told % 2 ** max(0, (told - 1).bit_length() - 3):
            return
        latest = {
            group: list(losses.values())[-1]
            for group, losses in losses_by_group(
                self._tally, groups_of(self._tally, self._truth)
            ).items()
        }
        losses = ", ".join(f"{group} {show_loss(loss)}" for group, loss in list(latest.items())[:6])
        of = f" of {self._steps:,}" if self._steps else ""
        self._line(
            note.time_s,
            f"round {event.round}: {self._tally.steps:,}{of} steps, {show_bytes(note.bytes_total)}"
            + (f"; loss: {losses}" if losses else ""),
        )

    def _line(self, time_s: float, text: str) -> None:
        self._print(f"{show_moment(time_s):>8}  {text}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def _is_always_told(event: Event | None) -> bool:
    begins = isinstance(event, Fault) and event.phase == "begin"
    return begins or isinstance(event, NeighborhoodsFound | Evaluated | Finished)
