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


def test_clients_whose_text_is_of_the_kind_it_was_stay_where_they_are() -> None:
    landmarks = found_of(4).landmarks
    away = [
        drifted(halves_of(client % 4, client), landmarks, client % 4, significance=0.001)
        for client in range(100, 500)
    ]
    assert len([one for one in away if one is not None]) <= 2


def test_a_client_whose_text_has_become_another_kind_belongs_there() -> None:
    landmarks = found_of(3).landmarks
    for client in range(100, 110):
        now = drifted(halves_of(2, client), landmarks, 0, significance=0.001)
        assert now is not None
        assert now.neighborhood == 2
        assert now.p_value < 0.001


def test_a_client_whose_text_is_like_nobodys_is_to_be_alone() -> None:
    now = drifted(halves_of(8, 0), found_of(3).landmarks, 1, significance=0.001)
    assert now is not None
    assert now.neighborhood is None


def test_who_is_alone_is_found_by_its_like() -> None:
    landmarks = found_of(3).landmarks.alone(halves_of(8, 0))
    assert place(halves_of(8, 1), landmarks).neighborhood == 3
    assert place(halves_of(9, 1), landmarks).neighborhood is None
    assert place(halves_of(1, 77), landmarks).neighborhood == 1


def test_with_one_client_nothing_is_known_of_how_far_members_lie_apart() -> None:
    landmarks = cluster({"0": halves_of(0, 0)}, seed=0).landmarks
    assert drifted(halves_of(1, 0), landmarks, 0, significance=0.5) is None
