"""`atlas show topology` tells what no file states, and by which rule it is."""

from __future__ import annotations

import networkx as nx
import pytest

from atlas.cli import main


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def path(tmp_path):
    graph = nx.Graph(Network="two-cities")
    graph.add_node("Oslo", Latitude=59.91, Longitude=10.75, Internal=1)
    graph.add_node("Bergen", Latitude=60.39, Longitude=5.32, Internal=1)
    graph.add_node("island", Internal=1)
    graph.add_edge("Oslo", "Bergen", LinkSpeedRaw=155e6)
    nx.write_graphml(graph, tmp_path / "network")
    return str(tmp_path / "network")


def shown(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["show", "topology", *arguments])
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def test_what_is_derived_is_marked_and_counted(capsys, path):
    text = shown(capsys, path, "--rule", "disconnected=largest")
    assert "two-cities: 2 nodes" in text
    row = next(line for line in text.splitlines() if line.split()[:2] == ["Oslo", "Bergen"])
    assert "155 Mbit/s" in row
    assert "≈ 155" not in row
    assert "≈ 1.53 ms" in row
    assert ["link's", "delay_s", "great-circle", "2"] in [
        line.split() for line in text.splitlines()
    ]


def test_what_a_file_states_bears_no_mark(capsys):
    assert "≈" not in shown(capsys, "edge-clusters")


def test_a_rule_on_the_command_line_changes_what_is_derived(capsys, path):
    rules = ("--rule", "disconnected=keep", "--rule", "delay_per_km=10 us")
    assert "≈ 3.05 ms" in shown(capsys, path, *rules)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the network falls apart into 2 parts"),
        (("--rule", "disconected=keep"), 'Did you mean "disconnected"'),
        (("--rule", "disconnected"), "Write KEY=VALUE"),
        (("--rule", "bandwidth=10 Mbps"), "--rule: bandwidth: "),
        (("--rule", "ignore=[a"), "--rule ignore:1: this is not YAML"),
    ],
)
def test_a_rule_that_can_not_be_and_a_network_that_falls_apart_end_with_a_sentence(
    capsys, path, arguments, words
):
    with pytest.raises(SystemExit) as ended:
        main(["show", "topology", path, *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
