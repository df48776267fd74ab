"""A bus that is restarted: its run, its nodes and its faults go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import faults
from broker import BrokerError, FrameError, Node, keys, wall
from broker.admission import Admission, Newcomer, proof_of
from broker.clock import to_seconds
from broker.resuming import Edit, Journal, replay
from broker.serve import Bus
from broker.wire import Frame, Kind
from faults import Event
from tests.broker.harbor import WORD, harbor, letter, messages, started
from tests.broker.worlds import crash, network
from topologies import InputError

PATH = network("a-b", bandwidth_bps=1e9, delay_s=0.002)
DEADLINE_S = 20.0


class Station:
    """A bus with a journal at one endpoint, which can be stopped and started again."""

    def __init__(self, folder: Path, events: tuple[Event, ...], expected: int) -> None:
        self.endpoint = f"ipc://{folder}/bus"
        self._path, self._events, self._expected = folder / "run.json", events, expected
        self.start()

    def start(self) -> None:
        self.journal = Journal(self._path, PATH, self._events, seed=1)
        self.bus = Bus(
            PATH,
            tuple(PATH.nodes),
            self.journal.events,
            seed=1,
            words=dict.fromkeys(PATH.nodes, WORD),
            expected=self._expected,
            resumed=self.journal.resumed,
        )
        self.bus.bind(self.endpoint)
        self._thread = threading.Thread(target=self.bus.run, daemon=True)
        self._thread.start()

    def stop(self, *, back: bool = True) -> None:
        self.bus.stop()
        self._thread.join(DEADLINE_S)
        self.journal.keep(self.bus)
        self.bus.close(back=back)

    def until(self, holds: Callable[[], object]) -> None:
        until = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < until, "it has not come to hold"
            time.sleep(0.005)


@contextlib.contextmanager
def station(folder: Path, *events: Event, expected: int = 1) -> Iterator[Station]:
    here = Station(folder, events, expected)
    try:
        yield here
    finally:
        here.stop(back=False)


@contextlib.contextmanager
def joined(here: Station, **programs: object) -> Iterator[dict[str, object]]:
    """Programs in a process's place, which is this thread's; what they return, in the end."""
    returned: dict[str, object] = {}

    def live() -> None:
        try:
            returned.update(wall.join(here.endpoint, programs, word=WORD))
        except BrokerError as error:
            returned["error"] = error

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    yield returned
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


async def echo(node: Node) -> None:
    node.declare("server", [node.name])
    node.subscribe("news")
    async for message in node:
        if message.topic:
            return
        if message.asks:
            await message.reply({"life": node.incarnation})


def asking(step: threading.Event, went: threading.Event) -> object:
    async def ask(node: Node) -> list[object]:
        first = await node.request("b", {}, timeout=10)
        step.set()
        while not went.is_set():  # noqa: ASYNC110 - the bus is restarted by a thread meanwhile
            await asyncio.sleep(0.01)
        await node.send("b", {"while": "away"})
        second = await node.request("b", {}, timeout=10)
        await node.publish("news", {})
        return [first.header["life"], second.header["life"], node.incarnation, node.now]

    return ask


def test_programs_go_on_when_their_bus_is_back(tmp_path):
    step, went = threading.Event(), threading.Event()
    with (
        station(tmp_path, expected=2) as here,
        joined(here, a=asking(step, went)) as asked,
        joined(here, b=echo) as answered,
    ):
        assert step.wait(DEADLINE_S)
        before_s = to_seconds(here.bus.now_ns)
        run = here.bus.run_name
        here.stop()
        went.set()
        time.sleep(0.05)
        here.start()
        assert here.bus.run_name == run
        here.until(lambda: "b" in answered and "a" in asked)
        assert here.bus.strikes.facts["server"] == ("b",)
    first, second, life, now_s = asked["a"]
    assert (first, second, life) == (0, 0, 0)  # nobody was started anew
    assert now_s > before_s  # the clock went on


def test_programs_find_a_bus_again_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.port._DOUBT_S", 0.2)
    step, went = threading.Event(), threading.Event()
    with (
        station(tmp_path, expected=2) as here,
        joined(here, a=asking(step, went)) as asked,
        joined(here, b=echo),
    ):
        assert step.wait(DEADLINE_S)
        monkeypatch.setattr("broker.relay.Relay.tell", lambda *_: None)  # no farewell
        monkeypatch.setattr("broker.serve.FAREWELL_S", 0)
        here.stop()
        monkeypatch.undo()
        monkeypatch.setattr("broker.port._DOUBT_S", 0.2)
        here.start()
        here.until(lambda: len(here.bus.relay.connections()) == 2)
        went.set()
        here.until(lambda: "a" in asked)
    assert asked["a"][:3] == [0, 0, 0]


def test_a_node_that_a_fault_has_struck_meanwhile_learns_of_it_when_the_bus_is_back(tmp_path):
    async def count(node: Node) -> int:
        if not node.incarnation:
            await asyncio.sleep(3600)
        return node.incarnation

    events = crash("a", 0.6, 1.2)
    with station(tmp_path, *events) as here, joined(here, a=count) as counted:
        here.until(here.bus.relay.connections)
        here.until(lambda: here.bus.now_ns > 0.2e9)
        here.stop()
        while to_seconds(here.bus.now_ns) < 0.8:
            time.sleep(0.01)
        here.start()
        assert not here.bus.strikes.conditions.is_up("a")
        here.until(lambda: "a" in counted)
        assert here.bus.now_ns > 1.2e9
    assert counted["a"] in (1, 2)  # 2: it was not back yet when its first new life began


def test_what_was_done_by_hand_is_done_still(tmp_path):
    events = crash("a", 3600)
    with station(tmp_path, *events) as here:
        here.bus.ask(lambda: None).result(5)
        by_hand = faults.parse("timeline: [{at: 1 s, pause: b, for: 1 h, id: mine}]")
        added = faults.expand(by_hand, PATH, 1)
        with joined(here, a=echo) as gone:
            here.until(lambda: here.bus.started_ns is not None)
            text = faults.concrete(added, name="mine")
            here.bus.ask(lambda: here.bus.strikes.add(added)).result(5)
            here.journal.edit(Edit(at_ns=0, add=text), here.bus)
            here.bus.ask(lambda: here.bus.strikes.drop("crash", 10**9)).result(5)
            here.journal.edit(Edit(at_ns=10**9, drop="crash"), here.bus)
            here.stop()
            here.start()
            assert {event.fault for event in here.bus.to_come()} == {"mine"}
            assert here.journal.added == ["mine"]
            here.until(lambda: here.bus.strikes.conditions.is_paused("b"))
            here.until(here.bus.relay.connections)
            here.stop(back=False)
            here.start()
        assert gone == {}


def test_a_run_whose_clock_has_not_started_is_kept_too(tmp_path):
    with station(tmp_path) as here:
        run = here.bus.run_name
        here.stop()
        here.start()
        assert (here.bus.run_name, here.bus.started_ns) == (run, None)
        with joined(here, a=echo):
            here.until(lambda: here.bus.started_ns is not None)
            here.stop(back=False)
            here.start()
        assert here.bus.run_name == run


def test_faults_after_what_was_done_by_hand():
    scenario = faults.parse(
        "timeline: [{at: 1 s, pause: a, for: 9 s, id: x}, {at: 5 s, crash: b, id: y},"
        " {at: 2 s, flap: {link: [a, b], down: 1 s, up: 1 s}, for: 6 s, id: z}]"
    )
    events = faults.expand(scenario, PATH, 0)

    def left(*edits: Edit) -> list[tuple[float, str, str]]:
        return [
            (to_seconds(event.at_ns), event.fault, event.phase)
            for event in replay(events, edits, PATH, 0)
        ]

    three_s = 3 * 10**9
    assert left() == [(to_seconds(e.at_ns), e.fault, e.phase) for e in events]
    assert (3.0, "x", "end") in left(Edit(at_ns=three_s, drop="x"))
    assert (10.0, "x", "end") not in left(Edit(at_ns=three_s, drop="x"))
    assert not [entry for entry in left(Edit(at_ns=three_s, drop="y")) if entry[1] == "y"]
    flaps = [entry for entry in left(Edit(at_ns=three_s, drop="z")) if entry[1].startswith("z")]
    assert flaps == [(2.0, "z.1", "begin"), (3.0, "z.1", "end")]
    assert max(at_s for at_s, *_ in left(Edit(at_ns=three_s, drop=""))) == 3.0


def test_another_run_at_the_same_place_is_not_the_one_that_nodes_were_in(tmp_path):
    step, went = threading.Event(), threading.Event()
    with (
        station(tmp_path, expected=2) as here,
        joined(here, a=asking(step, went)) as asked,
        joined(here, b=echo) as answered,
    ):
        assert step.wait(DEADLINE_S)
        here.stop()
        (tmp_path / "run.json").unlink()
        here.start()
        here.until(lambda: "error" in asked and "error" in answered)
    assert "serves another run now" in str(asked["error"])


@pytest.mark.parametrize("keyed", [False, True], ids=["word", "keys"])
def test_who_is_cut_off_comes_back_to_the_same_bus(keyed, tmp_path):
    folder = tmp_path if keyed else None
    if keyed:
        keys.make(tmp_path, ["a", "b"])
    with harbor(PATH, expected=2, folder=folder) as here:
        a, b = (started(port) for port in [here.port(name, folder=folder) for name in "ab"])
        a.send([letter(a, 0, 1)])
        messages(b, 1)
        word = b._word
        b._socket.disconnect(here.endpoint)
        b._socket.connect(here.endpoint)
        b._asked_s = b._heard_s = 0.0
        b._patience_s = 1e9
        b.read()
        here.until(lambda: b.read() is not None and b._word != word)
        a.send([letter(a, 0, 1, 2)])
        assert [one.sequence for one in messages(b, 1)] == [2]


@pytest.mark.parametrize("lives", [{"b": 0}, {"a": -1}, {"a": "x"}, [], {"a": 2**40}, {"z": 0}])
def test_lives_that_make_no_sense_let_nobody_in(lives):
    admission = Admission(("a", "b"), {"a": WORD, "b": WORD}, keyed=False, is_here=lambda _: False)
    answer = admission.hear(b"\0abcd", "", {})
    assert isinstance(answer, dict)
    proof = proof_of(WORD, answer["question"], ["a"])
    with pytest.raises(FrameError, match="lives that make no sense"):
        admission.hear(b"\0abcd", "", {"nodes": ["a"], "proof": proof, "lives": lives})


def test_only_who_proves_to_be_a_node_takes_it_over_and_only_to_go_on():
    admission = Admission(("a",), {"a": WORD}, keyed=False, is_here=lambda _: True)
    for word, lives, why in ((WORD, {}, "second hello"), (b"guess", {"a": 3}, "wrong word")):
        question = admission.hear(b"\0abcd", "", {})["question"]
        hello = {"nodes": ["a"], "proof": proof_of(word, question, ["a"]), "lives": lives}
        with pytest.raises(FrameError, match=why):
            admission.hear(b"\0abcd", "", hello)
    question = admission.hear(b"\0abcd", "", {})["question"]
    hello = {"nodes": ["a"], "proof": proof_of(WORD, question, ["a"]), "lives": {"a": 3}}
    assert admission.hear(b"\0abcd", "", hello) == Newcomer(b"\0abcd", frozenset({0}), {0: 3})


def test_a_file_of_another_run_is_refused(tmp_path):
    with station(tmp_path) as here:
        here.until(lambda: True)
        with joined(here, a=echo):
            here.until(lambda: here.bus.started_ns is not None)
            here.stop(back=False)
            here.start()
    file = tmp_path / "run.json"
    with pytest.raises(InputError, match="another topology, other faults or another seed"):
        Journal(file, PATH, (), 2)
    with pytest.raises(InputError, match="another topology, other faults or another seed"):
        Journal(file, PATH, crash("a", 1), 1)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"run\.json: is no file of a bus's run"):
        Journal(file, PATH, (), 1)


def test_after_a_reboot_the_clock_goes_on_by_the_calendar(tmp_path, monkeypatch):
    with station(tmp_path) as here:
        with joined(here, a=echo):
            here.until(lambda: here.bus.started_ns is not None)
            here.stop(back=False)
            here.start()
        now_s = to_seconds(here.bus.now_ns)
        monkeypatch.setattr("broker.resuming.machine", lambda: "another")
        resumed = Journal(tmp_path / "run.json", PATH, (), 1).resumed
        assert resumed is not None
        elapsed_s = to_seconds(time.monotonic_ns() - resumed.started_ns)
        assert now_s - 0.5 < elapsed_s < now_s + 5


def test_a_disk_that_is_full_does_not_end_the_bus(tmp_path, caplog):
    with station(tmp_path) as here:
        with joined(here, a=echo):
            here.until(lambda: here.bus.started_ns is not None)
            (tmp_path / "run.json.new").mkdir()
            here.journal.keep(here.bus)
            assert "the run could not be kept" in caplog.text
            (tmp_path / "run.json.new").rmdir()
            here.stop(back=False)
            here.start()
        assert here.journal.resumed is not None  # it was tried again


def test_datagrams_are_lost_while_the_bus_is_away_and_messages_wait():
    from broker.absence import Absence, under_way
    from broker.wire import DATAGRAM, NOBODY, unpack

    absence = Absence()
    letters = [
        Frame(Kind.SEND, 0, 1, 1),
        Frame(Kind.SEND, 0, 1, 2, flags=DATAGRAM),
        Frame(Kind.SEND, 0, 1, 3),
    ]
    absence.begin()
    absence.hold(letters)
    held = absence.end()
    assert [frame.sequence for frame in held] == [1, 3]
    (news,) = under_way([0], held, 5)
    assert (news.kind, news.source, news.destination) == (Kind.RECEIPT, NOBODY, 0)
    assert unpack(news.body) == {"1": 2 * letters[0].size_bytes}
