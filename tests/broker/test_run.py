"""A run: what comes of it, how it ends, and what it says when it can't."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
from functools import partial

import pytest

import broker
from broker import (
    BrokerError,
    DeadlockError,
    LedgerError,
    LimitError,
    LivelockError,
    LostError,
    Node,
    ProgramError,
    SpinError,
    scheduler,
)
from broker import clock as clock_module
from broker.network import Fate, Network
from faults import ScenarioError
from faults.event import Event
from tests.broker.worlds import SECOND, crash, network, partition, slow, strike

PAIR = network("a-b", "b-c")


async def wait(node: Node) -> None:
    await node.receive()


async def idle(node: Node) -> str:
    return node.name


def line_of(function, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_a_run_gives_what_the_programs_returned_in_their_order():
    run = broker.run({"c": idle, "a": idle}, topology=PAIR)
    assert list(run.returned.items()) == [("c", "c"), ("a", "a")]
    assert run.virtual_seconds == 0
    assert run.faults == ()
    assert len(run.ledger) == 0


def test_hours_pass_and_the_run_ends_with_its_last_program():
    async def sleep(node: Node) -> None:
        await asyncio.sleep(3600 if node.name == "a" else 7200)

    assert broker.run({"a": sleep, "b": sleep}, topology=PAIR).virtual_seconds == 7200


def test_background_programs_need_not_end():
    async def tick(_: Node) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(1)

    async def main(node: Node) -> float:
        await asyncio.sleep(2.5)
        return node.now

    run = broker.run({"a": tick, "b": main, "c": idle}, topology=PAIR, background=["a", "c"])
    assert run.returned == {"b": 2.5, "c": "c"}


def test_what_returns_after_the_end_has_not_returned():
    async def main(_: Node) -> str:
        await asyncio.sleep(1)
        return "in time"

    async def late(_: Node) -> str:
        await asyncio.sleep(1.005)
        return "late"

    run = broker.run({"a": main, "b": late, "c": main}, topology=PAIR, background=["b", "c"])
    assert run.virtual_seconds == 1
    assert run.returned == {"a": "in time", "c": "in time"}


def test_a_digest_is_over_the_messages_and_not_over_what_programs_noted_or_returned():
    def play(said: int) -> broker.Run:
        async def tell(node: Node) -> int:
            await asyncio.sleep(1)
            node.note("said", it=said)
            await node.send("b", {})
            return said

        return broker.run({"a": tell, "b": wait}, topology=PAIR)

    one, two = play(1), play(2)
    assert (one.returned["a"], two.returned["a"]) == (1, 2)
    assert one.digest == two.digest


def test_the_books_balance_when_messages_are_still_under_way():
    async def tell(node: Node) -> None:
        for _ in range(3):
            await node.send("b", {}, [bytes(1_000_000)])
        await asyncio.sleep(1.5)

    run = broker.run({"a": tell, "b": wait}, topology=PAIR)
    assert run.ledger.fates() == {"delivered": 1, "in flight": 2}


def test_a_run_may_be_started_from_a_running_loop():
    async def outside():
        before = asyncio.get_running_loop()
        run = broker.run({"a": idle}, topology=PAIR)
        await asyncio.sleep(0)
        return run.returned, asyncio.get_running_loop() is before

    assert asyncio.run(outside()) == ({"a": "a"}, True)


def test_tasks_that_are_left_are_cancelled_when_the_program_returns_and_it_ends_with_them(caplog):
    order: list[int] = []

    async def child(node: Node, number: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            order.append(number)
            await node.send("b", {}, purpose="goodbye")
            await asyncio.sleep(3)
            if number == 7:
                raise ValueError("while cleaning up")

    async def main(node: Node) -> str:
        tasks = [asyncio.create_task(child(node, number)) for number in range(40)]
        await asyncio.sleep(1)
        return f"{len(tasks)} tasks"

    run = broker.run({"a": main, "b": idle}, topology=PAIR)
    assert run.returned["a"] == "40 tasks"
    assert order == list(range(40))
    assert run.virtual_seconds == 4
    assert run.ledger.fates() == {"delivered": 40}
    assert "ValueError: while cleaning up" in caplog.text


def test_a_program_that_is_stopped_while_its_tasks_clean_up_has_not_returned():
    async def main(node: Node) -> int:
        async def child() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(5)

        task = asyncio.create_task(child())
        await asyncio.sleep(1)
        assert not task.done()
        return node.incarnation

    run = broker.run({"a": main}, topology=PAIR, faults=strike("stop", "a", 3, 10))
    assert run.returned["a"] == 1
    assert run.virtual_seconds == 16


# How it ends badly.


def test_a_program_that_fails_is_reported_with_node_time_and_line():
    async def fail(_: Node) -> None:
        await asyncio.sleep(1.5)
        raise ValueError("enough")

    with pytest.raises(ProgramError) as caught:
        broker.run({"a": wait, "b": fail}, topology=PAIR)
    assert (caught.value.node, caught.value.time_s, caught.value.problem) == ("b", 1.5, "")
    assert "ValueError: enough" in caught.value.report
    assert f"line {line_of(fail, 'raise')}, in fail" in caught.value.report


def test_a_program_that_fails_is_reported_at_once_whatever_its_other_tasks_do():
    async def main(_: Node) -> None:
        async def linger() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(100)

        task = asyncio.create_task(linger())
        await asyncio.sleep(2)
        raise ValueError(f"enough of {task.get_name()}")

    with pytest.raises(ProgramError, match="enough of") as caught:
        broker.run({"a": main}, topology=PAIR)
    assert caught.value.time_s == 2


def test_what_bad_input_means_to_a_person_is_kept():
    async def fail(_: Node) -> None:
        async with asyncio.TaskGroup():
            raise ScenarioError("no such thing", remedy="Try another")

    with pytest.raises(ProgramError) as caught:
        broker.run({"a": fail}, topology=PAIR)
    assert caught.value.problem == "no such thing. Try another"


@pytest.mark.parametrize("order", ["abc", "cba"])
def test_of_two_that_fail_at_once_the_first_of_the_run_is_reported(order):
    async def fail(node: Node) -> None:
        await asyncio.sleep(1)
        if node.name != "b":
            raise ValueError(node.name)

    with pytest.raises(ProgramError) as caught:
        broker.run(dict.fromkeys(order, fail), topology=PAIR)
    assert caught.value.node == order[0]


def test_a_program_that_is_cancelled_has_failed():
    async def main(_: Node) -> None:
        task = asyncio.create_task(asyncio.sleep(9))
        await asyncio.sleep(1)
        task.cancel()
        await task

    with pytest.raises(ProgramError, match="the program was cancelled") as caught:
        broker.run({"a": main}, topology=PAIR)
    assert (caught.value.node, caught.value.time_s) == ("a", 1)


def test_a_deadlock_names_who_waits_and_at_which_line():
    async def listen(node: Node) -> None:
        await asyncio.sleep(2)
        await inner(node)

    async def inner(node: Node) -> None:
        await node.receive()

    async def never(_: Node) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError) as caught:
        broker.run({"a": listen, "b": idle, "c": never}, topology=PAIR)
    assert caught.value.time_s == 2
    assert list(caught.value.waiting) == ["a", "c"]
    where = caught.value.waiting["a"]
    assert f"(test_run.py:{line_of(listen, 'inner(node)')})" in where
    assert f"inner (test_run.py:{line_of(inner, 'receive')})" in where
    assert f"(test_run.py:{line_of(never, 'Event')})" in caught.value.waiting["c"]


def test_a_deadlock_names_every_task_that_waits_and_what_failed_unheard():
    async def child(node: Node) -> None:
        await node.receive()

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("the cause")

    async def group(node: Node) -> None:
        node.suspects("b")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child(node))
            tasks.create_task(asyncio.Event().wait())

    async def gather(node: Node) -> None:
        failing = asyncio.create_task(fail())
        await asyncio.gather(*(child(node) for _ in range(3)), asyncio.Event().wait())
        await failing

    def waiting(program) -> list[str]:
        with pytest.raises(DeadlockError) as caught:
            broker.run({"a": program, "b": idle}, topology=PAIR, faults=strike("pause", "a", 5))
        return caught.value.waiting["a"].splitlines()

    waits = f"child (test_run.py:{line_of(child, 'receive')}) → receive() → _wait_for_mail()"
    main, three, event, failure = waiting(gather)
    assert f"gather (test_run.py:{line_of(gather, 'gather(*')})" in main
    assert three.startswith("    and 3 x ")
    assert three.endswith(waits)
    assert "and Event.wait (locks.py:" in event
    assert failure == "    a task failed at 1.000000 s: ValueError('the cause')"
    main, one, event = waiting(group)  # and its heartbeats are no task of the program's
    assert "→ TaskGroup.__aexit__ (taskgroups.py:" in main
    assert one.endswith(waits)
    assert "and Event.wait (locks.py:" in event


def test_a_report_of_a_deadlock_has_few_lines():
    async def nested(depth: int) -> None:
        await (nested(depth - 1) if depth else asyncio.Event().wait())

    async def many(_: Node) -> None:
        await asyncio.gather(*(nested(depth) for depth in range(20)))

    with pytest.raises(DeadlockError) as caught:
        broker.run({"a": many}, topology=PAIR)
    lines = caught.value.waiting["a"].splitlines()
    assert (len(lines), lines[-1]) == (10, "    and 12 more")


def test_a_node_that_never_comes_back_is_down_in_the_deadlocks_report():
    with pytest.raises(DeadlockError) as caught:
        broker.run({"a": wait, "b": wait}, topology=PAIR, background=["b"], faults=crash("b", 1))
    assert caught.value.waiting["b"] == "down"


@pytest.mark.parametrize("kind", ["crash", "stop"])
def test_a_run_ends_where_a_program_it_waits_for_will_never_come_back(kind):
    faults = [*strike(kind, "b", 2, 3), *strike(kind, "b", 2.5), *crash("a", 9, 10)]
    with pytest.raises(LostError, match=r"node b is down for good since 2\.500000 s") as caught:
        broker.run({"a": sixty, "b": sixty}, topology=PAIR, faults=faults)
    assert (caught.value.node, caught.value.time_s) == ("b", 2.5)
    assert broker.run(
        {"a": sixty, "b": sixty}, topology=PAIR, faults=faults, background=["b"]
    ).returned == {"a": None}


def test_programs_that_answer_each_other_at_one_instant_are_a_livelock(monkeypatch):
    class NoTime(Network):
        """Everything arrives as it is sent."""

        def send(self, at_ns: int, number: int, *_: object, **__: object) -> None:
            self.here = [*getattr(self, "here", ()), Fate(number, at_ns)]

        def advance(self, _: int) -> list[Fate]:
            here, self.here = getattr(self, "here", []), []
            return here

        def lookahead_ns(self, _: object) -> int:
            return 0

        def in_flight(self) -> int:
            return len(self.here)

    async def answer(node: Node) -> None:
        await asyncio.sleep(3)
        if node.name == "a":
            await node.send("b", {})
        async for message in node:
            await node.send(message.source, {})

    monkeypatch.setattr(scheduler, "ROUNDS_AT_AN_INSTANT", 50)
    monkeypatch.setattr(sys.modules["broker.runs"], "Network", NoTime)
    with pytest.raises(LivelockError, match=r"50 rounds at virtual time 3\.0"):
        broker.run({"a": answer, "b": answer}, topology=PAIR)


def test_a_program_that_chases_its_own_messages_spins():
    async def chase(node: Node) -> None:
        await node.send("a", {})
        async for _ in node:
            await node.send("a", {})

    with pytest.raises(SpinError, match="node a ran"):
        broker.run({"a": chase}, topology=PAIR)


def test_a_program_that_never_waits_is_reported(monkeypatch):
    monkeypatch.setattr(clock_module, "_SPIN_LIMIT", 1_000)

    async def spin(_: Node) -> None:
        await asyncio.sleep(1)
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(SpinError, match=r"node b .* 1\.000000 s"):
        broker.run({"a": wait, "b": spin}, topology=PAIR)


def test_a_program_that_computes_for_nothing_for_ever_is_reported(monkeypatch):
    monkeypatch.setattr("broker.machine._PASSES_AT_AN_INSTANT", 100)

    async def spin(node: Node) -> None:
        while True:
            await node.compute(lambda: None, flops=0)

    with pytest.raises(SpinError, match="node b"):
        broker.run({"a": wait, "b": spin}, topology=PAIR)


def test_a_run_that_goes_on_for_too_long_is_stopped():
    async def tick(_: Node) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(1)

    with pytest.raises(LimitError, match="has not ended after 60 virtual seconds") as caught:
        broker.run({"a": tick, "b": wait, "c": idle}, topology=PAIR, limit_s=60)
    assert list(caught.value.waiting) == ["a", "b"]
    assert f"wait (test_run.py:{line_of(wait, 'receive')})" in caught.value.waiting["b"]
    assert caught.value.waiting["b"] in str(caught.value)
    assert broker.run({"a": sixty}, topology=PAIR, limit_s=60).virtual_seconds == 60


async def sixty(_: Node) -> None:
    await asyncio.sleep(60)


async def talk_until(node: Node, end: str) -> None:
    """Two messages that arrive, one that is lost, and one under way when it ends."""
    for _ in range(2):
        await node.send("b", {})
        await asyncio.sleep(1)
    await node.send("c", {})
    await asyncio.sleep(1)
    await node.send("b", {}, [bytes(1_000_000)])
    await asyncio.sleep(0.5)
    if end == "fails":
        raise ValueError("enough")
    while end == "spins":  # noqa: ASYNC110
        await asyncio.sleep(0)
    while end == "goes on":  # noqa: ASYNC110
        await asyncio.sleep(1)
    await node.receive()


async def listen_once_more(node: Node) -> None:
    """Sends, too, in the window in which the other fails, before and after."""
    await asyncio.sleep(3.499)
    await node.send("c", {})
    node.note("just before")
    await asyncio.sleep(0.002)
    await node.send("c", {})
    node.note("just after")
    await node.receive()
    await node.receive()
    await node.receive()
    await node.receive()


@pytest.mark.parametrize(
    ("end", "kind", "fates"),
    [
        ("fails", ProgramError, {"delivered": 2, "destination down": 2, "in flight": 1}),
        ("waits", DeadlockError, {"delivered": 3, "destination down": 3}),
        ("spins", SpinError, {"delivered": 2, "destination down": 1, "in flight": 1}),
        ("goes on", BrokerError, {"delivered": 3, "destination down": 3}),
    ],
)
def test_an_error_that_ends_a_run_has_its_books_and_its_faults(monkeypatch, end, kind, fates):
    monkeypatch.setattr(clock_module, "_SPIN_LIMIT", 1_000)
    checked, notes = [], []
    check = broker.Ledger.check
    monkeypatch.setattr(
        broker.Ledger, "check", lambda *args: checked.append(args[1:]) or check(*args)
    )
    with pytest.raises(kind) as caught:
        broker.run(
            {"a": partial(talk_until, end=end), "b": listen_once_more, "c": wait},
            topology=PAIR,
            background=["c"],
            faults=crash("c", 1.5, 50),
            limit_s=60,
            observe=notes.append,
        )
    error = caught.value
    assert error.ledger is not None
    assert error.ledger.fates() == fates
    assert error.ledger.faults[0].text == "crash c"
    assert [(event.kind, event.phase) for event in error.faults] == [
        ("crash", "begin"),
        ("crash", "end"),
    ]
    assert len(checked) == 1
    if end == "fails":
        assert [note.event for note in notes] == ["fault", "just before"]
        assert max(entry.sent_ns for entry in error.ledger) == 3_499_000_000


def test_books_that_do_not_balance_are_told_where_the_run_had_failed_anyway(monkeypatch):
    async def fail(node: Node) -> None:
        await node.send("b", {})
        raise ValueError("enough")

    monkeypatch.setattr(Network, "in_flight", lambda _: 7)
    with pytest.raises(LedgerError, match="the network holds 7") as caught:
        broker.run({"a": fail, "b": wait}, topology=PAIR)
    assert isinstance(caught.value.__context__, ProgramError)
    assert caught.value.ledger is not None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"programs": {}}, "at least one program"),
        ({"programs": {"x": idle}}, "no node 'x' in topology small; it has a, b, c"),
        ({"processes": 0}, "processes is 0"),
        ({"background": ["b"]}, "no program 'b'"),
        ({"background": "a"}, r"background is 'a'; it is a list of names: \['a'\]"),
        ({"programs": {"a": "idle"}}, "program of node a is a str; give the function itself"),
        ({"limit_s": math.inf}, "limit_s is inf"),
        ({"limit_s": math.nan}, "limit_s is nan"),
        ({"limit_s": -1}, "limit_s is -1; it is a number of seconds, more than 0"),
        ({"topology": "edge-clusters"}, "no node 'a' in topology edge-clusters"),
    ],
)
def test_a_run_that_can_not_be_is_refused(options, reason):
    for clock in ("virtual", "wall"):
        with pytest.raises(BrokerError, match=reason):
            broker.run(**{"programs": {"a": idle}, "topology": PAIR, "clock": clock} | options)
    with pytest.raises(BrokerError, match=reason):
        asyncio.run(broker.run_async(**{"programs": {"a": idle}, "topology": PAIR} | options))


def test_networks_and_scenarios_may_be_named_or_stand_in_a_file(tmp_path):
    file = tmp_path / "evening.yaml"
    file.write_text("name: evening\ntimeline: [{at: 1 s, crash: client-0, for: 1 s}]")
    named = {"programs": {"client-0": sixty, "client-1": idle}, "topology": "edge-clusters"}
    for faults in (str(file), file):
        run = broker.run(**named, faults=faults)
        assert [event.at_ns // SECOND for event in run.faults] == [1, 2]
    assert run.digest == asyncio.run(broker.run_async(**named, faults=file)).digest
    with pytest.raises(ScenarioError, match="there is no such file"):
        broker.run(**named, faults="nowhere.yaml")


def test_a_program_that_is_none_is_told_so():
    async def generate(_: Node):
        yield 1

    for program, what in ((lambda _: 3, "int"), (generate, "async_generator")):
        with pytest.raises(ProgramError, match=f"node a is no `async def.* gave a {what} at once"):
            broker.run({"a": program}, topology=PAIR)


@pytest.mark.parametrize("act", ["fail", "note", "send", "note and send"])
def test_what_comes_after_the_end_has_not_been_though_it_came_in_the_same_window(act):
    """Nobody can hear of another within 10 ms, so programs run as far without asking."""

    async def end(_: Node) -> None:
        await asyncio.sleep(1)

    async def go_on(node: Node) -> None:
        await asyncio.sleep(1.005)
        if act == "fail":
            raise ValueError("after the end")
        if "note" in act:
            node.note("after the end")
        if "send" in act:
            await node.send("a", {})

    notes = []
    run = broker.run({"a": end, "b": go_on}, topology=PAIR, background=["b"], observe=notes.append)
    assert (run.virtual_seconds, len(run.ledger), notes) == (1, 0, [])


# Faults and observers.


def test_faults_are_told_in_the_order_of_time_however_they_are_given():
    notes = []

    async def main(_: Node) -> None:
        await asyncio.sleep(10)

    faults = [*slow("b", 2, 5, 6), *crash("c", 3, 4), *partition(["a"], ["b"], 1, 2)]
    run = broker.run({"a": main}, topology=PAIR, faults=faults, observe=notes.append)
    assert [event.at_ns // SECOND for event in run.faults] == [1, 2, 3, 4, 5, 6]
    assert [note.time_s for note in notes] == [1, 2, 3, 4, 5, 6]
    assert [note.fields["text"] for note in notes[:3]] == [
        "partition a | b",
        "end of partition a | b",
        "crash c",
    ]
    assert [fault.text for fault in run.ledger.faults] == [note.fields["text"] for note in notes]


def test_a_scenario_may_name_what_only_the_run_knows():
    async def main(node: Node) -> int:
        if node.name == "a":
            node.declare("host of a", ["b"])
            node.declare("host of a", ["c"])
        await asyncio.sleep(10)
        return node.incarnation

    faults = [
        Event(2 * SECOND, "1", "begin", "crash", selector="host of a"),
        Event(3 * SECOND, "1", "end", "crash", selector="host of a"),
    ]
    run = broker.run(dict.fromkeys("abc", main), topology=PAIR, faults=faults)
    assert run.returned == {"a": 0, "b": 0, "c": 1}
    assert [event.nodes for event in run.faults] == [("c",), ("c",)]


def test_a_scenario_that_names_what_the_run_never_said_is_an_error():
    faults = [Event(SECOND, "1", "begin", "crash", selector="host of a")]
    with pytest.raises(ScenarioError, match="host of a"):
        broker.run({"a": sixty}, topology=PAIR, faults=faults)


def test_observers_and_taps_see_everything_and_change_nothing():
    async def talk(node: Node) -> None:
        for i in range(5):
            await node.send("b", {"i": i}, [b"abc"], purpose="asks")
            node.note("told", i=i)
            await asyncio.sleep(0.01)

    async def listen(node: Node) -> None:
        async for message in node:
            await node.send(message.source, {"i": message.header["i"]})

    def play(**options) -> broker.Run:
        return broker.run(
            {"a": talk, "b": listen}, topology=PAIR, background=["b"], seed=4, **options
        )

    notes, frames = [], []
    watched = play(observe=notes.append, tap=lambda *frame: frames.append(frame))
    assert watched.digest == play().digest
    assert [note.fields["i"] for note in notes] == [0, 1, 2, 3, 4]
    assert [note.bytes_total for note in notes] == sorted(note.bytes_total for note in notes)
    assert [(source, destination) for source, destination, _ in frames] == [
        (entry.source, entry.destination) for entry in watched.ledger
    ]
    assert [frame.size_bytes for _, _, frame in frames] == [
        entry.size_bytes for entry in watched.ledger
    ]


def test_a_run_can_end_with_the_first_that_returns() -> None:
    async def soon(node: Node) -> float:
        await asyncio.sleep(2)
        return node.now

    async def never(_: Node) -> None:
        await asyncio.sleep(1e5)

    run = broker.run({"a": never, "b": soon}, topology=PAIR, ends="first")

    assert run.returned == {"b": 2.0}
    assert run.virtual_seconds == 2.0


def test_a_run_that_any_may_end_is_lost_only_when_all_are() -> None:
    async def one(node: Node) -> str:
        await asyncio.sleep(5)
        return node.name

    dead = crash("a", 1)
    run = broker.run({"a": one, "b": one}, topology=PAIR, faults=dead, ends="first")
    assert run.returned == {"b": "b"}

    both = [*dead, *crash("b", 2, fault="other")]
    with pytest.raises(LostError):
        broker.run({"a": one, "b": one}, topology=PAIR, faults=both, ends="first")


def test_somebody_has_to_be_able_to_end_a_run() -> None:
    async def one(node: Node) -> None: ...

    with pytest.raises(BrokerError, match="all are background"):
        broker.run({"a": one}, topology=PAIR, background=["a"], ends="first")
