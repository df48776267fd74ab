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
    Registered,
    Step,
    Suspected,
)
from atlas.results.notes import Note
from atlas.results.tally import Tally
from atlas.results.telling import tell
from atlas.results.view import groups_of, losses_by_group


class PlainView:
    """One line for each event worth telling, for logs and pipes.

    A line has the virtual time and a sentence. Rounds are one line each as long as there are few
    of them; after `most_lines` sentences only rounds are told, and the rest is left to
    `metrics.jsonl`.
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
        self._tally = Tally()
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
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._print(f"interrupted after {show_seconds(self._clock() - self._began)}")

    def expect(self, *, steps: int, truth: Mapping[str, str]) -> None:
        self._steps, self._truth = steps, dict(truth)

    def say(self, text: str) -> None:
        self._print(text)

    def note(self, note: Note) -> None:
        event = self._tally.add(note)
        starts = not isinstance(event, Registered | Fault | Evaluated)
        if starts and self._tally.devices and not self._devices_told:
            self._devices_told = True
            self._line(note, f"{count(len(self._tally.devices), 'device')} registered")
        if isinstance(event, Aggregated):
            self._round(note, event)
        elif not isinstance(event, Suspected | Step):
            self._event(note, event)

    def _event(self, note: Note, event: Event | None) -> None:
        sentence = tell(event)
        if sentence is None:
            return
        if isinstance(event, Finished):
            self._line(note, sentence.text)
        elif self._left > 0:
            self._line(note, sentence.text)
            self._left -= 1
            if self._left == 0:
                self._line(note, "further events are in metrics.jsonl; rounds are told on")

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
            note,
            f"round {event.round}: {self._tally.steps:,}{of} steps, {show_bytes(note.bytes_total)}"
            + (f"; loss: {losses}" if losses else ""),
        )

    def _line(self, note: Note, text: str) -> None:
        self._print(f"{show_moment(note.time_s):>8}  {text}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
