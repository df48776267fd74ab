"""Compiles the C and C++ programs beside this file, into a folder of the caller's."""

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


def arguments(cell: Cell, first_seed: int, runs: int) -> list[str]:
    """A cell as both programs understand it."""
    words = ["--size", str(cell.size_bytes), "--flows", str(cell.flows), "--law", cell.law]
    words += ["--cross", f"{cell.cross_bps:.0f}", "--seed", str(first_seed), "--runs", str(runs)]
    for hop in cell.hops:
        delay_ns = round(hop.delay_s * 1e9)
        words += ["--hop", f"{hop.bandwidth_bps:.0f},{delay_ns},{hop.queue_bytes},{hop.loss:.6g}"]
    return words
