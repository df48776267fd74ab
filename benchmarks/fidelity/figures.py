"""From raw times to what is compared: a figure for each cell and stack, errors, and their summary.

A cell's figure is a mean over its flows; then without loss the median over repeats, with loss the
mean over seeds, which has a standard error. An error is ours ÷ reference - 1. The summary of a
condition has the median of the errors' sizes, and their 95th percentile without loss, or their 90th
with loss. 1 Gbit/s counts against the kernel only where the rig was shown to carry it, or where the
rate decides next to nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.fidelity.grid import GIGA, Cell
from benchmarks.fidelity.store import Store

GOALS = {False: (0.05, 0.95, 0.15), True: (0.10, 0.90, 0.20)}
CARRIED_WITHIN = 0.05  # slow start included
RATE_DECIDES_FROM = 0.05


@dataclass(frozen=True)
class Figure:
    """The completion time of a cell in one stack: seconds, standard error (lossy), and runs."""

    seconds: float
    error_s: float
    runs: int


def figure(cell: Cell, runs: Sequence[Sequence[float]]) -> Figure:
    """What the runs come to."""
    each = [statistics.fmean(run) for run in runs]
    if not cell.lossy:
        return Figure(statistics.median(each), 0.0, len(each))
    spread = statistics.stdev(each) if len(each) > 1 else math.nan
    return Figure(statistics.fmean(each), spread / math.sqrt(len(each)), len(each))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def is_carried(cell: Cell, kernel: Store, took_s: float) -> bool:
    """Whether the rig was shown to carry this cell's rate, or the rate decides next to nothing."""
    if cell.bottleneck_bps < GIGA or (cell.ideal_s - cell.delay_s) < RATE_DECIDES_FROM * took_s:
        return True
    carried = [
        probe["transfer_rate_error"]
        for probe in kernel.checks.get("rig", ())
        if probe["asked_bps"] >= cell.bottleneck_bps
    ]
    return bool(carried) and max(abs(error) for error in carried) <= CARRIED_WITHIN


def compare(cells: Sequence[Cell], stores: Mapping[str, Store]) -> list[dict[str, Any]]:
    """A row for each cell that any stack has: figures and relative errors."""
    rows = []
    for cell in cells:
        found = {
            backend: figure(cell, held["seconds"])
            for backend, store in stores.items()
            if (held := store.cells.get(cell.name)) and held["seconds"]
        }
        simgrid = {
            name[len(cell.name) + 2 : -1]: figure(cell, held["seconds"]).seconds
            for name, held in (stores["simgrid"].cells if "simgrid" in stores else {}).items()
            if name.startswith(f"{cell.name} (")
        }
        if not found and not simgrid:
            continue
        counts = "kernel" not in found or is_carried(
            cell, stores["kernel"], found["kernel"].seconds
        )
        row: dict[str, Any] = {"cell": cell.name, "condition": cell.condition, "lossy": cell.lossy}
        for backend, known in found.items():
            row[backend] = {"seconds": _short(known.seconds), "runs": known.runs}
            if cell.lossy:
                row[backend]["standard_error_s"] = _short(known.error_s)
        row["simgrid"] = {model: _short(seconds) for model, seconds in simgrid.items()}
        row["errors"] = _errors(found, counts=counts)
        for model, seconds in simgrid.items():
            reference = found.get("kernel") if counts else found.get("ns3")
            if reference:
                row["errors"][f"simgrid {model}/kernel"] = _short(seconds / reference.seconds - 1)
        rows.append(row)
    return rows


def _errors(found: Mapping[str, Figure], *, counts: bool) -> dict[str, float]:
    errors = {}
    for one, other in (("ours", "kernel"), ("ours", "ns3"), ("ns3", "kernel")):
        if one in found and other in found and (counts or other != "kernel"):
            errors[f"{one}/{other}"] = _short(found[one].seconds / found[other].seconds - 1)
    return errors


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The errors of each condition, and of all without and all with loss, against the goal."""
    summary = []
    conditions = list(dict.fromkeys((row["condition"], row["lossy"]) for row in rows))
    for name, lossy in [*conditions, ("all without loss", False), ("all with loss", True)]:
        chosen = [
            row
            for row in rows
            if row["lossy"] == lossy and (name.startswith("all ") or row["condition"] == name)
        ]
        middle, share, most = GOALS[lossy]
        entry: dict[str, Any] = {"condition": name, "lossy": lossy, "cells": len(chosen)}
        for pair in dict.fromkeys(pair for row in chosen for pair in row["errors"]):
            sizes = [abs(row["errors"][pair]) for row in chosen if pair in row["errors"]]
            entry[pair] = {
                "cells": len(sizes),
                "median": _short(quantile(sizes, 0.5)),
                f"p{share * 100:.0f}": _short(quantile(sizes, share)),
            }
            if pair.startswith("ours"):
                reached = quantile(sizes, 0.5) <= middle and quantile(sizes, share) <= most
                entry[pair]["reached"] = reached
        if chosen:
            summary.append(entry)
    return summary
