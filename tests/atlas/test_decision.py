"""What is decided only grows: who belongs where, who aggregates, and which rounds are closed."""

from __future__ import annotations

import pytest

from atlas.decision import (
    Decision,
    Office,
    appoint,
    close,
    first_decision,
    settle,
)

ORDER = ("a", "b", "c", "d", "e")


@pytest.fixture
def decision() -> Decision:
    return first_decision(
        {"north": {"a": 10, "c": 30}, "south": {"b": 20}},
        {"north": "c", "south": "b"},
        [[1.0, -0.5], [-0.5, 1.0]],
        ORDER,
        silhouette=0.7,
        p_value=0.01,
        landmarks={},
    )


def test_members_are_in_the_order_of_the_clients_with_their_examples(decision: Decision) -> None:
    later = settle(decision, "b", "north", 20, ORDER)

    assert list(decision.members("north", 0).items()) == [("a", 10), ("c", 30)]
    assert list(later.members("north", 1)) == ["a", "b", "c"]


def test_a_round_is_closed_once_and_for_all(decision: Decision) -> None:
    once = close(decision, "north", 0, 1, ["a"])

    assert once.running("north") == 1
    assert once.running("south") == 0
    assert once.closed["north"][0].dropped == ("c",)
    assert list(once.counted("north", 0)) == ["a"]
    assert close(once, "north", 0, 1, ["a", "c"]) == once
    assert close(once, "north", 2, 1, ["a", "c"]) == once


def test_an_aggregator_whose_term_is_over_can_close_nothing(decision: Decision) -> None:
    replaced = appoint(decision, "north", "a", Office(aggregator="c", term=1))

    assert replaced.offices["north"] == Office(aggregator="a", term=2)
    assert close(replaced, "north", 0, 1, ["a", "c"]) == replaced
    assert close(replaced, "north", 0, 2, ["a", "c"]).running("north") == 1


def test_who_is_to_be_replaced_must_still_hold_the_office(decision: Decision) -> None:
    once = appoint(decision, "north", "a", Office(aggregator="c", term=1))

    assert appoint(once, "north", "d", Office(aggregator="c", term=1)) == once


def test_who_comes_late_belongs_from_the_next_round_on_and_changes_none_that_has_begun(
    decision: Decision,
) -> None:
    running = close(decision, "north", 0, 1, ["a", "c"])
    joined = settle(running, "d", "north", 5, ORDER)

    assert list(joined.members("north", 1)) == ["a", "c"]
    assert joined.members("north", 2) == {"a": 10, "c": 30, "d": 5}
    assert joined.members("south", 2) == {"b": 20}


def test_who_moves_is_in_one_neighborhood_in_every_round(decision: Decision) -> None:
    ahead = close(close(decision, "south", 0, 1, ["b"]), "south", 1, 1, ["b"])
    moved = settle(ahead, "a", "south", 10, ORDER)

    for number in range(5):
        homes = [name for name in moved.offices if "a" in moved.members(name, number)]
        assert homes == (["north"] if number < 3 else ["south"])
    assert settle(moved, "a", "south", 10, ORDER) == moved


def test_only_neighborhoods_that_are_alike_are_near(decision: Decision) -> None:
    assert decision.near("south") == {"south": 1}
