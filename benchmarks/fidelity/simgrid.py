"""SimGrid 3.32, as Debian has it: the lossless cells, in three settings of its network model.

It has no loss, no queue and no slow start by itself; its default model (LV08) covers the last with
a factor of 13.01 on latency, and caps each flow at TCP-gamma ÷ (2 · latency). Which Python has its
module is found by asking.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.fidelity.build import PROGRAMS, NotHereError
from benchmarks.fidelity.grid import Cell
from benchmarks.fidelity.store import Store

MODELS = {
    "default": (),
    "without TCP-gamma": ("--cfg=network/TCP-gamma:0",),
    "CM02": ("--cfg=network/model:CM02",),
}
TIMEOUT_S = 120


def interpreter() -> str:
    """The Python that has the module. Raises `NotHereError` when none has."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/bin/python3.11"):
        if shutil.which(python) is None:
            continue
        tried = subprocess.run(
            [python, "-c", "import simgrid"], capture_output=True, timeout=TIMEOUT_S, check=False
        )
        if not tried.returncode:
            return python
    raise NotHereError("no Python here has SimGrid's module; install python3-simgrid")


def measure(cells: Sequence[Cell], seeds: int, store: Store, say: Callable[[str], None]) -> None:
    """Runs the cells without loss and puts their figures into the store; `seeds` decide nothing."""
    del seeds
    python = interpreter()
    models = {name: list(options) for name, options in MODELS.items()}
    store.settings = {"SimGrid": "3.32", "models": models}
    jobs = [(cell, model) for cell in cells if not cell.lossy for model in MODELS]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        took = pool.map(lambda job: _run(python, *job), jobs)
        for (cell, model), seconds in zip(jobs, took, strict=True):
            store.put(f"{cell.name} ({model})", [seconds], write=False)
    store.write()
    say(f"simgrid: {len(jobs)} runs")


def _run(python: str, cell: Cell, model: str) -> list[float]:
    words = json.dumps(
        {
            "size_bytes": cell.size_bytes,
            "flows": cell.flows,
            "cross_bps": cell.cross_bps,
            "hops": [[hop.bandwidth_bps, hop.delay_s] for hop in cell.hops],
        }
    )
    program = PROGRAMS / "messages.py"
    done = subprocess.run(
        [python, str(program), words, *MODELS[model]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"SimGrid, {cell.name}: {done.stderr[-500:]}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds
