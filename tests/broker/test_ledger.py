"""The books: every message has one fate, and the digest sees every difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker import LedgerError
from broker.ledger import FaultEntry, Ledger
from broker.network import Fate, datagram_bytes, wire_bytes
from broker.wire import DATAGRAM, Frame, Kind, pack
from topologies import Transport

FRAME = Frame(Kind.SEND, 0, 1, 1, 0, 500, "asks", pack({"i": 1}), (b"abc",))
FAULT = FaultEntry(700, "1", "crash", "begin", ("b",), "crash b")


def filled(frame: Frame = FRAME, ends: tuple[str, str] = ("a", "b")) -> Ledger:
    ledger = Ledger()
    ledger.sent(*ends, frame)
    ledger.ended(Fate(1, 900))
    return ledger


def test_sent_is_delivered_and_dropped_and_in_flight():
    ledger = filled()
    ledger.sent("a", "b", FRAME)
    ledger.sent("b", "a", FRAME)
    ledger.ended(Fate(3, 950, "destination crashed"))
    ledger.check(in_flight=1)
    assert ledger.fates() == {"delivered": 1, "destination crashed": 1, "in flight": 1}
    assert [entry.number for entry in ledger] == [1, 2, 3]
    assert len(ledger) == 3


@pytest.mark.parametrize("held", [0, 2])
def test_books_that_do_not_balance_are_an_error(held):
    ledger = filled()
    ledger.sent("a", "b", FRAME)
    with pytest.raises(LedgerError, match=f"2 messages were sent.*, 1 have a fate.* holds {held}"):
        ledger.check(in_flight=held)


def test_what_the_network_doubles_is_in_the_books_too():
    ledger = filled()
    ledger.ended(Fate(1, 950, "lost", copy=1))
    ledger.check(in_flight=1, duplicated=2)
    with pytest.raises(LedgerError, match="1 duplicated"):
        ledger.check(in_flight=1, duplicated=1)
    assert ledger.fates() == {"delivered": 1, "lost": 1}
    assert [(entry.number, entry.copy, entry.ended_ns) for entry in ledger] == [
        (1, 0, 900),
        (1, 1, 950),
    ]
    assert ledger.digest() != filled().digest()


def test_no_message_ends_twice():
    ledger = filled()
    with pytest.raises(LedgerError, match="message 1 ended twice: delivered, then"):
        ledger.ended(Fate(1, 901, "source crashed"))


def test_bytes_are_those_on_the_wire_by_purpose():
    ledger = filled(replace(FRAME, purpose="b"))
    ledger.sent("a", "b", replace(FRAME, purpose="a", payload=(b"x" * 2_000,)))
    ledger.sent("a", "b", replace(FRAME, purpose="b"))
    small = replace(FRAME, purpose="b").size_bytes + 66
    large = replace(FRAME, purpose="a", payload=(b"x" * 2_000,)).size_bytes + 2 * 66
    assert ledger.bytes_by_purpose() == {"a": large, "b": 2 * small}
    assert list(ledger.bytes_by_purpose()) == ["a", "b"]
    assert ledger.wire_bytes == large + 2 * small


def test_what_never_left_its_node_was_not_on_the_wire():
    ledger = filled()
    on_the_wire = ledger.wire_bytes
    ledger.sent("a", "a", FRAME)
    ledger.sent("a", "a", replace(FRAME, flags=DATAGRAM))
    ledger.sent("a", "b", FRAME)
    ledger.ended(Fate(4, 500, "subscriber too slow"))
    ledger.sent("a", "b", FRAME)
    ledger.ended(Fate(5, 501, "destination down"))
    assert [entry.wire_bytes for entry in ledger] == [on_the_wire, 0, 0, 0, on_the_wire]
    assert [entry.size_bytes for entry in ledger] == [FRAME.size_bytes] * 5
    assert ledger.wire_bytes == 2 * on_the_wire
    assert ledger.bytes_by_purpose() == {"asks": 2 * on_the_wire}


def test_frames_that_could_not_be_read_are_counted_by_reason():
    ledger = Ledger()
    for reason in ("stranger", "wrong token", "stranger"):
        ledger.malformed(reason)
    assert ledger.malformed_frames == {"stranger": 2, "wrong token": 1}


def test_equal_books_have_equal_digests():
    assert filled().digest() == filled().digest()


@pytest.mark.parametrize(
    "other",
    [
        filled(ends=("a", "c")),
        filled(ends=("c", "b")),
        filled(replace(FRAME, purpose="tells")),
        filled(replace(FRAME, body=pack({"i": 2}))),
        filled(replace(FRAME, payload=(b"abd",))),
        filled(replace(FRAME, answers=1)),
        filled(replace(FRAME, instant_ns=501)),
    ],
)
def test_a_digest_sees_what_was_sent_by_whom_and_when(other):
    assert other.digest() != filled().digest()


def test_a_digest_sees_fates_times_and_faults():
    def ended(fate: Fate, *faults: FaultEntry) -> str:
        ledger = Ledger()
        ledger.sent("a", "b", FRAME)
        ledger.ended(fate)
        for fault in faults:
            ledger.fault(fault)
        return ledger.digest()

    digests = [
        ended(Fate(1, 900)),
        ended(Fate(1, 901)),
        ended(Fate(1, 900, "source crashed")),
        ended(Fate(1, 900), FAULT),
        ended(Fate(1, 900), replace(FAULT, at_ns=701)),
        ended(Fate(1, 900), replace(FAULT, nodes=("a",))),
    ]
    assert len(set(digests)) == len(digests)


def test_a_digest_sees_where_one_part_of_a_payload_ends():
    parts = filled(replace(FRAME, payload=(b"ab", b"c")))
    assert parts.digest() != filled(replace(FRAME, payload=(b"a", b"bc"))).digest()


def test_a_digest_sees_whether_a_message_was_a_datagram():
    assert filled(replace(FRAME, flags=DATAGRAM)).digest() != filled().digest()


def test_a_digest_does_not_see_what_the_senders_clock_showed():
    assert filled(replace(FRAME, clock_ns=5)).digest() == filled().digest()


def test_a_digest_does_not_see_in_which_order_fates_were_booked():
    def booked(*fates: Fate) -> str:
        ledger = Ledger()
        for _ in fates:
            ledger.sent("a", "b", FRAME)
        for fate in fates:
            ledger.ended(fate)
        return ledger.digest()

    lost, late = Fate(1, 800, "lost"), Fate(2, 900, "queue full")
    assert booked(lost, late) == booked(late, lost)
    assert booked(lost, late) != booked(lost._replace(number=2), late._replace(number=1))


def test_a_datagram_has_the_bytes_of_its_own_packets_and_a_stream_those_of_its_segments():
    transport = Transport(segment_bytes=100, header_bytes=60)
    ledger = Ledger(transport)
    large = replace(FRAME, payload=(b"x" * 2_000,))
    ledger.sent("a", "b", large)
    ledger.sent("a", "b", replace(large, flags=DATAGRAM))
    size = large.size_bytes
    assert [(entry.wire_bytes, entry.datagram) for entry in ledger] == [
        (wire_bytes(size, segment_bytes=100, header_bytes=60), False),
        (datagram_bytes(size, transport), True),
    ]


def test_a_fate_of_what_was_never_sent_is_an_error():
    for number in (0, 2):
        with pytest.raises(LedgerError, match=f"message {number} ended, and was never sent"):
            filled().ended(Fate(number, 1))


def test_a_copy_has_one_fate_too():
    ledger = filled()
    ledger.ended(Fate(1, 950, "lost", copy=1))
    with pytest.raises(LedgerError, match="message 1 ended twice: lost, then delivered"):
        ledger.ended(Fate(1, 951, copy=1))


def test_a_digest_sees_when_a_copy_came_and_what_became_of_it():
    def copied(at_ns: int, reason: str = "", copy: int = 1) -> str:
        ledger = filled(replace(FRAME, flags=DATAGRAM))
        ledger.ended(Fate(1, at_ns, reason, copy))
        return ledger.digest()

    assert len({copied(9), copied(10), copied(9, "lost"), copied(9, copy=2)}) == 4
    assert copied(9) == copied(9)
