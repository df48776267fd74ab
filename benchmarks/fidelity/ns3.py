"""ns-3 3.37, as Debian has it: `programs/transfer.cc`, compiled against its libraries.

Deterministic in the seed. A cell without loss and with one flow needs one run; with several flows
or cross traffic the phases between the senders are drawn, so a few runs are made.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.fidelity.build import Runs, arguments, compiled, finished, side_by_side
from benchmarks.fidelity.grid import Cell
from benchmarks.fidelity.store import Store

LIBRARIES = ("core", "network", "internet", "point-to-point", "traffic-control")
PHASES = 5
CHUNK = 50
TIMEOUT_S = 600


@contextmanager
def simulator() -> Iterator[Path]:
    """The compiled program. Raises `NotHereError` without g++ or without ns-3's libraries."""
    options = ["-std=c++17", *(f"-lns3-{library}" for library in LIBRARIES)]
    remedy = "install g++ and libns3-dev (3.37)"
    with tempfile.TemporaryDirectory() as folder:
        sources = ("transfer.cc", "cubic.cc")
        yield compiled(Path(folder) / "transfer", "g++", sources, options, remedy)


def measure(cells: Sequence[Cell], seeds: int, store: Store, say: Callable[[str], None]) -> None:
    """Runs the cells and puts their figures into the store."""
    with simulator() as program:
        store.settings = {
            "ns-3": "3.37",
            **_run(program, [*arguments(cells[0], 1, 0), "--settings"])[0],
            "queue": "DropTailQueue in bytes, no queueing discipline on top",
            "RTO": "SRTT + max(4 RTTVAR, 200 ms), as Linux",
            "link": "point-to-point, rate scaled by 1502/1514 for its shorter header",
        }
        jobs = [
            (cell, partial(_run, program, words))
            for cell in sorted(cells, key=lambda cell: cell.lossy)
            for words in _chunks(cell, runs(cell, seeds))
        ]
        for cell, found in side_by_side(jobs, os.cpu_count() or 1):
            _keep(store, cell, found)
            say(f"ns3 {cell.name}")


def runs(cell: Cell, seeds: int) -> int:
    """How many seeds a cell gets."""
    if cell.lossy:
        return cell.seeds(seeds)
    return PHASES if cell.flows > 1 or cell.cross_bps else 1


def _chunks(cell: Cell, total: int) -> Iterator[list[str]]:
    for first in range(0, total, CHUNK):
        yield arguments(cell, 1 + first, min(CHUNK, total - first))


def _run(program: Path, words: Sequence[str]) -> Runs:
    done = finished([str(program), *words], TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"ns-3 ended with {done.returncode}: {done.stderr[-1000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _keep(store: Store, cell: Cell, found: Runs) -> None:
    ended = [run["seconds"] for run in found if min(run["seconds"]) > 0]
    if len(ended) < len(found):
        print(f"ns3 {cell.name}: {len(found) - len(ended)} runs never ended", file=sys.stderr)
    store.put(cell.name, ended)
