"""How near the emulated network comes to the kernel's TCP, to ns-3 and to SimGrid.

    python benchmarks/fidelity.py                # measures all (root, gcc, g++, ns-3, SimGrid)
    python benchmarks/fidelity.py --only ours    # ours against the figures that are kept
    python benchmarks/fidelity.py --backends ours ns3 --cells 'loss/1MB-*' --seeds 200
    python benchmarks/fidelity.py --table                # the result as Markdown

The same grid of TCP transfers (`fidelity/grid.py`) through each of them; figures are completion
times. Raw times are kept in `fidelity/references/`, a file for each stack, so that the slow ones
need not be measured again when the model changes; `benchmarks/results/fidelity.json` has settings,
figures, errors and their summary. What this machine lacks is said, and the rest is done.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.fidelity import figures, kernel, ns3, ours, report, simgrid  # noqa: E402
from benchmarks.fidelity.build import NotHereError  # noqa: E402
from benchmarks.fidelity.grid import CELLS, Cell, select  # noqa: E402
from benchmarks.fidelity.store import Store  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "fidelity.json"
SEEDS = 100
Measure = Callable[[Sequence[Cell], int, Store, Callable[[str], None]], None]
BACKENDS: dict[str, Measure] = {
    "ns3": ns3.measure,
    "kernel": kernel.measure,
    "simgrid": simgrid.measure,
    "ours": ours.measure,
}


def main() -> None:
    """Measures what is asked for, compares it with what is kept, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--only", choices=BACKENDS, help="the same as --backends with one")
    parser.add_argument("--cells", nargs="+", default=[], metavar="PATTERN", help="as in a shell")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of a lossy cell of 1 MB or more")
    parser.add_argument("--new", action="store_true", help="only cells that have no figures yet")
    parser.add_argument("--table", action="store_true", help="print the result, measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(report.tables(json.loads(RESULT.read_text())))
        return
    cells = select(arguments.cells)
    if not cells:
        parser.error(f"no cell matches {' '.join(arguments.cells)}")
    if arguments.seeds < 2:
        parser.error("a mean needs two seeds or more")
    began = time.perf_counter()
    missing = {}
    for name in [arguments.only] if arguments.only else arguments.backends:
        store = Store.open(name)
        chosen = [cell for cell in cells if not (arguments.new and cell.name in store.cells)]
        try:
            if chosen:
                BACKENDS[name](chosen, arguments.seeds, store, _sayer(began))
        except NotHereError as reason:
            missing[name] = str(reason)
            print(f"{name}: {reason}; going on with the others", file=sys.stderr)
    _write(missing)


def _sayer(began: float) -> Callable[[str], None]:
    return lambda text: print(f"{time.perf_counter() - began:6.0f} s  {text}", flush=True)


def _write(missing: dict[str, str]) -> None:
    stores = {name: Store.open(name) for name in BACKENDS}
    rows = figures.compare(CELLS, stores)
    result: dict[str, Any] = {
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "missing": missing,
        "settings": {name: store.settings for name, store in stores.items()},
        "checks": {name: store.checks for name, store in stores.items()},
        "goals": {
            "without loss": "median <= 5 %, p95 <= 15 %",
            "with loss": "of means over seeds: median <= 10 %, p90 <= 20 %",
        },
        "summary": figures.summarize(rows),
        "cells": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(report.tables({**result, "cells": []}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("broken off; what was measured is kept, and --new goes on with the rest")
