"""Who is dealt what: mixtures, domains, contradicting labels, people, and unequal sizes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from atlas import config, experiment, tasks
from atlas.results import PlainView
from atlas.tasks import ClientData, DealSettings, Example, Task, TaskError
from atlas.tasks.apportioning import apportion, apportion_above

CLIENTS = [f"client-{number}" for number in range(12)]
ANSWERS = ("a", "b", "c")


def _task(name: str, *, rows: int = 400, domains: int = 1, choices: bool = True) -> Task:
    """The d-th domain has about twice as many rows as the next; each has some that are scored."""

    def part(what: str, count: int) -> tuple[Example, ...]:
        return tuple(
            Example(
                f"{name} {what} {number}",
                ANSWERS[number % 3],
                ANSWERS if choices else (),
                f"part-{min((number & -number).bit_length(), domains)}" if domains > 1 else "",
            )
            for number in range(1, count + 1)
        )

    kind: tasks.Kind = "classification" if choices else "generation"
    train, held_out = part("train", rows), part("held out", 60)
    return Task(name, kind, "", "", ANSWERS if choices else (), train, held_out, 0, part("v", 60))


def _deal(
    given: Sequence[Task], clients: Sequence[str] = CLIENTS, *, size: int = 24, seed: int = 0,
    **settings: object,
) -> dict[str, ClientData]:  # fmt: skip
    how = DealSettings.model_validate(settings)
    parts = tasks.divided(given, how)
    return tasks.deal(parts, clients, examples_per_client=size, seed=seed, settings=how)


HOW = st.fixed_dictionaries(
    {},
    optional={
        "by": st.just("task"),
        "domains": st.integers(0, 3),
        "labelings": st.integers(1, 3),
        "least": st.integers(2, 8),
    },
)
UNEQUAL = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"sizes": st.sampled_from(["lognormal", "zipf"]), "spread": st.floats(0.01, 3)}
    ),
)
MIXED = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"by": st.just("mixture"), "alpha": st.floats(0.01, 100)}),
)


@given(how=HOW, unequal=UNEQUAL, mixed=MIXED, seed=st.integers(0, 99))
@settings(deadline=None)
def test_no_row_is_dealt_twice_and_none_that_is_scored(
    how: dict[str, object], unequal: dict[str, object], mixed: dict[str, object], seed: int
) -> None:
    given_tasks = [_task("one", domains=4), _task("two", domains=4)]
    how = DealSettings.model_validate(how | unequal | mixed)
    try:
        parts = tasks.divided(given_tasks, how)
        dealt = tasks.deal(parts, CLIENTS, examples_per_client=10, seed=seed, settings=how)
    except TaskError as error:
        assert "rows" in str(error) or "clients" in str(error)  # noqa: PT017 - one of two reasons
        return
    assert list(dealt) == CLIENTS
    prompts = [row.prompt for data in dealt.values() for row in data.examples]
    assert len(prompts) == len(set(prompts)) == 120
    scored = {row.prompt for task in parts for row in (*task.validation, *task.held_out)}
    assert not scored & set(prompts)
    by_name = {task.name: set(task.train) for task in parts}
    for data in dealt.values():
        assert sum(count for _, count in data.shares) == len(data.examples)
        assert data.task in data.tasks
        for name, count in data.shares:
            assert len(by_name[name] & set(data.examples)) == count


def test_a_small_alpha_gives_each_client_nearly_one_task_and_a_large_one_all_alike() -> None:
    four = [_task(name, rows=2_000) for name in ("one", "two", "three", "four")]

    def largest(alpha: float) -> float:
        dealt = _deal(four, by="mixture", alpha=alpha, size=100)
        shares = [max(count for _, count in data.shares) for data in dealt.values()]
        for data in dealt.values():
            assert dict(data.shares)[data.task] == max(count for _, count in data.shares)
        return statistics.fmean(shares) / 100

    assert largest(0.01) > 0.9
    assert 0.25 <= largest(1_000) < 0.3


def test_mixtures_follow_dirichlets_law_over_many_seeds() -> None:
    three = [_task(name, rows=4_000) for name in ("one", "two", "three")]
    shares = [
        dict(data.shares).get("two", 0) / 200
        for seed in range(20)
        for data in _deal(three, by="mixture", alpha=2.0, size=200, seed=seed).values()
    ]
    # Beta(2, 4): mean 1/3, variance 2·4 / (6²·7); 240 draws leave some 5 % of the deviation.
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.04)
    assert np.std(shares) == pytest.approx((8 / 252) ** 0.5, rel=0.15)


def test_rows_of_a_mixture_come_in_no_order_of_tasks() -> None:
    two = [_task("one"), _task("two")]
    rows = _deal(two, CLIENTS[:1], by="mixture", alpha=1_000, size=40)["client-0"].examples
    first = Counter(row.prompt.split()[0] for row in rows[:20])
    assert min(first["one"], first["two"]) >= 4


def test_a_mixture_that_asks_for_too_much_says_how_much_there_is() -> None:
    two = [_task("one", rows=120), _task("two", rows=2_000)]
    with pytest.raises(TaskError, match=r"'one' has 120 .*ask for \d+\. Ask for about") as error:
        _deal(two, by="mixture", alpha=1.0, size=100)
    enough = int(str(error.value).split("Ask for about ")[1].split(",")[0])
    assert _deal(two, by="mixture", alpha=1.0, size=enough - 1)


def test_the_largest_domains_become_tasks_scored_on_rows_of_their_own() -> None:
    parts = tasks.divided([_task("exam", domains=4)], DealSettings(domains=3))
    assert [part.name for part in parts] == ["exam/part-1", "exam/part-2", "exam/part-3"]
    for part in parts:
        rows = (*part.train, *part.validation, *part.held_out)
        assert {f"exam/{row.domain}" for row in rows} == {part.name}
        assert part.validation
    dealt = _deal([_task("exam", domains=4)], domains=3, size=8)
    assert [data.task for data in dealt.values()] == [part.name for part in parts] * 4


def test_labels_contradict_each_other_on_like_text() -> None:
    task = _task("news")
    parts = tasks.divided([task], DealSettings(labelings=3))
    assert [part.name for part in parts] == ["news/labels-0", "news/labels-1", "news/labels-2"]
    for rows in zip(*(part.held_out for part in parts), strict=True):
        assert len({row.prompt for row in rows}) == 1
        assert len({row.answer for row in rows}) == 3
    answers = {row.prompt: row.answer for row in task.train}
    moved = [
        {(ANSWERS.index(row.answer) - ANSWERS.index(answers[row.prompt])) % 3 for row in part.train}
        for part in parts
    ]
    assert moved == [{0}, {1}, {2}]
    prompts = [row.prompt for part in parts for row in part.train]
    assert sorted(prompts) == sorted(answers)


def test_each_client_is_one_person_with_all_its_text() -> None:
    task = _task("chat", domains=5, choices=False)
    dealt = _deal([task], CLIENTS[:3], by="sender", least=25, size=400)
    people = [{row.domain for row in data.examples} for data in dealt.values()]
    assert all(len(person) == 1 for person in people)
    assert len(set.union(*people)) == 3
    for data, (person,) in zip(dealt.values(), people, strict=True):
        assert len(data.examples) == task.domains[person] >= 25
    others = [_deal([task], CLIENTS[:3], by="sender", seed=seed, size=400) for seed in range(1, 5)]
    assert any(other != dealt for other in others)
    capped = _deal([task], CLIENTS[:3], by="sender", size=9)
    assert {len(data.examples) for data in capped.values()} == {9}


@pytest.mark.parametrize(("sizes", "spread"), [("lognormal", 1.0), ("zipf", 1.2)])
def test_sizes_are_unequal_with_the_mean_that_was_asked_for(sizes: str, spread: float) -> None:
    two = [_task("one", rows=900), _task("two", rows=900)]
    dealt = _deal(two, sizes=sizes, spread=spread, least=5, size=40)
    counts = {client: len(data.examples) for client, data in dealt.items()}
    assert sum(counts.values()) == 40 * 12
    assert min(counts.values()) >= 5
    assert max(counts.values()) > 80
    again = _deal(two, sizes=sizes, spread=spread, least=5, size=40, seed=1)
    assert counts != {client: len(data.examples) for client, data in again.items()}


def test_zipf_sizes_fall_with_the_rank_to_the_power_that_was_given() -> None:
    dealt = _deal([_task("one", rows=9_000)], sizes="zipf", spread=1.0, least=2, size=700)
    counts = sorted((len(data.examples) for data in dealt.values()), reverse=True)
    for rank, count in enumerate(counts, start=1):
        assert count == pytest.approx(counts[0] / rank, abs=1)


def test_lognormal_sizes_have_the_spread_that_was_given() -> None:
    clients = [f"client-{number}" for number in range(400)]
    dealt = _deal([_task("one", rows=40_000)], clients, sizes="lognormal", spread=0.5, least=2,
                  size=100)  # fmt: skip
    logs = np.log([len(data.examples) for data in dealt.values()])
    assert np.std(logs) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"domains": 9}, "deal.domains: task 'one' has 4 domains, not 9"),
        ({"labelings": 4}, "deal.labelings: .*4 ways that contradict .* share 3 choices"),
        ({"by": "sender", "least": 300}, "deal.least: .*'one' has 0 senders with 300"),
        ({"sizes": "zipf", "spread": 1, "least": 30}, "deal.least: clients get 24 rows on"),
        ({"domains": 4, "labelings": 3, "least": 2}, "24 tasks can't be dealt to 12 clients"),
    ],
)
def test_a_deal_that_the_text_does_not_allow_says_why(how: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        _deal([_task("one", domains=4), _task("two", domains=4)], **how)


def test_a_domain_of_which_nothing_is_held_out_is_refused() -> None:
    whole = _task("one", domains=2)
    task = Task("one", whole.kind, "", "", ANSWERS, whole.train, whole.held_out[:1], 0)
    with pytest.raises(TaskError, match=r"held_out: none of the rows .* is of its domain 'part-2'"):
        tasks.divided([task], DealSettings(domains=2))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"by": "mixture"}, "alpha is needed for by: mixture"),
        ({"alpha": 1.0}, "alpha is only for by: mixture"),
        ({"sizes": "zipf"}, "spread is needed for unequal sizes"),
        ({"spread": 1.0}, "spread is only for unequal sizes"),
        ({"by": "sender", "labelings": 2}, "senders have the text that they have"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(how: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DealSettings.model_validate(how)


@given(
    weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
    total=st.integers(0, 1_000),
    least=st.integers(0, 20),
)
def test_whole_numbers_are_as_near_to_the_proportion_as_can_be(
    weights: list[float], total: int, least: int
) -> None:
    named = {f"n{at}": weight for at, weight in enumerate(weights)}
    parts = apportion(named, total)
    assert sum(parts.values()) == total
    for name, weight in named.items():
        assert abs(parts[name] - total * weight / sum(weights)) < 1 + 1e-9
    if total < least * len(weights):
        with pytest.raises(ValueError, match="less than"):
            apportion_above(named, total, least)
        return
    above = apportion_above(named, total, least)
    assert sum(above.values()) == total
    assert list(above) == list(named)
    assert min(above.values()) >= least
    if min(parts.values()) >= least:
        assert above == parts


def test_a_run_deals_as_its_config_says(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(tiny_folder.parents[1]))
    changes = ["tasks=[stdlib-unicode]", "deal.labelings=2", "deal.sizes=zipf", "deal.spread=1"]
    chosen = config.load("tiny", [*changes, "validation=12"])
    run = experiment.prepare(chosen, PlainView(Console(quiet=True)))
    names = ["stdlib-unicode/labels-0", "stdlib-unicode/labels-1"]
    assert [task.name for task in run.tasks] == names
    assert list(run.truth.values()) == names * 4
    assert [len(task.validation) for task in run.tasks] == [12, 12]
    sizes = [len(data.examples) for data in run.data.values()]
    assert sum(sizes) == 24 * len(sizes)
    assert len(set(sizes)) > 1
