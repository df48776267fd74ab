"""SimGrid 3.32, as Debian has it: the lossless cells, in three settings of its network model.

It has no loss, no queue and no slow start by itself; its default model (LV08) covers the last with
a factor of 13.01 on latency, and caps each flow at TCP-gamma ÷ (2 · latency). Which Python has its
module is found by asking.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks.fidelity.build import PROGRAMS, NotHereError
from benchmarks.fidelity.grid import Cell
from benchmarks.fidelity.store import Store

MODELS = {
    "default": (),
    "without TCP-gamma": ("--cfg=network/TCP-gamma:0",),
    "CM02": ("--cfg=network/model:CM02",),
}
TIMEOUT_S = 300


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
    lossless = [cell for cell in cells if not cell.lossy]
    for model in MODELS:
        took = _run(python, lossless, model)
        for cell, seconds in zip(lossless, took, strict=True):
            store.put(f"{cell.name} ({model})", [seconds], write=False)
        say(f"simgrid {model}: {len(lossless)} cells")
    store.write()


def _run(python: str, cells: Sequence[Cell], model: str) -> list[list[float]]:
    lines = [
        json.dumps(
            {
                "size_bytes": cell.size_bytes,
                "flows": cell.flows,
                "cross_bps": cell.cross_bps,
                "hops": [[hop.bandwidth_bps, hop.delay_s] for hop in cell.hops],
            }
        )
        for cell in cells
    ]
    done = subprocess.run(
        [python, str(PROGRAMS / "messages.py"), *MODELS[model]],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"SimGrid ended with {done.returncode}: {done.stderr[-500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
