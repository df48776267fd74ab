"""Adapters are combined as the formulas say, and to the same bits each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.aggregation import average, between, laplacian, random_graph, settling
from atlas.models import AdapterState


def adapters(count: int) -> list[AdapterState]:
    generator = torch.Generator().manual_seed(count)
    return [
        {"a": torch.randn(3, 5, generator=generator), "b": torch.randn(4, 3, generator=generator)}
        for _ in range(count)
    ]


def test_the_mean_is_weighted_by_examples() -> None:
    states = adapters(3)
    found = average(states, [10, 30, 60])
    for name in ("a", "b"):
        expected = 0.1 * states[0][name] + 0.3 * states[1][name] + 0.6 * states[2][name]
        torch.testing.assert_close(found[name], expected)
        assert found[name].dtype == torch.float32


def test_the_mean_of_equal_adapters_is_that_adapter() -> None:
    (state,) = adapters(1)
    found = average([state] * 7, [3, 1, 4, 1, 5, 9, 2])
    assert all(torch.equal(found[name], state[name]) for name in state)
    alone = average([state], [7])
    assert all(torch.equal(alone[name], state[name]) for name in state)


def test_what_goes_in_stays_as_it_was() -> None:
    states = adapters(2)
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    average(states, [1, 2])["a"].zero_()
    moved = between({"x": states[0], "y": states[1]}, np.zeros((2, 2)), 1.0)
    moved["x"]["a"].zero_()
    for state, kept in zip(states, before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_neighborhoods_move_towards_those_they_are_like() -> None:
    x, y, z = adapters(3)
    similarity = np.array([[1.0, 0.5, -0.9], [0.5, 1.0, 0.0], [-0.9, 0.0, 1.0]])
    found = between({"x": x, "y": y, "z": z}, similarity, strength=0.4)
    for name in x:
        torch.testing.assert_close(found["x"][name], (x[name] + 0.2 * y[name]) / 1.2)
        torch.testing.assert_close(found["y"][name], (y[name] + 0.2 * x[name]) / 1.2)
        assert torch.equal(found["z"][name], z[name])


def test_no_strength_changes_nothing() -> None:
    states = dict(zip("xyz", adapters(3), strict=True))
    found = between(states, np.ones((3, 3)), strength=0.0)
    for key, state in states.items():
        assert all(torch.equal(found[key][name], state[name]) for name in state)


def test_great_strength_between_equals_gives_their_mean() -> None:
    x, y = adapters(2)
    found = between({"x": x, "y": y}, np.ones((2, 2)), strength=1.0)
    mean = average([x, y], [1, 1])
    for key in ("x", "y"):
        assert all(torch.allclose(found[key][name], mean[name]) for name in mean)


def test_what_does_not_fit_is_refused() -> None:
    one, other = adapters(2)
    with pytest.raises(ValueError, match="no adapter"):
        average([], [])
    with pytest.raises(ValueError, match="2 adapters came with 1"):
        average([one, other], [1])
    with pytest.raises(ValueError, match="positive"):
        average([one, other], [1, 0])
    with pytest.raises(ValueError, match="not all adapters have b"):
        average([one, {"a": other["a"]}], [1, 1])
    with pytest.raises(ValueError, match="different shapes"):
        average([one, {**other, "a": other["a"].T}], [1, 1])
    with pytest.raises(ValueError, match="similarities of"):
        between({"x": one, "y": other}, np.ones((3, 3)), 1.0)
    with pytest.raises(ValueError, match="not negative"):
        between({"x": one, "y": other}, np.ones((2, 2)), -1.0)


def test_a_step_along_a_task_graphs_laplacian_is_mira_s_equation() -> None:
    x, y, z = adapters(3)
    graph = np.array([[9.0, 0.5, 0.2], [0.5, 9.0, 0.0], [0.2, 0.0, 9.0]])
    found = laplacian({"x": x, "y": y, "z": z}, graph, strength=0.3)
    for name in x:
        expected = x[name] - 0.3 * (0.5 * (x[name] - y[name]) + 0.2 * (x[name] - z[name]))
        torch.testing.assert_close(found["x"][name], expected)
        torch.testing.assert_close(found["z"][name], z[name] - 0.06 * (z[name] - x[name]))


def test_a_laplacian_step_keeps_the_sum_and_a_small_one_settles() -> None:
    states = dict(zip("wxyz", adapters(4), strict=True))
    graph = np.array([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]], dtype=float)
    total = {name: sum(state[name] for state in states.values()) for name in states["w"]}
    for _ in range(300):
        states = laplacian(states, graph, strength=0.05)
    for name, sum_before in total.items():
        for state in states.values():
            torch.testing.assert_close(4 * state[name], sum_before, rtol=1e-3, atol=1e-3)


def test_a_laplacian_step_that_would_run_away_is_refused_with_its_limit() -> None:
    states = dict(zip("xy", adapters(2), strict=True))
    graph = np.array([[0.0, 1.0], [1.0, 0.0]])  # its Laplacian's largest eigenvalue is 2
    laplacian(states, graph, strength=0.99)
    with pytest.raises(ValueError, match="less than 1"):
        laplacian(states, graph, strength=1.0)
    with pytest.raises(ValueError, match="symmetric"):
        laplacian(states, np.array([[0.0, 1.0], [0.5, 0.0]]), strength=0.1)


def test_a_random_graph_is_drawn_by_seed_and_pair_whoever_else_is_there() -> None:
    graph = random_graph(["a", "b", "c"], seed=4)

    assert np.array_equal(graph, graph.T)
    assert not graph.diagonal().any()
    assert ((graph >= 0) & (graph < 1)).all()
    assert random_graph(["c", "a"], seed=4)[0, 1] == graph[0, 2]
    assert random_graph(["a", "b"], seed=5)[0, 1] != graph[0, 1]
    assert settling(graph[:2, :2]) > settling(graph)
