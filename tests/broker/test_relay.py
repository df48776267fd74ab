"""The bus in wall time: messages through the network on the machine's clock, and its bounds."""

from __future__ import annotations

import contextlib
import os
import random
import time
from dataclasses import replace

import pytest
import zmq

from broker.port import Port
from broker.wire import DATAGRAM, NOBODY, PUBLISH, Frame, Kind, encode, pack
from tests.broker.harbor import (
    PAIR,
    both,
    dealer,
    harbor,
    letter,
    messages,
    receipts,
    started,
)
from tests.broker.worlds import SECOND, crash, degrade, network
from topologies import Topology, Transport

MS = 1_000_000
PACKETS = 3_000


def with_buffer(size_bytes: int) -> Topology:
    return PAIR.model_copy(update={"transport": Transport(send_buffer_bytes=size_bytes)})


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_messages_arrive_in_order_with_all_they_carry_and_never_early(transport):
    with harbor(expected=2, transport=transport) as here:
        a, b = both(here)
        sent = [letter(a, 0, 1, i, [bytes([i]) * i, b"x" * (70_000 * (i % 3))]) for i in range(20)]
        a.send(sent)
        found = messages(b, 20)
        assert [replace(one, due_ns=0) for one in found] == [
            replace(one, kind=Kind.DELIVER, due_ns=0) for one in sent
        ]
        assert [one.due_ns for one in found] == sorted(one.due_ns for one in found)
        assert all(one.due_ns - one.instant_ns >= 2 * MS for one in found)
        account = here.close()
    assert (account.sent, account.delivered, account.in_flight) == (20, 20, 0)
    assert account.malformed == {}


def alike(port: Port, count: int, others: dict[int, Frame] | None = None) -> list[Frame]:
    """So many messages that differ in their numbers and what they carry alone, but for `others`."""
    frames = [letter(port, 0, 1, 10_000 + i, [b"%4d" % i]) for i in range(count)]
    for place, other in (others or {}).items():
        frames[place] = other
    return frames


@pytest.mark.parametrize("places", [(), (0,), (1,), (17,), (15, 16, 31), (39,)], ids=str)
def test_messages_that_are_alike_arrive_as_they_are_and_so_do_others_between_them(places):
    with harbor(network("a-b", "c-b", bandwidth_bps=1e9, delay_s=0.002), expected=2) as here:
        a, b = both(here)
        others = {place: letter(a, 0, 1, place, [b"another", b"kind"]) for place in places}
        now_ns = a.now_ns()
        sent = [replace(one, instant_ns=now_ns) for one in (*alike(a, 40, others), *alike(a, 40))]
        a.send(sent[:40])  # one packet each
        a.send(sent[40:])
        found = messages(b, 80)
        assert [replace(one, due_ns=0) for one in found] == [
            replace(one, kind=Kind.DELIVER, due_ns=0) for one in sent
        ]
        assert here.close().malformed == {}


@pytest.mark.parametrize("place", [0, 5, 20, 39])
def test_a_wrong_frame_among_many_that_are_alike_takes_its_packet_with_it(place):
    with harbor(network("a-b", "c-b", bandwidth_bps=1e9, delay_s=0.002), expected=2) as here:
        a, b = both(here)
        wrong = {place: letter(a, 2, 1, 10_000, [b"%4d" % place])}  # c, who lives elsewhere
        a.send(alike(a, 40))
        a.send(alike(a, 40, wrong))
        a.send([letter(a, 0, 1, 7)])
        assert [one.sequence for one in messages(b, 41)][-1] == 7
        account = here.close()
    assert account.sent == 41
    assert account.malformed == {"speaks for another node": 1}


def test_a_message_goes_out_before_its_time_which_counts_from_when_it_was_sent(monkeypatch):
    monkeypatch.setattr("broker.serve.EARLY_NS", 60 * SECOND)
    with harbor(network("a-b", bandwidth_bps=1e9, delay_s=30), expected=2) as here:
        a, b = both(here)
        frame = letter(a, 0, 1)
        time.sleep(0.05)  # it is long on its way to the bus
        a.send([frame])
        (found,) = messages(b, 1)
        assert b.now_ns() < found.due_ns
        assert 0 <= found.due_ns - found.instant_ns - 30 * SECOND < 40 * MS


def test_nothing_goes_out_early_past_a_fault_that_is_to_come():
    topology = network("a-b", bandwidth_bps=1e9, delay_s=0.2)
    faults = crash("b", 0.35)
    with harbor(topology, expected=2, faults=faults) as here:
        a, b = both(here)
        a.send([letter(a, 0, 1, 1)])
        while a.now_ns() < 0.2 * SECOND:
            time.sleep(0.01)
        a.send([letter(a, 0, 1, 2)])  # due after the crash
        assert [one.sequence for one in messages(b, 1)] == [1]
        here.until(lambda: here.bus.relay.dropped)
        account = here.close()
    assert account.delivered == 1
    assert account.dropped == {"destination crashed": 1}


def test_nodes_learn_of_a_fault_before_it_strikes():
    faults = [*crash("b", 0.3, 0.4), *degrade("a", "b", 0.5, 0.35)]
    with harbor(expected=2, faults=faults) as here:
        _, b = both(here)
        orders: list[Frame] = []
        while b.now_ns() < 0.45 * SECOND:
            orders += [one for one in b.read() if one.kind == Kind.ORDERS]
            time.sleep(0.005)
        assert [one.instant_ns for one in orders][-3:] == [
            0.3 * SECOND, 0.35 * SECOND, 0.4 * SECOND,
        ]  # fmt: skip


def test_who_sends_more_than_its_buffer_is_cut_off_and_a_receipt_frees_it():
    with harbor(with_buffer(10_000), expected=2) as here:
        a, b = both(here)
        frames = [letter(a, 0, 1, i, [b"x" * 5_000]) for i in range(5)]
        a.send(frames)
        assert [one.sequence for one in messages(b, 2)] == [0, 1]
        here.until(here.refused)
        assert here.refused() == {"more than its send buffer": 3}
        assert here.bus.account().blocked == 1
        taken = 2 * frames[0].size_bytes
        b.report({"receipts": [[b.now_ns(), 1, 0, taken, False]]})
        here.until(lambda: not here.bus.account().blocked)
        (receipt,) = receipts_within(a)
        assert (receipt.source, receipt.destination, receipt.sequence) == (1, 0, taken)
        assert receipt.due_ns - receipt.instant_ns >= 2 * MS
        a.send([letter(a, 0, 1, 9)])
        assert [one.sequence for one in messages(b, 1)] == [9]


def receipts_within(port: Port) -> list[Frame]:
    found: list[Frame] = []
    until = time.monotonic() + 20
    while not found:
        assert time.monotonic() < until
        found = receipts(port)
        port.socket.poll(20)
    return found


def test_a_process_that_does_not_read_costs_the_bus_no_more_than_its_bound(monkeypatch):
    monkeypatch.setattr("broker.relay.BACKLOG_BYTES", 2_000_000)
    topology = network("a-b", "c-b", bandwidth_bps=1e11, delay_s=0.001)
    with harbor(topology, expected=3) as here:
        a, c, _ = map(here.port, ("a", "c", "b"))
        for one in (a, c):
            started(one)
        connection = here.bus.relay.home(here.bus.names.index("b"))
        assert connection is not None
        connection.backlog_bytes = 2_000_001  # as if it had not read for long
        a.send([letter(a, 0, 1)])
        here.until(lambda: here.bus.relay.dropped)
        assert here.bus.relay.dropped == {"its process does not read": 1}
        (receipt,) = receipts_within(a)  # so that its sender does not wait for ever
        assert receipt.sequence > 0


def test_what_is_published_reaches_all_who_subscribe_and_a_slow_one_loses():
    topology = network("a-b", "a-c", bandwidth_bps=1e9, delay_s=0.001)
    topology = topology.model_copy(update={"transport": Transport(send_buffer_bytes=300)})
    with harbor(topology, expected=3) as here:
        ends = {name: here.port(name) for name in topology.nodes}
        for one in ends.values():
            started(one)
        a, b, c = ends["a"], ends["b"], ends["c"]
        numbers = {name: place for place, name in enumerate(a.names)}
        for name, port in (("b", b), ("c", c)):
            port.report({"topics": [[0, numbers[name], "news", True]]})
        here.until(lambda: len(here.bus.relay._topics.get("news", {})) == 2)
        for i in range(3):
            frame = letter(a, numbers["a"], NOBODY, i, [b"x" * 200])
            a.send([replace(frame, purpose="news", flags=PUBLISH)])
            (heard,) = messages(b, 1) if i < 3 else ()
            assert heard.sequence == i
            size = heard.size_bytes
            b.report({"receipts": [[b.now_ns(), numbers["b"], numbers["a"], size, True]]})
            pair = (numbers["a"], numbers["b"])
            here.until(lambda pair=pair: not here.bus.relay._published.get(pair))
        assert len(messages(c, 2)) == 2
        here.until(lambda: here.bus.relay.dropped)
        assert here.bus.relay.dropped == {"subscriber too slow": 1}
        account = here.close()
    assert (account.sent, account.delivered) == (6, 5)


def test_a_datagram_can_get_lost_and_its_sender_waits_for_nothing():
    with harbor(expected=2) as here:
        a, b = both(here)
        a.send([replace(letter(a, 0, 1, i), flags=DATAGRAM) for i in range(3)])
        a.send([replace(letter(a, 0, 1, 9, [b"x" * 65_600]), flags=DATAGRAM)])
        assert [one.sequence for one in messages(b, 3)] == [0, 1, 2]
        here.until(here.refused)
        assert here.refused() == {"datagram too large": 1}
        assert here.bus.relay._under_way.get((0, 1), 0) == 0


def test_a_message_to_a_node_that_nobody_runs_is_lost_with_its_reason():
    with harbor(expected=1) as here:
        a = started(here.port("a"))
        a.send([letter(a, 0, 1)])
        here.until(lambda: here.bus.relay.dropped)
        assert here.close().dropped == {"nobody there": 1}


def test_a_process_that_was_killed_makes_room_for_another():
    with harbor(expected=2) as here:
        a, b = both(here)
        b.socket.close(0)  # what the kernel does for a killed process
        here.until(lambda: here.bus.relay.home(1) is None)
        again = started(here.port("b"))
        a.send([letter(a, 0, 1, 5)])
        assert [one.sequence for one in messages(again, 1)] == [5]


# Packets that nobody should send.


def _mutated(chance: random.Random, packet: bytes) -> list[bytes]:
    """A packet with something wrong: bits, lengths, its end, its beginning, further parts."""
    changed = bytearray(packet)
    what = chance.randrange(6)
    if what == 0:
        for _ in range(chance.randrange(1, 6)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    elif what == 1:
        del changed[chance.randrange(len(changed)) :]
    elif what == 2:
        changed += chance.randbytes(chance.randrange(1, 80))
    elif what == 3:
        place = chance.randrange(4, len(changed) - 4)
        changed[place : place + 4] = chance.randbytes(4)
    elif what == 4:
        return [bytes(changed), *(chance.randbytes(9) for _ in range(chance.randrange(1, 4)))]
    else:
        changed[2:4] = chance.randbytes(2)
    return [bytes(changed)]


@pytest.mark.parametrize("admitted", [True, False])
def test_no_packet_breaks_the_bus(admitted):
    """What is wrong is counted and dropped; what came before and after it goes its way."""
    chance = random.Random(7)
    with (
        harbor(expected=2) as here,
        zmq.Context() as context,
        contextlib.closing(dealer(context, here.endpoint)) as stranger,
    ):
        a, b = both(here)
        frame = replace(letter(a, 0, 1, 1, [b"abc", b"d" * 200]), due_ns=a._word)
        shared = replace(frame, flags=8)
        good = [
            encode([frame])[0],
            encode([frame, frame, replace(frame, purpose="")])[0],
            encode([shared])[0],
            encode([Frame(Kind.QUIET, body=pack({"notes": [[1, 0, "x", {}]]}), due_ns=a._word)])[0],
            encode([Frame(Kind.HELLO, body=pack({"nodes": ["a"], "proof": b"x"}))])[0],
        ]
        for number in range(PACKETS):
            wrong = _mutated(chance, bytes(chance.choice(good)))
            if admitted:
                a.send_packet(wrong)
            else:
                stranger.send_multipart(wrong)
            if number % 500 == 0:
                b.send([letter(b, 1, 0, number + 1)])
        b.send([letter(b, 1, 0, PACKETS + 1)])
        heard: list[int] = []
        until = time.monotonic() + 20
        while PACKETS + 1 not in heard:
            assert time.monotonic() < until
            heard += [one.sequence for one in a.read() if one.source == 1]
            a.socket.poll(20)
        assert heard == sorted(heard)
        assert here.failure is None
        assert sum(here.refused().values()) > PACKETS // 4
        assert len(here.refused()) <= 65
        assert here.bus.relay.check() == ""
        account = here.close()
    assert account.connections == 0


def test_a_lot_of_strangers_is_forgotten():
    with harbor() as here, zmq.Context() as context:
        sockets = [dealer(context, here.endpoint) for _ in range(20)]
        for socket in sockets:
            socket.send_multipart(encode([Frame(Kind.HELLO, body=pack({}))]))
        for socket in sockets:
            assert socket.poll(10_000)
        assert len(here.bus._reception._admission._asked) <= 1_024
        for socket in sockets:
            socket.close()


def test_a_stopped_bus_leaves_nothing_behind():
    with harbor() as here:
        folder = here.bus._custodian.folder
        here.port("a")
        here.close()
        assert folder is None or not folder.exists()
        assert not os.path.exists(here.endpoint.removeprefix("ipc://"))  # noqa: PTH110


def test_a_port_on_another_machine_measures_how_far_the_clocks_are_apart(monkeypatch):
    monkeypatch.setattr("broker.port.machine", lambda: "another one")
    with harbor(expected=2) as here:
        a, b = both(here)
        assert a._arena is None
        for port in (a, b):
            assert abs(port._offset_ns) < SECOND  # it is the same clock here
        assert 0 < a.now_ns() < 60 * SECOND
        a.send([letter(a, 0, 1, 3, [b"x" * 1_000_000])])
        (found,) = messages(b, 1)
        assert found.sequence == 3
        assert found.due_ns > 0
