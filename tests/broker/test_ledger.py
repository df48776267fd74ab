"""The books: every message has one fate, and the digest sees every difference."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pyarrow import parquet

from broker import LedgerError
from broker.ledger import FaultEntry, Ledger
from broker.network import Fate
from broker.wire import Frame, Kind, pack

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


def test_the_trace_has_a_row_for_each_message_and_fault_in_order(tmp_path):
    ledger = filled()
    ledger.fault(FAULT)
    ledger.sent("b", "a", replace(FRAME, instant_ns=800))
    ledger.write_parquet(tmp_path / "trace.parquet")
    rows = parquet.read_table(tmp_path / "trace.parquet").to_pylist()
    assert [(row["what"], row["sent_ns"]) for row in rows] == [
        ("message", 500),
        ("fault", 700),
        ("message", 800),
    ]
    assert [(row["ended_ns"], row["fate"]) for row in rows] == [
        (900, "delivered"),
        (None, ""),
        (None, "in flight"),
    ]
    assert (rows[0]["source"], rows[0]["destination"], rows[0]["purpose"]) == ("a", "b", "asks")
    assert rows[0]["wire_bytes"] == rows[0]["size_bytes"] + 66 == FRAME.size_bytes + 66
    assert (rows[1]["purpose"], rows[1]["text"]) == ("crash begin", "crash b")
