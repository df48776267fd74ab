"""Comparisons: what is planned, what is kept, what is told, and one that is really run."""

import fcntl
import math
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas import cli, methods
from atlas.comparison import Condition, Row, differences, plan, spreads, tuning, write_rows
from atlas.comparison.figures import figures, read_rows, write_figures
from atlas.comparison.running import failures, rows_of, run_cells
from atlas.comparison.statistics import interval
from atlas.comparison.telling import table
from atlas.results import summarize
from broker import Note
from topologies import InputError

TWO = [methods.find("atlas"), methods.find("fedit")]
PLAIN = [Condition("plain")]
NEEDED = {"needed_bytes": 2, "grant_bytes": 1}


def rows(metric: str, **values: list[float]) -> list[Row]:
    return [
        Row(recipe, "plain", seed, "", "", metric, value)
        for recipe, of_it in values.items()
        for seed, value in enumerate(of_it)
    ]


# What is planned.


def test_all_recipes_have_the_same_seed_text_and_budget() -> None:
    cells = plan("tiny", TWO, range(2), [*PLAIN, Condition("calm", ("faults=none",))])

    assert [str(cell) for cell in cells[:3]] == [
        "atlas, plain, seed 0",
        "fedit, plain, seed 0",
        "atlas, calm, seed 0",
    ]
    assert len({cell.digest for cell in cells}) == len(cells) == 8
    for cell in cells:
        assert cell.config.seed == cell.seed
        assert cell.config.training == cells[0].config.training
        assert cell.config.tasks == cells[0].config.tasks
        assert cell.config.faults == ("none" if cell.condition == "calm" else "tiny")


def test_a_condition_is_a_name_and_changes() -> None:
    read = Condition.read("churn: faults=tiny  memory=ample")

    assert read == Condition("churn", ("faults=tiny", "memory=ample"))
    assert Condition.read("plain") == Condition("plain")
    for nonsense in ("", ": a=b", "faults=none", "../up"):
        with pytest.raises(InputError, match="--condition"):
            Condition.read(nonsense)


def test_what_is_named_twice_is_refused() -> None:
    with pytest.raises(InputError, match="--recipes: atlas is named twice"):
        plan("tiny", [*TWO, *TWO], [0], PLAIN)


def test_a_cell_is_another_when_a_file_that_it_names_has_changed(tmp_path: Path) -> None:
    scenario = tmp_path / "mine.yaml"

    def digest(text: str) -> str:
        scenario.write_text(text, encoding="utf-8")
        (cell,) = plan("tiny", TWO[:1], [0], PLAIN, [f"faults={scenario}"])
        return cell.digest

    first = digest("timeline: [{at: 1 s, crash: host-0}]")

    assert digest("timeline: [{at: 2 s, crash: host-0}]") != first
    assert digest("timeline: [{at: 1 s, crash: host-0}]") == first


def test_each_recipe_gets_the_rate_that_is_best_on_validation_rows() -> None:
    rates = [0.001, 0.002]
    cells = tuning.search("tiny", TWO, rates, 0, PLAIN[0], ["validation=8"])
    losses = {"atlas": [2.0, 1.0], "fedit": [3.0, 4.0]}
    tried = [
        Row(cell.recipe, cell.condition, 0, "", "", "macro_loss", losses[cell.recipe][index // 2])
        for index, cell in enumerate(cells)
    ]

    found = tuning.chosen(cells, tried)

    assert {cell.config.scored for cell in cells} == {"validation"}
    assert found == {"atlas": 0.002, "fedit": 0.001}
    final = plan("tiny", TWO, [0], PLAIN, rates=found)
    assert [cell.config.training.learning_rate for cell in final] == [0.002, 0.001]
    assert {cell.config.scored for cell in final} == {"held_out"}


def test_a_search_needs_validation_rows_and_rates() -> None:
    with pytest.raises(InputError, match=r"no rows are kept for validation.*validation: 48"):
        tuning.search("tiny", TWO, [0.001], 0, PLAIN[0])
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "tiny", "--rates", "0.001,fast"])
    assert ended.value.code == 2


# What is told.


def test_a_difference_is_taken_seed_by_seed() -> None:
    found = rows("macro_loss", atlas=[1.0, 5.0, 9.0], fedit=[1.5, 5.6, 9.4])

    (told,) = differences(found, ["macro_loss"], "atlas")

    assert told.mean == pytest.approx(0.5)
    assert told.verdict == "more"
    assert told.low is not None
    assert told.low > 0.2
    reverse = rows("macro_loss", fedit=[1.5, 5.6, 9.4], atlas=[1.0, 5.0, 9.0])
    (other,) = differences(reverse, ["macro_loss"], "fedit")
    assert (other.mean, other.verdict) == (pytest.approx(-0.5), "less")


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ([1.5, 4.0, 9.7], "within the noise"),
        ([1.0, 5.0, 9.0], "equal"),
        ([2.0], "one seed"),
    ],
)
def test_what_cannot_be_told_from_chance_is_called_that(other: list[float], verdict: str) -> None:
    found = rows("macro_loss", atlas=[1.0, 5.0, 9.0], fedit=other)

    (told,) = differences(found, ["macro_loss"], "atlas")

    assert told.verdict == verdict


def test_intervals_are_students() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])

    reach = 2.7764 * math.sqrt(2.5 / 5)  # the quantile of four degrees of freedom
    assert mean == 3.0
    assert (low, high) == (pytest.approx(3 - reach, abs=1e-3), pytest.approx(3 + reach, abs=1e-3))
    assert interval([2.0]) == (2.0, None, None)


def test_spread_is_over_the_seeds_of_whole_runs() -> None:
    found = rows("bytes", atlas=[1.0, 3.0])
    found.append(Row("atlas", "plain", 0, "news", "", "bytes", 100.0))

    (told,) = spreads(found, ["bytes"])

    assert (told.mean, told.seeds, told.deviation) == (2.0, 2, pytest.approx(math.sqrt(2)))


def test_the_table_names_what_failed_and_what_is_noise() -> None:
    found = rows("macro_accuracy", fedit=[0.5, 0.9], atlas=[0.6, 0.7])
    found += rows("failed", local=[1.0])

    text = table(found, ["atlas", "fedit", "local"], {"local, plain, seed 0": "no host has room"})

    lines = text.splitlines()
    assert lines.index("| atlas | 2 | 65.0 ± 7.1 | - | - | - | - | - | - | - |") < lines.index(
        "| fedit | 2 | 70.0 ± 28.3 | - | - | - | - | - | - | - |"
    )
    assert any(line.startswith("| fedit | accuracy") and "noise" in line for line in lines)
    assert "- local, plain, seed 0: no host has room" in lines


def test_a_runs_figures_are_by_task_client_and_round() -> None:
    truth = {"client-0": "news", "client-1": "news", "client-2": "films"}
    score = {"loss": 0.5, "accuracy": 0.75, "rows": 4}
    own = {"client-0": {"loss": 0.4, "accuracy": 1.0}, "client-1": {"loss": 0.6, "accuracy": 0.5}}
    phase = {"task": "news", "neighborhood": "neighborhood-0"}
    notes = [
        Note(0.0, "", "evaluated", {**phase, **score, "phase": "before", "neighborhood": ""}, 0),
        Note(1.0, "client-2", "sat out", {"client": "client-2", **NEEDED}, 0),
        *(
            Note(2.0 + n, name, "step", {"client": name, "round": 0, "step": 0, "loss": n}, 10 * n)
            for n, name in ((1, "client-0"), (2, "client-1"))
        ),
        Note(9.0, "", "evaluated", {**phase, **score, "phase": "after", "clients": own}, 50),
    ]
    summary = summarize(notes, truth=truth, steps_expected=3, bytes_by_purpose={"control": 50})

    found = {
        (task, client, metric): v for task, client, metric, v in figures(summary, notes, truth)
    }

    assert found["news", "", "accuracy"] == found["", "", "macro_accuracy"] == 0.75
    assert found["news", "client-1", "loss"] == found["", "", "worst_client_loss"] == 0.6
    assert found["", "", "worst_client_accuracy"] == 0.5
    assert found["films", "client-2", "sat_out"] == found["", "", "sat_out"] == 1
    assert found["", "", "steps_lost"] == 0
    assert found["", "", "bytes"] == found["", "", "bytes_control"] == 50
    rounds = [found["", "", f"round_0_{what}"] for what in ("loss", "seconds", "bytes")]
    assert rounds == [1.5, 4.0, 20.0]


# What is kept.


def test_rows_are_tidy_in_parquet(tmp_path: Path) -> None:
    file = tmp_path / "results.parquet"
    found = rows("bytes", atlas=[1.0, 3.0])

    write_rows(file, found)

    columns = ["recipe", "condition", "seed", "task", "client", "metric", "value"]
    assert pq.read_table(file).column_names == columns
    assert read_rows(file) == found


def test_a_cell_without_figures_is_a_row_that_says_so(tmp_path: Path) -> None:
    done, missing = plan("tiny", TWO, [0], PLAIN)
    done.folder(tmp_path).path.mkdir(parents=True)
    write_figures(done.folder(tmp_path).rows, [("", "", "bytes", 5.0), ("a", "b", "loss", 1.0)])

    assert rows_of([done, missing], tmp_path) == [
        Row("atlas", "plain", 0, "", "", "bytes", 5.0),
        Row("atlas", "plain", 0, "", "", "learning_rate", 0.01),
        Row("atlas", "plain", 0, "a", "b", "loss", 1.0),
        Row("fedit", "plain", 0, "", "", "failed", 1.0),
        Row("fedit", "plain", 0, "", "", "learning_rate", 0.01),
    ]
    assert failures([done, missing], tmp_path) == {str(missing): "it was not run"}


def test_two_comparisons_are_not_at_work_in_one_folder(tmp_path: Path) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another comparison is at work"):
            run_cells([], tmp_path, jobs=1, tell=print)
    finally:
        os.close(lock)
    assert run_cells([], tmp_path, jobs=1, tell=print) == []


def compare(out: Path, *more: str) -> int:
    changes = (
        *("faults=none", "training.rounds=1", "training.steps=1", "held_out=8"),
        "tasks=[stdlib-unicode, stdlib-package]",
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                *("compare", "tiny", "--seeds", "1", "--out", str(out), "--jobs", "1"),
                *("--condition", "scarce"),
                *(word for change in changes for word in ("--set", change)),
                *more,
            ]
        )
    return int(ended.value.code or 0)


def test_a_comparison_with_a_recipe_of_ones_own_goes_on_where_it_was_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("values: {aggregation.grouping: none, split.pairing: random}")
    out = tmp_path / "out"

    status = compare(out, "--recipes", f"{mine},fedit")
    first = capsys.readouterr().out
    again = compare(out, "--recipes", str(mine))
    second = capsys.readouterr().out

    assert (status, again) == (1, 0)
    assert "fedit, scarce, seed 0: FAILED: split.placement: no client grants" in first
    assert "mine, scarce, seed 0: done" in first
    assert "1 of 1 runs are there already" in second
    found = read_rows(out / "results.parquet")
    clients = {row.client for row in found if row.metric == "accuracy" and row.client}
    assert clients == {f"client-{number}" for number in range(8)}
    assert {row.recipe for row in found} == {"mine"}
    assert not any(out.glob("journals/*"))
