"""No plan beats the proven one, no bound is above it, and no name is favored."""

import dataclasses
import itertools

import numpy as np
import pytest

from atlas.pairing import Arrangement, Problem, exact, heuristic

from .conftest import drawn


def best_of_all(problem: Problem) -> float:
    """The shortest slowest round over every placement there is."""
    clients, spans, hosts = problem.shape
    jobs = list(itertools.product(range(clients), range(spans)))
    best = np.inf
    for chosen in itertools.product(range(hosts), repeat=len(jobs)):
        placement = Arrangement(problem)
        for (client, span), host in zip(jobs, chosen, strict=True):
            if not np.isfinite(problem.seconds(client, span)[host]):
                break
            placement.put(client, span, host)
        else:
            if placement.holds:
                best = min(best, placement.round_s)
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_plan_is_the_best_of_all_plans(seed: int) -> None:
    problem = drawn(seed, clients=2, hosts=2, spans=2)

    assert exact.solve(problem).placement.round_s == pytest.approx(best_of_all(problem))


def test_the_exact_plan_is_never_worse_and_no_bound_is_above_it(problems: list[Problem]) -> None:
    for problem in problems:
        quick = heuristic.solve(problem)
        proven = exact.solve(problem)

        assert proven.is_proven
        assert proven.placement.holds
        assert proven.placement.round_s <= quick.round_s * (1 + 1e-9)
        assert problem.bound <= proven.placement.round_s * (1 + 1e-9)
        assert exact.relaxed(problem, quick.round_s) <= proven.placement.round_s * (1 + 1e-6)
        assert quick.round_s <= 1.1 * proven.placement.round_s


def test_other_names_give_the_same_plan_under_those_names(problems: list[Problem]) -> None:
    for problem in problems:
        mirror = {one.name: f"{index:03}" for index, one in enumerate(reversed(problem.hosts))}
        mirror |= {
            one.name: mirror.get(one.name, f"x{index}") for index, one in enumerate(problem.clients)
        }

        def renamed(devices: tuple, names: dict = mirror) -> list:
            return [dataclasses.replace(one, name=names[one.name]) for one in devices]

        other = Problem(renamed(problem.clients), renamed(problem.hosts), problem.cost)
        np.testing.assert_array_equal(
            heuristic.solve(problem).host_of, heuristic.solve(other).host_of
        )


def test_another_order_of_hosts_gives_a_round_of_the_same_length() -> None:
    problem = drawn(1, clients=3, hosts=4)
    turned = Problem(problem.clients, problem.hosts[::-1], problem.cost)

    assert exact.solve(problem).placement.round_s == pytest.approx(
        exact.solve(turned).placement.round_s
    )


def test_a_hundred_clients_are_paired_and_each_change_only_made_it_shorter() -> None:
    problem = drawn(5, clients=100, hosts=130)
    start = heuristic.greedy(problem)
    assert start is not None
    found = heuristic.solve(problem)

    assert found.holds
    assert problem.bound * (1 - 1e-9) <= found.round_s <= start.round_s
