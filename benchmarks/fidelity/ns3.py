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
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fidelity.build import arguments, compiled, finished, kill_all
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
    with simulator() as program, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        store.settings = {
            "ns-3": "3.37",
            **_run(program, [*arguments(cells[0], 1, 0), "--settings"])[0],
            "queue": "DropTailQueue in bytes, no queueing discipline on top",
            "RTO": "SRTT + max(4 RTTVAR, 200 ms), as Linux",
            "link": "point-to-point, rate scaled by 1502/1514 for its shorter header",
        }
        jobs = {}
        left: dict[str, int] = {}
        found: dict[str, list[dict[str, Any]]] = {cell.name: [] for cell in cells}
        for cell in sorted(cells, key=lambda cell: cell.lossy):
            total = runs(cell, seeds)
            for first in range(0, total, CHUNK):
                words = arguments(cell, 1 + first, min(CHUNK, total - first))
                jobs[pool.submit(_run, program, words)] = cell
                left[cell.name] = left.get(cell.name, 0) + 1
        try:
            for job in as_completed(jobs):
                cell = jobs[job]
                found[cell.name] += job.result()
                left[cell.name] -= 1
                if not left[cell.name]:
                    _keep(store, cell, found[cell.name])
                    say(f"ns3 {cell.name}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kill_all()
            raise


def runs(cell: Cell, seeds: int) -> int:
    """How many seeds a cell gets."""
    if cell.lossy:
        return cell.seeds(seeds)
    return PHASES if cell.flows > 1 or cell.cross_bps else 1


def _run(program: Path, words: Sequence[str]) -> list[dict[str, Any]]:
    done = finished([str(program), *words], TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"ns-3 ended with {done.returncode}: {done.stderr[-1000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _keep(store: Store, cell: Cell, found: list[dict[str, Any]]) -> None:
    found.sort(key=lambda run: run["seed"])
    ended = [run["seconds"] for run in found if min(run["seconds"]) > 0]
    if len(ended) < len(found):
        print(f"ns3 {cell.name}: {len(found) - len(ended)} runs never ended", file=sys.stderr)
    store.put(cell.name, ended)
