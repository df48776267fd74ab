"""Runs the cells of a comparison, as many side by side as there are cores.

Each is a process of its own, forked from one that has imported what all need; whatever ends it ends
no other. What is finished is not run again, and a run that failed is told and tried again the next
time. Cells of one seed share a journal (see `atlas.journal`): where two recipes or conditions train
alike, as under another scenario, what was computed once is found. It is taken away when all of the
seed's cells are finished, unless it is to be kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

from atlas.comparison.cells import Cell, Folder
from atlas.comparison.figures import Row, figures, in_order, read_figures, write_figures
from atlas.results.notes import Note
from topologies import InputError

Tell = Callable[[str], None]
JOURNALS = "journals"


class Quiet:
    """A view of a run that nobody looks at; it keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.truth: Mapping[str, str] = {}

    def expect(self, *, steps: int, truth: Mapping[str, str]) -> None:
        """As views have it."""
        del steps
        self.truth = truth

    def say(self, text: str) -> None:
        """As views have it."""

    def note(self, note: Note) -> None:
        """As views have it."""
        self.notes.append(note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def run_cells(
    cells: Sequence[Cell], out: Path, *, jobs: int, tell: Tell, keep_journals: bool = False
) -> list[Row]:
    """Runs what is not there yet, `jobs` at a time, and gives the rows of all.

    `tell` is told what happens, a sentence at a time. Raises KeyboardInterrupt when it is broken
    off; what is finished by then is kept. Raises InputError where another comparison is at work in
    the folder.
    """
    waiting = [cell for cell in cells if not cell.folder(out).rows.exists()]
    if len(waiting) < len(cells):
        tell(f"{len(cells) - len(waiting)} of {len(cells)} runs are there already")
    under_way: dict[int, tuple[Cell, BaseProcess, float]] = {}
    took: list[float] = []
    done = len(cells) - len(waiting)
    context = get_context("forkserver")
    context.set_forkserver_preload(["atlas.experiment"])
    with _taken(out), _ended(under_way):
        while waiting or under_way:
            while waiting and len(under_way) < jobs:
                cell = waiting.pop(0)
                process: BaseProcess = context.Process(
                    target=work, args=(cell, out, dict(os.environ))
                )
                process.start()
                under_way[process.sentinel] = cell, process, time.monotonic()
            for sentinel in wait(list(under_way)):
                assert isinstance(sentinel, int)
                cell, ended, since = under_way.pop(sentinel)
                ended.join()
                took.append(time.monotonic() - since)
                done += 1
                left_s = sum(took) / len(took) * (len(waiting) + len(under_way) / 2) / jobs
                tell(_told(cell, out, ended.exitcode, f"{done} of {len(cells)}", left_s))
                if not keep_journals:
                    _forget(cells, cell.seed, out)
    for seed in () if keep_journals else {cell.seed for cell in cells}:
        _forget(cells, seed, out)
    return rows_of(cells, out)


def rows_of(cells: Sequence[Cell], out: Path) -> list[Row]:
    """The rows of these cells; of one that is not finished a row that says so."""
    rows = []
    for cell in cells:
        file = cell.folder(out).rows
        found = read_figures(file) if file.exists() else [("", "", "failed", 1.0)]
        found.append(("", "", "learning_rate", cell.config.training.learning_rate))
        rows += [Row(cell.recipe, cell.condition, cell.seed, *figure) for figure in found]
    return in_order(rows)


def failures(cells: Sequence[Cell], out: Path) -> dict[str, str]:
    """By cell, why it failed."""
    found = {}
    for cell in cells:
        folder = cell.folder(out)
        if not folder.rows.exists():
            with contextlib.suppress(FileNotFoundError):
                found[str(cell)] = folder.failure.read_text(encoding="utf-8").splitlines()[0]
            found.setdefault(str(cell), "it was not run")
    return found


def work(cell: Cell, out: Path, environment: Mapping[str, str]) -> None:
    """One cell, in a process of its own, from nothing to its figures."""
    os.environ |= environment
    from atlas import assets, experiment  # noqa: PLC0415 - needs the learning system
    from broker import BrokerError  # noqa: PLC0415 - as above

    assets.forbid_hub()
    folder = cell.folder(out)
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    _say_to(folder.path / "output.txt")
    view = Quiet()
    try:
        summary = experiment.run(
            cell.config,
            folder.run,
            view=view,
            checkpoint="none",
            journal=_journal(out, cell.seed),
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (InputError, BrokerError) as error:
        _fail(folder, _reason(error), traceback.format_exc())
    except Exception as error:
        _fail(folder, repr(error), traceback.format_exc())
    write_figures(folder.rows, figures(summary, view.notes, view.truth))


def _say_to(file: Path) -> None:
    """What this process prints goes there."""
    with file.open("w") as opened:
        for stream in (1, 2):
            os.dup2(opened.fileno(), stream)


def _fail(folder: Folder, reason: str, trace: str) -> None:
    folder.failure.write_text(f"{reason}\n\n{trace}", encoding="utf-8")
    raise SystemExit(1)


def _reason(error: BaseException) -> str:
    """What is to be told of an error, in a line: the bad input behind it, if that is what it is."""
    lines = str(error).splitlines() or [repr(error)]
    meant = [line.split("Error: ", 1)[1] for line in lines if "InputError: " in line]
    return meant[-1] if meant else lines[0]


def _told(cell: Cell, out: Path, status: int | None, count: str, left_s: float) -> str:
    what = "done" if cell.folder(out).rows.exists() else "FAILED"
    if what == "FAILED":
        reason = failures([cell], out)[str(cell)]
        what += f": {reason}" if status == 1 else f": it ended with {status}"
    left = f", about {_duration(left_s)} left" if left_s > 0 else ""
    return f"{count}{left} - {cell}: {what}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _journal(out: Path, seed: int) -> Path:
    return out / JOURNALS / f"seed-{seed}"


def _forget(cells: Sequence[Cell], seed: int, out: Path) -> None:
    """Takes a seed's journal away, once all of its cells are finished."""
    if all(cell.folder(out).rows.exists() for cell in cells if cell.seed == seed):
        shutil.rmtree(_journal(out, seed), ignore_errors=True)


@contextlib.contextmanager
def _taken(out: Path) -> Iterator[None]:
    """Holds the folder, as long as this process lives, against others that would write to it."""
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            "another comparison is at work in this folder",
            file=str(out),
            remedy="Wait until it has ended, or name another folder",
        ) from None
    else:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _ended(under_way: Mapping[int, tuple[Cell, BaseProcess, float]]) -> Iterator[None]:
    """Whatever ends this ends the processes too."""
    try:
        yield
    finally:
        for _, process, _ in under_way.values():
            process.terminate()
        for _, process, _ in under_way.values():
            process.join()
