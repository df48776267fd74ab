"""The grid of the fidelity benchmark is sound, and the emulator can carry out all of it."""

from __future__ import annotations

import pytest

from benchmarks.fidelity import figures, ours
from benchmarks.fidelity.grid import CELLS, LEAST_QUEUE_BYTES, LONGEST_S, select
from benchmarks.fidelity.store import Store

LOSSLESS = [cell for cell in CELLS if not cell.lossy]
EASE = 1e-6


def test_the_grid_covers_every_axis() -> None:
    plain = [cell for cell in CELLS if cell.condition == "plain"]
    assert {cell.size_bytes for cell in plain} == {10**power for power in range(3, 8)}
    assert {cell.bottleneck_bps for cell in plain} == {1e6, 1e7, 1e8, 1e9}
    assert {cell.delay_s for cell in plain} == {0.001, 0.01, 0.05, 0.1}
    assert {hop.loss for cell in CELLS for hop in cell.hops} == {0, 0.001, 0.005, 0.01, 0.02}
    assert {cell.flows for cell in CELLS} == {1, 2, 4, 8}
    assert any(cell.cross_bps for cell in CELLS)
    assert any(len(cell.hops) == 3 for cell in CELLS)
    assert {cell.law for cell in CELLS} == {"cubic", "reno"}


def test_a_cell_has_one_name_and_ends_in_bearable_time() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    assert all(cell.ideal_s <= LONGEST_S for cell in CELLS)
    assert all(hop.queue_bytes >= LEAST_QUEUE_BYTES // 2 for cell in CELLS for hop in cell.hops)


def test_cells_are_chosen_by_pattern_in_the_order_of_the_grid() -> None:
    assert select(()) == CELLS
    assert {cell.condition for cell in select(("route/*", "cross/*"))} == {"route", "cross"}
    assert select(("nothing/*",)) == ()


@pytest.mark.parametrize("cell", LOSSLESS, ids=lambda cell: cell.name)
def test_no_transfer_is_faster_than_its_links_allow(cell) -> None:
    took = ours.seconds(cell, seed=1)
    # What crosses takes its part over time; a burst can have the whole link for a moment.
    left = 1 - cell.cross_bps / cell.bottleneck_bps
    alone_s = cell.delay_s + (cell.ideal_s - cell.delay_s) * left / cell.flows
    assert len(took) == cell.flows
    assert min(took) >= alone_s * (1 - EASE)
    assert max(took) >= cell.ideal_s * (1 - EASE) or cell.cross_bps


def test_a_figure_is_the_median_without_loss_and_the_mean_with_it() -> None:
    runs = [[1.0, 3.0], [1.0, 1.0], [9.0, 9.0]]
    lossless, lossy = LOSSLESS[0], next(cell for cell in CELLS if cell.lossy)
    assert figures.figure(lossless, runs).seconds == 2.0
    assert figures.figure(lossy, runs).seconds == 4.0
    assert figures.figure(lossy, runs).error_s == pytest.approx((19 / 3) ** 0.5)


def test_errors_are_relative_to_the_reference_and_counted_against_the_goal(tmp_path) -> None:
    cell = LOSSLESS[0]
    stores = {name: Store(name, tmp_path / name) for name in ("ours", "kernel", "ns3")}
    for name, seconds in (("ours", 1.1), ("kernel", 1.0), ("ns3", 1.0)):
        stores[name].put(cell.name, [[seconds]], write=False)
    rows = figures.compare(CELLS, stores)
    assert [row["cell"] for row in rows] == [cell.name]
    assert rows[0]["errors"]["ours/kernel"] == pytest.approx(0.1)
    summary = figures.summarize(rows)
    assert summary[0]["ours/ns3"] == {"cells": 1, "median": 0.1, "p95": 0.1, "reached": False}


def test_a_store_is_read_as_it_was_written(tmp_path) -> None:
    store = Store("kernel", tmp_path / "kernel.json", {"law": "cubic"}, {"rig": []})
    store.put("plain/1kB-1M-1ms", [[0.00951234567], [0.0095]], late_us=3)
    again = Store.open("kernel", tmp_path)
    assert again == store
    assert again.cells["plain/1kB-1M-1ms"]["seconds"] == [[0.00951235], [0.0095]]
