"""The live view of a run, for a terminal; `open_view` chooses between it and plain lines.

At the top the clocks, the bytes and how far the run is, with an estimate of the time left; below
it the losses of the tasks and the last events in words. The picture is drawn by another thread
several times a second, so what notes change and what the picture reads is under one lock. When the
view is left, by Ctrl-C too, the last picture stays on the screen.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from atlas.results.display import show_bytes, show_loss, show_moment, show_seconds
from atlas.results.events import Aggregated, Evaluated, Step
from atlas.results.notes import Note
from atlas.results.plain import PlainView
from atlas.results.tally import Tally
from atlas.results.telling import Sentence, tell
from atlas.results.view import View, groups_of, losses_by_group

EVENTS_SHOWN = 6
GROUPS_SHOWN = 12
BARS = "▁▂▃▄▅▆▇█"
STYLES = {"trouble": "red", "doubt": "yellow", "mended": "green", "plain": "default"}


def open_view(console: Console | None = None) -> View:
    """The view that suits the output: live on a terminal, plain lines elsewhere."""
    console = console or Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console)
    return PlainView(console)


class LiveView:
    """A picture of the run that changes in place."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._tally = Tally()
        self._truth: Mapping[str, str] = {}
        self._steps = 0
        self._round: int | None = None
        self._phase = "starting"
        self._spinner = Spinner("dots", style="cyan")
        self._events: deque[tuple[float, Sentence]] = deque(maxlen=EVENTS_SHOWN)
        self._began = clock()
        self._training_since: float | None = None
        self._live = Live(
            console=console, get_renderable=self.picture, refresh_per_second=4, transient=False
        )

    def __enter__(self) -> Self:
        self._began = self._clock()
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if kind is None:
                self._phase = ""
            else:
                self._phase = (
                    "interrupted" if issubclass(kind, KeyboardInterrupt) else "ended by an error"
                )
        self._live.stop()

    def expect(self, *, steps: int, truth: Mapping[str, str]) -> None:
        with self._lock:
            self._steps, self._truth = steps, dict(truth)

    def say(self, text: str) -> None:
        with self._lock:
            self._phase = text

    def note(self, note: Note) -> None:
        with self._lock:
            event = self._tally.add(note)
            if isinstance(event, Step):
                self._training_since = self._training_since or self._clock()
                self._round = max(event.round, self._round or 0)
                self._phase = "training"
            elif not isinstance(event, Aggregated | Evaluated):
                sentence = tell(event)
                if sentence is not None:
                    self._events.append((note.time_s, sentence))

    def picture(self) -> RenderableType:
        """What the screen shows now."""
        with self._lock:
            parts: list[RenderableType] = [self._header()]
            if self._steps:
                parts.append(self._progress())
            if self._tally.losses:
                parts.append(self._losses())
            if self._events:
                parts.append(self._last_events())
            return Panel(Group(*parts), title="ATLAS", title_align="left", border_style="dim")

    def _header(self) -> RenderableType:
        facts = [
            ("virtual", show_moment(self._tally.time_s)),
            ("real", show_seconds(self._clock() - self._began)),
            ("sent", show_bytes(self._tally.bytes_total)),
            ("deaths", str(self._tally.deaths)),
            ("repairs", str(self._tally.repairings)),
            ("fallbacks", str(self._tally.fallbacks)),
        ]
        if self._round is not None:
            facts.insert(0, ("round", str(self._round)))
        line = Text()
        for name, value in facts:
            line.append(f"{name} ", style="dim").append(f"{value}   ", style="bold")
        if not self._phase:
            return line
        self._spinner.update(text=Text(self._phase))
        return (
            Group(self._spinner, line) if self._phase_goes_on() else Group(Text(self._phase), line)
        )

    def _phase_goes_on(self) -> bool:
        return self._phase not in ("interrupted", "ended by an error")

    def _progress(self) -> RenderableType:
        done = min(self._tally.steps, self._steps)
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(total=self._steps, completed=done, width=32),
            Text(f"{done:,} of {self._steps:,} steps"),
            Text(self._estimate(done), style="dim"),
        )
        return row

    def _estimate(self, done: int) -> str:
        if self._training_since is None or not 0 < done < self._steps:
            return ""
        elapsed = self._clock() - self._training_since
        if done < 2 or elapsed <= 0:
            return ""
        return f"about {show_seconds(elapsed / done * (self._steps - done))} left"

    def _losses(self) -> RenderableType:
        groups = groups_of(self._tally, self._truth)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("task" if self._truth else "neighborhood")
        table.add_column("first loss", justify="right")
        table.add_column("now", justify="right")
        table.add_column("course")
        losses = losses_by_group(self._tally, groups)
        for group in list(losses)[:GROUPS_SHOWN]:
            course = list(losses[group].values())
            table.add_row(
                Text(group),
                show_loss(course[0]),
                Text(show_loss(course[-1]), style="bold"),
                Text(sparkline(course, 24), style="cyan"),
            )
        if len(losses) > GROUPS_SHOWN:
            table.add_row(Text(f"and {len(losses) - GROUPS_SHOWN} more", style="dim"))
        return Group(Text(""), table)

    def _last_events(self) -> RenderableType:
        table = Table.grid(padding=(0, 2, 0, 0))
        for time_s, sentence in self._events:
            table.add_row(
                Text(show_moment(time_s), style="dim", justify="right"),
                Text(sentence.text, style=STYLES[sentence.tone], overflow="ellipsis", no_wrap=True),
            )
        return Group(Text(""), table)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of some values as at most `width` bars from 0 to the largest; each is a mean."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    length = min(width, len(known))
    edges = [index * len(known) // length for index in range(length + 1)]
    means = [sum(known[start:end]) / (end - start) for start, end in pairwise(edges)]
    top = max(means)
    if top <= 0:
        return BARS[0] * length
    return "".join(BARS[round(max(0.0, mean) / top * (len(BARS) - 1))] for mean in means)
