"""Who comes later is placed without disturbing the others; who has drifted is told from noise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atlas.semantics import Landmarks, Neighborhoods, cluster, drifted, place

DIMENSIONS = 64


def center_of(kind: int) -> np.ndarray:
    return np.random.default_rng([9, kind]).normal(size=DIMENSIONS)


def halves_of(kind: int, client: int, *, noise: float = 0.7) -> np.ndarray:
    generator = np.random.default_rng([kind, client])
    return center_of(kind) + noise * generator.normal(size=(2, DIMENSIONS))


def found_of(kinds: int, each: int = 5) -> Neighborhoods:
    clients = {f"{k}-{n}": halves_of(k, n) for n in range(each) for k in range(kinds)}
    return cluster(clients, seed=0)


def round_of(number: int, kinds: dict[str, int], noise: float = 1.0) -> dict[str, np.ndarray]:
    """One sketch of each client: its own persistent part, and what its batch happens to be."""
    return {
        name: center_of(kind)
        + 0.3 * np.random.default_rng([7, *map(ord, name)]).normal(size=DIMENSIONS)
        + noise * np.random.default_rng([number, *map(ord, name)]).normal(size=DIMENSIONS)
        for name, kind in kinds.items()
    }


MEMBERS = tuple(tuple(f"{k}-{n}" for n in range(5)) for k in range(3))
HOME = {name: k for k, group in enumerate(MEMBERS) for name in group}


@pytest.mark.parametrize("kinds", [1, 2, 4])
def test_a_later_joiner_comes_to_its_own_kind(kinds: int) -> None:
    landmarks = found_of(kinds).landmarks
    assert landmarks.sizes == (5,) * kinds
    for kind in range(kinds):
        for client in range(100, 110):
            placement = place(halves_of(kind, client), landmarks)
            assert placement.neighborhood == placement.nearest == kind


@pytest.mark.parametrize("kinds", [1, 2, 4])
def test_a_later_joiner_of_no_known_kind_stays_alone(kinds: int) -> None:
    landmarks = found_of(kinds).landmarks
    for client in range(100, 110):
        placement = place(halves_of(kinds, client), landmarks)
        assert placement.neighborhood is None
        assert placement.p_value < 0.01


def test_members_are_turned_away_as_seldom_as_asked_for() -> None:
    landmarks = found_of(4).landmarks
    away = [
        place(halves_of(client % 4, client), landmarks, significance=0.05).neighborhood is None
        for client in range(100, 500)
    ]
    assert np.mean(away) < 0.08


def test_landmarks_survive_json() -> None:
    landmarks = found_of(2).landmarks
    assert Landmarks.read(json.loads(json.dumps(landmarks.plain()))) == landmarks


def test_placing_needs_halves_of_the_same_size() -> None:
    with pytest.raises(ValueError, match="two finite halves"):
        place(np.zeros((2, 8)), found_of(1).landmarks)


def test_clients_that_have_not_drifted_are_left_where_they_are() -> None:
    alarms = sum(
        bool(drifted([round_of(10 * trial + r, HOME) for r in range(4)], MEMBERS))
        for trial in range(60)
    )
    assert alarms <= 6


def test_a_client_whose_text_has_become_another_kind_is_moved_there() -> None:
    now = {**HOME, "0-2": 2}
    moved = drifted([round_of(r, now) for r in range(6)], MEMBERS)
    assert {name: one.neighborhood for name, one in moved.items()} == {"0-2": 2}
    assert moved["0-2"].p_value < 0.01


def test_a_client_whose_text_is_like_nobodys_is_to_be_alone() -> None:
    now = {**HOME, "1-0": 8}
    moved = drifted([round_of(r, now) for r in range(6)], MEMBERS)
    assert {name: one.neighborhood for name, one in moved.items()} == {"1-0": None}


def test_with_too_few_to_compare_nobody_has_drifted() -> None:
    members = (("0-0", "0-1"), ("1-0",))
    assert not drifted([round_of(0, {"0-0": 0, "0-1": 2, "1-0": 1})], members)


def test_drift_needs_a_sketch_of_every_member() -> None:
    with pytest.raises(ValueError, match="every member"):
        drifted([round_of(0, {"0-0": 0})], MEMBERS)
    with pytest.raises(ValueError, match="every member"):
        drifted([], MEMBERS)
