"""Whatever is done to a good file of these two rooms, it means something or gets an error.

The error names the file and says where or what would be right; there is never a traceback. The
mutations are those of people: a letter wrong, a word misplaced, a line lost, doubled or indented.
"""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
import topologies
from faults import ScenarioError
from topologies import InputError

TOPOLOGY = """\
name: small
attributes: [floor]
kinds:
  line: {up: {bandwidth: 1 Mbit/s, delay: 9 ms}, down: {bandwidth: 8 Mbit/s}, delay: 5 ms}
nodes:
  hub: {role: gateway}
  phone: {role: client, device: phone-midrange, grant: 64 MiB, cluster: 1, floor: 2.5}
  pi-0..2: {role: host, device: raspberry-pi-4}
links:
  - {between: [phone, hub], kind: line, jitter: 1 ms, loss: {mean: 1 %, burst: 3}}
  - {between: [pi-0..2, hub], bandwidth: 100 Mbit/s, delay: 1 ms, queue: codel, medium: wifi}
  - {from: pi-0, to: pi-1, bandwidth: 1 Gbit/s, delay: 1 us, jitter: {spread: 1 us, shape: normal}}
transport: {congestion: reno, initial_window: 4, send_buffer: 1 MiB}
"""
SCENARIO = """\
name: evening
timeline:
  - {at: 30 s, crash: pi-0, for: 20 s}
  - {at: 40 s, crash: [host of phone, role=host], for: 30 s, id: both}
  - {at: 60 s, partition: [[cluster=1], ["pi-[01]", hub]], for: 15 s}
  - {at: 60 s, partition: {groups: [[phone], [hub]], oneway: true}, for: 15 s}
  - {at: 80 s, degrade: {link: [phone, hub], bandwidth: 10%, delay: +150 ms}, for: 1 min}
  - {at: 81 s, degrade: {nodes: host of phone, jitter: 3x, loss: +2 %}}
  - {at: 90 s, slow: {nodes: device=raspberry-pi-4, compute: 4x}}
  - {at: 91 s, stop: pi-1, for: 3 s}
  - {at: 92 s, pause: [host of phone, hub], for: 3 s}
  - {at: 93 s, skew: {nodes: "pi-*", offset: -200 ms, drift: 50 ppm}, for: 9 s}
  - {at: 94 s, traffic: {from: phone, to: role=host, rate: 1 Mbit/s}, for: 9 s}
  - {at: 95 s, degrade: {nodes: pi-2, loss: 2 %, burst: 8, reorder: +1 %, duplicate: 1 %}}
  - {at: 96 s, leave: any 50 % of role=host, for: 3 s}
  - {at: 97 s, join: pi-2, for: 3 s}
  - {at: 97 s, full_disk: busiest host, for: 3 s}
  - {at: 97 s, squeeze: {nodes: role=host, memory: 50 %}, for: 3 s}
  - {at: 98 s, burst_loss: {nodes: "any 2", chance: 3 %, burst: 8}, for: 3 s}
  - {at: 98 s, reorder: {link: [phone, hub], oneway: true, chance: +1 %}, for: 3 s}
  - {at: 98 s, cut: {nodes: "pi-[12]", oneway: true}, for: 3 s}
  - {at: 99 s, flap: {link: [hub, pi-1], down: 500 ms, up: 2 s}, for: 9 s}
  - {at: 99 s, nat: {nodes: [phone, pi-0], gateway: hub}, for: 9 s}
  - {at: 99 s, partition: [[pi-1, pi-2], [others]], for: 9 s}
  - {at: 99 s, trace: {file: TRACE, link: [pi-1, hub], unit: kbit/s}, for: 9 s}
processes:
  - churn: {nodes: role=host, mean_up: 4 min, mean_down: 30 s, until: 5 min}
  - {id: dice, crashes: {nodes: "*", mean_between: 2 min, mean_down: 9 s, until: 5 min}}
  - flapping: {nodes: "pi-*", mean_up: 1 min, mean_down: 2 s, until: 5 min}
  - diurnal: {nodes: phone, most: 90 %, least: 10 %, mean_stay: 9 min, until: 2 h, as: pause}
"""
SMALL = topologies.parse(TOPOLOGY)
SPICE = [
    "", "0", "-1", "1:30", "no", "null", "true", "[]", "{}", "[[", "*a", "&a b", "!!x y", "%",
    "1e99 s", "1e999 %", "\x00", "\t", "'", '"', "- ", ": ", "#", "ü", "\U0001f600", "of", " of ",
    "x=y", "*", "[", "nan", ".inf", "999999999999999999999", "1 ns", "0 s", "<<: ", "? ", "|", ">",
    "---", "...", "@",
]  # fmt: skip


def mutate(text: str, seed: int) -> str:
    """The text with one to three slips of the pen."""
    dice = random.Random(seed)
    for _ in range(dice.randint(1, 3)):
        words = re.split(r"(\W)", text)
        lines = text.split("\n")
        at, line, word = (dice.randrange(len(x)) for x in (text, lines, words))
        slip = dice.randrange(8)
        if slip == 0:
            text = text[:at] + text[at + 1 :]
        elif slip == 1:
            text = text[:at] + dice.choice(SPICE) + text[at:]
        elif slip == 2:
            words[word] = dice.choice(SPICE)
            text = "".join(words)
        elif slip == 3:
            other = dice.randrange(len(words))
            words[word], words[other] = words[other], words[word]
            text = "".join(words)
        elif slip == 4:
            text = "\n".join([*lines[:line], *lines[line + 1 :]])
        elif slip == 5:
            text = "\n".join([*lines[:line], lines[line], *lines[line:]])
        elif slip == 6:
            text = "\n".join([*lines[:line], "  " + lines[line], *lines[line + 1 :]])
        else:
            text = text[:at] + dice.choice("abcxyz0189 :,[]{}%+-=*") + text[at + 1 :]
        if not text:
            return " "
    return text


def assert_speaks_to_a_person(error: InputError, *, needs_line: bool = False) -> None:
    assert error.file == "file.yaml"
    assert error.remedy or error.key or error.line or "nested" in error.problem, str(error)
    assert "Traceback" not in str(error)
    assert len(str(error)) < 1000
    if needs_line:
        whole = "empty" in error.problem or "nested" in error.problem
        assert error.line or whole, str(error)


@pytest.fixture(scope="module", autouse=True)
def _a_trace(tmp_path_factory):
    """In a folder of its own, which is the current one: mutations name other files, too."""
    folder = tmp_path_factory.mktemp("traces")
    (folder / "TRACE").write_text("0 100\n2 0\n5 300\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@given(st.integers(min_value=0, max_value=2**32))
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_mutated_topology_means_something_or_gets_an_error(seed):
    try:
        topology = topologies.parse(mutate(TOPOLOGY, seed), "file.yaml")
    except InputError as error:
        assert_speaks_to_a_person(error)
    else:
        assert topology.nodes


def test_the_file_that_is_mutated_is_good_and_has_every_kind():
    scenario = faults.parse(SCENARIO)
    assert faults.expand(scenario, SMALL, seed=1)
    spellings = {"loss", "corrupt", "duplicate"}
    assert {fault.kind for fault in scenario.timeline} == set(faults.KINDS) - spellings
    assert {process.kind for process in scenario.processes} == set(faults.PROCESSES)


THOUSAND = 1_000


@pytest.mark.parametrize("hundred", range(THOUSAND // 100))
def test_a_thousand_mutated_scenarios_mean_something_or_get_an_error(hundred, monkeypatch):
    # Enough for what is meant; a slip that means millions of events is refused all the sooner.
    monkeypatch.setattr("faults.chance.MOST_EVENTS", 2_000)
    for seed in range(100 * hundred, 100 * (hundred + 1)):
        try:
            scenario = faults.parse(mutate(SCENARIO, seed), "file.yaml")
            events = faults.expand(scenario, SMALL, seed=1)
        except ScenarioError as error:
            assert_speaks_to_a_person(error, needs_line=True)
        else:
            again = faults.parse(faults.concrete(events, name="again"))
            assert faults.expand(again, SMALL, seed=2) == events


@pytest.mark.parametrize("text", [TOPOLOGY, SCENARIO])
def test_most_mutations_of_a_good_file_are_noticed(text):
    """Or else the two tests above would show nothing."""
    read = topologies.parse if text is TOPOLOGY else faults.parse
    refused = 0
    for seed in range(100):
        try:
            read(mutate(text, seed), "file.yaml")
        except InputError:
            refused += 1
    assert refused > 50
