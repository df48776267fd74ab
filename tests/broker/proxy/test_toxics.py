"""What each toxic does, as a function of what comes and when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.proxy.items import Ending
from broker.proxy.toxics import (
    MILLISECOND,
    TYPES,
    Attributes,
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
)
from tests.broker.worlds import STEADY

FINISH, RESET, CLOSE = Ending.FINISH, Ending.RESET, Ending.CLOSE


def play(
    toxic: Attributes, *came: tuple[float, object], seed: int = 1
) -> list[tuple[float, object]]:
    """What goes on, in milliseconds, of what came then."""
    law = toxic.law(random.Random(seed))
    timed = [*law.begin(0)]
    for at_ms, item in came:
        timed += law.take(round(at_ms * MILLISECOND), item)
    return [
        (at_ns / MILLISECOND, item if isinstance(item, Ending) else bytes(item))
        for at_ns, item in timed
    ]


@pytest.mark.parametrize(
    ("toxic", "came", "goes"),
    [
        (Latency(latency=100), [(0, b"a"), (5, FINISH)], [(100, b"a"), (105, FINISH)]),
        (Bandwidth(rate=1), [(0, b"x" * 15)], [(10, b"x" * 10), (15, b"x" * 5)]),
        (
            Bandwidth(rate=1),
            [(0, b"ab"), (1, b"c"), (50, b"d")],
            [(2, b"ab"), (3, b"c"), (51, b"d")],
        ),
        (Bandwidth(rate=0), [(0, b"a" * 9)], [(0, b"a" * 9)]),
        (SlowClose(delay=30), [(1, b"a"), (2, FINISH)], [(1, b"a"), (32, FINISH)]),
        (Timeout(timeout=0), [(1, b"a"), (2, FINISH)], [(2, CLOSE)]),
        (Timeout(timeout=50), [(20, b"a")], [(50, CLOSE), (70, CLOSE)]),
        (ResetPeer(timeout=0), [(3, b"a"), (4, b"b")], [(3, RESET)]),
        (ResetPeer(timeout=9), [(3, FINISH)], [(12, RESET)]),
        (LimitData(bytes=3), [(0, b"ab"), (1, b"cde")], [(0, b"ab"), (1, b"c"), (1, CLOSE)]),
        (LimitData(bytes=0), [(0, b"a")], [(0, CLOSE)]),
        (
            Slicer(average_size=2, delay=1_000),
            [(0, b"abcd"), (1, FINISH)],
            [(0, b"ab"), (1, b"cd"), (2, FINISH)],
        ),
    ],
)  # fmt: skip
def test_a_toxic_passes_on_what_it_should_and_when(toxic, came, goes):
    assert play(toxic, *came) == goes


@STEADY
@given(
    st.sampled_from([
        Latency(latency=5, jitter=5), Bandwidth(rate=3), SlowClose(delay=4),
        Slicer(average_size=7, size_variation=6, delay=50), Slicer(),
    ]),
    st.lists(st.tuples(st.integers(0, 20), st.binary(min_size=1, max_size=60)), max_size=8),
    st.integers(0, 5),
)  # fmt: skip
def test_nothing_is_lost_changed_or_overtaken_by_toxics_that_only_delay(toxic, gaps, seed):
    at, came = 0, []
    for gap, data in gaps:
        at += gap
        came.append((at, data))
    goes = play(toxic, *came, (at, FINISH), seed=seed)
    assert b"".join(data for _, data in goes[:-1]) == b"".join(data for _, data in came)
    assert goes[-1][1] is FINISH
    assert [when for when, _ in goes] == sorted(when for when, _ in goes)


def test_jitter_stays_within_its_bounds_and_is_the_same_for_the_same_seed():
    toxic = Latency(latency=50, jitter=20)
    delays = [play(toxic, (0, b"a"), seed=seed)[0][0] for seed in range(200)]
    assert 30 <= min(delays) < 35
    assert 65 < max(delays) <= 70
    assert delays == [play(toxic, (0, b"a"), seed=seed)[0][0] for seed in range(200)]


def test_a_limit_that_is_changed_counts_what_has_gone_through_before():
    chance = random.Random(0)
    before = LimitData(bytes=10).law(chance)
    list(before.take(0, b"abcd"))
    law = LimitData(bytes=6).law(chance)
    law.follow(before)
    assert [item for _, item in law.take(0, b"efgh")] == [b"ef", CLOSE]


@pytest.mark.parametrize("kind", TYPES)
def test_a_toxic_knows_its_attributes_only_and_none_is_negative(kind):
    model = TYPES[kind]
    for wrong in ({"latncy": 5}, *({name: -1} for name in model.model_fields)):
        with pytest.raises(ValueError, match=str(next(iter(wrong)))):
            model.model_validate(wrong)
