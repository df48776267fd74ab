"""The kernel's own TCP, through network namespaces that exist only while the rig does.

`programs/rig.c` builds the route and carries the transfers out; here is decided what runs when.
What has no loss is repeated under a real-time policy, its relay spinning before a packet is due, so
that times are exact to some tens of µs; what is short or fast runs alone, the rest a few at a time
beside the lossy cells. What the rest of the way costs is measured with probes first and taken from
the relay's delay. Of the repeats, the half with the most punctual relay counts. Lossy cells sleep
most of the time and run side by side, as many as the machine carries, several seeds in a row in
each rig.

Needs root, gcc, ip and tc. Nothing remains of a rig that is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fidelity.build import (
    NotHereError,
    Runs,
    arguments,
    compiled,
    finished,
    side_by_side,
)
from benchmarks.fidelity.grid import INITIAL_WINDOW, SEGMENT_BYTES, Cell, Hop, queue_bytes
from benchmarks.fidelity.store import Store

SIDE_BY_SIDE = 64
TOGETHER_BPS = 60e6
EXACT_TOGETHER = 4
EXACT_BELOW_S = 0.15
EXACT_FROM_BPS = 50e6
REPEATS = 7
SHORT_REPEATS = 3
SHORT_S = 1.0
CHUNK_S = 40.0
LATE_SHARE = 0.01
PROBED = ((1e6, 0.001), (1e7, 0.001), (1e8, 0.001), (1e9, 0.001))
PROBE_S = 0.9
PROBE_RUNS = 3


@contextmanager
def rig() -> Iterator[Path]:
    """The compiled rig. Raises `NotHereError` when this machine can't run it."""
    if os.geteuid() != 0:
        raise NotHereError("network namespaces need root; run as root (in a container of your own)")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NotHereError(f"there is no {tool}; install iproute2")
    if not Path("/dev/net/tun").exists():
        raise NotHereError("there is no /dev/net/tun; load the module tun")
    with tempfile.TemporaryDirectory() as folder:
        sources = ("rig.c", "relay.c", "traffic.c")
        options = ("-std=gnu17", "-pthread", "-Wall")
        yield compiled(Path(folder) / "rig", "gcc", sources, options, "install gcc")


def measure(cells: Sequence[Cell], seeds: int, store: Store, say: Callable[[str], None]) -> None:
    """Runs the cells and puts their figures into the store."""
    with rig() as program:
        store.settings = _settings(program)
        store.checks = {"rig": [_probe(program, rate, delay_s) for rate, delay_s in PROBED]}
        store.write()
        alone = [cell for cell in cells if not cell.lossy and not _is_slow(cell)]
        slow = [cell for cell in cells if not cell.lossy and _is_slow(cell)]
        lossy = [cell for cell in cells if cell.lossy]
        _measure(program, alone, seeds, store, say, most=1)
        _measure(program, [*slow, *lossy], seeds, store, say, most=SIDE_BY_SIDE)
        again = [cell for cell in (*alone, *slow) if _was_disturbed(store, cell)]
        _measure(program, again, seeds, store, say, most=1)


def repeats(cell: Cell) -> int:
    """How often a cell without loss is repeated, for the machine's own noise."""
    if cell.flows > 1 or cell.cross_bps:
        return REPEATS  # chance of phases, beside the noise
    return REPEATS if cell.ideal_s < SHORT_S else SHORT_REPEATS


def _was_disturbed(store: Store, cell: Cell) -> bool:
    """Whether the relay was late by more than a little of what the transfer took."""
    held = store.cells.get(cell.name)
    return not held or held["late_us"] / 1e6 > LATE_SHARE * max(map(max, held["seconds"])) > 0


def _is_slow(cell: Cell) -> bool:
    return cell.ideal_s > EXACT_BELOW_S and cell.bottleneck_bps < EXACT_FROM_BPS


def _measure(
    program: Path,
    cells: Sequence[Cell],
    seeds: int,
    store: Store,
    say: Callable[[str], None],
    *,
    most: int,
) -> None:
    load = _Load(TOGETHER_BPS)
    jobs = []
    for cell in sorted(cells, key=lambda cell: (cell.lossy, -cell.guess_s)):
        total = cell.seeds(seeds) if cell.lossy else repeats(cell)
        size = max(1, min(total, int(CHUNK_S / cell.guess_s))) if cell.lossy else total
        for first in range(0, total, size):
            count = min(size, total - first)
            jobs.append((cell, partial(_run_within, load, program, cell, 1 + first, count)))
    for cell, found in side_by_side(jobs, most):
        _keep(store, cell, found)
        say(f"kernel {cell.name}")


class _Load:
    """What runs side by side, in bit/s, so that the machine is not what limits it."""

    def __init__(self, most_bps: float) -> None:
        self._left_bps = most_bps
        self._most_bps = most_bps
        self._changed = threading.Condition()

    @contextmanager
    def share(self, asked_bps: float) -> Iterator[None]:
        """Waits until there is room for so much more."""
        bps = min(asked_bps, self._most_bps)
        with self._changed:
            self._changed.wait_for(lambda: self._left_bps >= bps)
            self._left_bps -= bps
        try:
            yield
        finally:
            with self._changed:
                self._left_bps += bps
                self._changed.notify_all()


def _run_within(load: _Load, program: Path, cell: Cell, first_seed: int, runs: int) -> Runs:
    expected_bps = cell.size_bytes * 8 * cell.flows / cell.guess_s + cell.cross_bps
    if not cell.lossy:
        expected_bps = TOGETHER_BPS / EXACT_TOGETHER
    with load.share(expected_bps):
        return _run(program, cell, first_seed, runs, exact=not cell.lossy)


def _run(program: Path, cell: Cell, first_seed: int, runs: int, *, exact: bool) -> Runs:
    """Some runs in a row in one rig; those that did not end in time are missing, and said."""
    each_s = cell.guess_s * 3 + 4 * cell.delay_s + 2
    deadline_s = int(runs * each_s + 20)
    command = [str(program), *arguments(cell, first_seed, runs), "--deadline", str(deadline_s)]
    done = finished([*command, *(["--exact"] if exact else [])], deadline_s + 30)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if len(lines) < runs:
        why = done.stderr.strip() or f"ended with {done.returncode}"
        print(f"kernel {cell.name}: {runs - len(lines)} runs missing: {why}", file=sys.stderr)
    return lines


def _keep(store: Store, cell: Cell, runs: Runs) -> None:
    """Of repeats without loss, the half with the most punctual relay; of lossy runs, all."""
    if not runs:
        store.cells.pop(cell.name, None)
        store.write()
        return
    if not cell.lossy:
        runs = sorted(runs, key=lambda run: run["late_us"])[: (len(runs) + 1) // 2]
    store.put(
        cell.name,
        [run["seconds"] for run in runs],
        retransmitted=round(statistics.mean(run["retransmitted"] for run in runs), 2),
        lost=round(statistics.mean(run["lost"] for run in runs), 2),
        late_us=round(statistics.median(run["late_us"] for run in runs)),
        overflown=sum(run["overflown"] for run in runs),
    )


def _settings(program: Path) -> dict[str, Any]:
    cell = Cell("settings", "", 10_000, (Hop(1e8, 0.001, queue_bytes(1e8, 0.001)),))
    words = [str(program), *arguments(cell, 1, 1), "--settings", "--deadline", "20"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    settings, run = (json.loads(line) for line in done.stdout.splitlines())
    return {
        **settings,
        "segment_bytes": run["mss"],
        "asked_segment_bytes": SEGMENT_BYTES,
        "initial_window": f"{INITIAL_WINDOW} (the kernel's own, TCP_INIT_CWND)",
        "minimum_rto": "200 ms (the kernel's own, TCP_RTO_MIN)",
        "delayed_ack": "2 segments or 40 ms, quick at first (the kernel's own)",
        "nodelay": True,
        "offload": "sender segments in software before the wire (TSO off); no GRO at the receiver",
        "queue": "tbf, drop-tail; burst max(6 frames, 2 ms) but at most half the queue, smoothed "
        "by the relay; limit + burst = queue + one frame",
    }


def _probe(program: Path, rate_bps: float, delay_s: float) -> dict[str, Any]:
    """What the rig does to packets, and to a long transfer, against what was asked of it.

    `rate_error` is of a UDP flood, which near 1 Gbit/s is limited by its sender's processor;
    `transfer_rate_error` of the best of some TCP transfers, slow start included.
    """
    size_bytes = int(rate_bps / 8 * PROBE_S)
    cell = Cell("probe", "", size_bytes, (Hop(rate_bps, delay_s, queue_bytes(rate_bps, delay_s)),))
    words = [str(program), *arguments(cell, 1, PROBE_RUNS), "--probe", "--exact"]
    words += ["--deadline", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=True)
    told, *runs = (json.loads(line) for line in done.stdout.splitlines())
    best_s = min(run["seconds"][0] for run in runs)
    return {
        "asked_bps": rate_bps,
        "asked_delay_s": delay_s,
        **told,
        "transfer_rate_error": round(cell.ideal_s / best_s - 1, 5),
    }
