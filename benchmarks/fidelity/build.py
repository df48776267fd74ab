"""Compiles the C and C++ programs beside this file, and runs them under a deadline.

What runs is known, so that a measurement that is broken off leaves nothing running.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fidelity.grid import Cell

PROGRAMS = Path(__file__).parent / "programs"
COMPILE_TIMEOUT_S = 300


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


def kill_all() -> None:
    """Ends every program that `finished` is waiting for, in whatever thread."""
    for program in tuple(_running):
        program.kill()


def arguments(cell: Cell, first_seed: int, runs: int) -> list[str]:
    """A cell as both programs understand it."""
    words = ["--size", str(cell.size_bytes), "--flows", str(cell.flows), "--law", cell.law]
    words += ["--cross", f"{cell.cross_bps:.0f}", "--seed", str(first_seed), "--runs", str(runs)]
    for hop in cell.hops:
        delay_ns = round(hop.delay_s * 1e9)
        words += ["--hop", f"{hop.bandwidth_bps:.0f},{delay_ns},{hop.queue_bytes},{hop.loss:.6g}"]
    return words
