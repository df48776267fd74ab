"""Compiles the C and C++ programs beside this file, and runs them, side by side, under a deadline.

What runs is known, so that a measurement that is broken off leaves nothing running.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.fidelity.grid import Cell

PROGRAMS = Path(__file__).parent / "programs"
COMPILE_TIMEOUT_S = 300

Runs = list[dict[str, Any]]
"""What the runs of a cell gave, each with its seed."""


class NotHereError(Exception):
    """This machine lacks what a stack needs; the text says what."""


def compiled(
    program: Path, compiler: str, sources: Sequence[str], options: Sequence[str], remedy: str
) -> Path:
    """Compiles `sources` (names in programs/) to `program`.

    Raises `NotHereError` with the remedy when there is no compiler, or when it refuses.
    """
    if shutil.which(compiler) is None:
        raise NotHereError(f"there is no {compiler}; {remedy}")
    command = [compiler, "-O2", *(str(PROGRAMS / name) for name in sources), "-o", str(program)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise NotHereError(f"{compiler} refused {sources[0]}; {remedy}\n{done.stderr[-2000:]}")
    return program


_running: set[subprocess.Popen[str]] = set()


def finished(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; kills it after the time given, and raises ``TimeoutExpired``."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        _running.add(program)
        try:
            output, errors = program.communicate(timeout=timeout_s)
        except BaseException:
            program.kill()
            raise
        finally:
            _running.discard(program)
    return subprocess.CompletedProcess(list(command), program.returncode, output, errors)


def side_by_side(
    jobs: Iterable[tuple[Cell, Callable[[], Runs]]], most: int
) -> Iterator[tuple[Cell, Runs]]:
    """Does jobs in so many threads; gives each cell with its runs, in the order of their seeds, as
    soon as its jobs are done. What ends this early ends all programs that `finished` waits for.
    """
    with ThreadPoolExecutor(most) as pool:
        cells = {pool.submit(job): cell for cell, job in jobs}
        left = Counter(cell.name for cell in cells.values())
        found: dict[str, Runs] = {name: [] for name in left}
        try:
            for job in as_completed(cells):
                cell = cells[job]
                found[cell.name] += job.result()
                left[cell.name] -= 1
                if not left[cell.name]:
                    yield cell, sorted(found[cell.name], key=lambda run: run["seed"])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for program in tuple(_running):
                program.kill()
            raise


def arguments(cell: Cell, first_seed: int, runs: int) -> list[str]:
    """A cell as both programs understand it."""
    words = ["--size", str(cell.size_bytes), "--flows", str(cell.flows), "--law", cell.law]
    words += ["--cross", f"{cell.cross_bps:.0f}", "--seed", str(first_seed), "--runs", str(runs)]
    for hop in cell.hops:
        delay_ns = round(hop.delay_s * 1e9)
        words += ["--hop", f"{hop.bandwidth_bps:.0f},{delay_ns},{hop.queue_bytes},{hop.loss:.6g}"]
    return words
