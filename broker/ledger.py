"""Every message's fate, and the digest of a run.

The law: sent + duplicated = delivered + dropped, each with its reason, + in flight. `Ledger.check`
is called whenever a run closes and raises `LedgerError` when the books do not balance.

The digest is SHA-256 over every message in the order in which it was sent (ends, purpose, sizes,
times in nanoseconds, fate, and a fingerprint of what it carried) and every fault that was applied.
Two runs with the same digest carried the same bytes at the same instants. What programs noted or
returned is not in it, nor what the sender's clock showed.

Bytes on the wire are those of whole messages, whatever became of them; what never left its node (a
message to itself, a copy for a subscriber that was too slow) has none.

A run may book millions of messages, so the books are some 75 bytes for each, and an `Entry` is made
only for who looks at one.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from broker.errors import LedgerError
from broker.network import Fate, datagram_bytes
from broker.wire import DATAGRAM, Frame
from topologies import Transport

IN_FLIGHT = "in flight"
DELIVERED = "delivered"
TOO_SLOW = "subscriber too slow"

RECORD = struct.Struct("<IIIIQqqq16sB")
"""One message as it was sent: the numbers of source, destination and purpose among the words, the
length of its body, what it answers, its size, its bytes on the wire, the instant, its fingerprint,
and whether it is a datagram."""
_WIRE = struct.Struct("<q")
_WIRE_AT = struct.calcsize("<IIIIQq")
_MOST_REASONS = 256
_ROOM = 4_096
_NOT_ENDED = array("q", [-1]) * _ROOM

_pack = RECORD.pack_into
_length = RECORD.size
_tuple = tuple.__new__


class Booking(NamedTuple):
    """What a message has got when it is booked: its number, and how large it is."""

    number: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One message, or with `copy` 1 what a network made of it a second time.

    Times in nanoseconds of virtual time; `fate` is "delivered", "in flight" or a reason, and
    `ended_ns` is -1 for what is in flight. `content` is a fingerprint of what it carried: BLAKE2b,
    16 bytes.
    """

    number: int
    source: str
    destination: str
    purpose: str
    size_bytes: int
    wire_bytes: int
    content: bytes
    sent_ns: int
    ended_ns: int = -1
    fate: str = IN_FLIGHT
    copy: int = 0
    datagram: bool = False


@dataclass(frozen=True, slots=True)
class FaultEntry:
    """One fault as it was applied, in words, and the nodes it met."""

    at_ns: int
    fault: str
    kind: str
    phase: str
    nodes: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The books as they lie in memory, for who writes them down.

    For each message `records` has a `RECORD`, `ended_ns` eight bytes (the least first; -1: not
    ended) and `fates` one. Words and fates are places in `words` and `reasons`. `copies` are
    (number, copy, ended_ns, fate).
    """

    records: bytearray
    ended_ns: bytes
    fates: bytearray
    copies: tuple[tuple[int, int, int, int], ...]
    words: tuple[str, ...]
    reasons: tuple[str, ...]


class Ledger:
    """The books of one run. `transport` says what a message takes on the wire."""

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport = transport or Transport()
        self._segment_bytes = self._transport.segment_bytes
        self._header_bytes = self._transport.header_bytes
        self._datagram_bytes: dict[int, int] = {}
        self._count = 0
        self._records = bytearray()
        self._ended_ns = array("q")
        self._fates = bytearray()
        self._copies: dict[tuple[int, int], tuple[int, int]] = {}
        self._words: dict[str, int] = {}
        self._reasons = {IN_FLIGHT: 0, "": 1}
        self._ended = 0
        self._duplicated = 0
        self._faults: list[FaultEntry] = []
        self._malformed: dict[str, int] = {}
        self._wire_total = 0
        self._fingerprint = hashlib.blake2b(digest_size=16).copy  # half the price of a new one

    def sent(self, source: str, destination: str, frame: Frame) -> Booking:
        """Books a message that a node handed over. Its number counts from 1 in order of sending."""
        content = self._fingerprint()
        for part in frame.carried():
            content.update(part)
        size = frame.size_bytes
        datagram = frame.flags & DATAGRAM
        if source == destination:
            on_the_wire = 0
        elif datagram:
            on_the_wire = self._datagram_bytes.get(size) or self._as_datagram(size)
        else:
            on_the_wire = size + (-(-size // self._segment_bytes) or 1) * self._header_bytes
        count = self._count
        if count == len(self._fates):
            self._grow()
        words, purpose = self._words, frame.purpose
        if source not in words or destination not in words or purpose not in words:
            for word in (source, destination, purpose):
                words.setdefault(word, len(words))
        _pack(
            self._records,
            count * _length,
            words[source],
            words[destination],
            words[purpose],
            frame.body_bytes,
            frame.answers,
            size,
            on_the_wire,
            frame.instant_ns,
            content.digest(),
            datagram,
        )
        self._wire_total += on_the_wire
        self._count = number = count + 1
        return _tuple(Booking, (number, size))

    def ended(self, fate: Fate) -> None:
        """Books how a message ended, and that it was never on the wire where that is why it ended.
        Raises LedgerError where it had ended before.
        """
        number, at_ns, reason, copy, _ = fate
        if not 0 < number <= self._count:
            raise LedgerError(f"message {number} ended, and was never sent")
        reasons, place = self._reasons, number - 1
        if reason not in reasons:
            reasons[reason] = len(reasons)
        fates = self._fates
        before = self._copies.get((number, copy), (0, 0))[1] if copy else fates[place]
        if before:
            earlier = self._names_of_fates()[before]
            raise LedgerError(
                f"message {number} ended twice: {earlier}, then {reason or DELIVERED}"
            )
        if copy:
            self._copies[number, copy] = at_ns, reasons[reason]
        else:
            self._ended_ns[place] = at_ns
            fates[place] = reasons[reason]
            if reason == TOO_SLOW:
                self._take_off_the_wire(place)
        self._ended += 1

    def fault(self, entry: FaultEntry) -> None:
        """Books a fault as it was applied."""
        self._faults.append(entry)

    def malformed(self, reason: str) -> None:
        """Counts a frame that could not be read and was dropped."""
        self._malformed[reason] = self._malformed.get(reason, 0) + 1

    def check(self, in_flight: int, duplicated: int = 0) -> None:
        """Raises LedgerError unless sent + duplicated = delivered + dropped + what the network
        still holds.
        """
        self._duplicated = duplicated
        if self._count + duplicated != self._ended + in_flight:
            raise LedgerError(
                f"{self._count:,} messages were sent and {duplicated:,} duplicated, "
                f"{self._ended:,} have a fate, and the network holds {in_flight:,}"
            )

    def __iter__(self) -> Iterator[Entry]:
        """Messages in the order in which they were sent, then copies as they ended."""
        books = self.columns()
        records, words, reasons = books.records, books.words, books.reasons
        ends = zip(RECORD.iter_unpack(records), self._ended_ns, books.fates, strict=False)
        for number, (record, ended_ns, code) in enumerate(ends, 1):
            yield _entry(number, record, words, ended_ns, reasons[code])
        for number, copy, ended_ns, code in books.copies:
            record = RECORD.unpack_from(records, (number - 1) * _length)
            yield _entry(number, record, words, ended_ns, reasons[code], copy)

    def __len__(self) -> int:
        return self._count

    @property
    def faults(self) -> Sequence[FaultEntry]:
        """The faults applied, in order."""
        return tuple(self._faults)

    @property
    def malformed_frames(self) -> dict[str, int]:
        """Frames that could not be read, by reason."""
        return dict(self._malformed)

    @property
    def wire_bytes(self) -> int:
        """Bytes handed to the network so far, headers counted."""
        return self._wire_total

    @property
    def copies_in_flight(self) -> int:
        """Copies that the network made and whose fate is not known, as of the last `check`."""
        return max(self._duplicated - len(self._copies), 0)

    def bytes_by_purpose(self) -> dict[str, int]:
        """Bytes on the wire by purpose, lost messages included, sorted by purpose."""
        books = self.columns()
        totals: dict[int, int] = {}
        for _, _, purpose, _, _, _, on_the_wire, *_ in RECORD.iter_unpack(books.records):
            totals[purpose] = totals.get(purpose, 0) + on_the_wire
        for number, *_ in books.copies:
            record = RECORD.unpack_from(books.records, (number - 1) * _length)
            totals[record[2]] += record[6]
        return dict(sorted((books.words[purpose], total) for purpose, total in totals.items()))

    def fates(self) -> dict[str, int]:
        """How many messages met each fate."""
        books = self.columns()
        counts = Counter(books.fates)
        counts.update(code for *_, code in books.copies)
        return dict(sorted((books.reasons[code], count) for code, count in counts.items()))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, over all entries and faults."""
        books = self.columns()
        seen = dict.fromkeys([*books.fates, *(code for *_, code in books.copies)])
        places = bytearray(_MOST_REASONS)  # by first use: the books don't say which ended first
        for place, code in enumerate(seen):
            places[code] = place
        heading = (books.words, [books.reasons[code] for code in seen], self._count)
        total = hashlib.sha256(repr(heading).encode())
        total.update(books.records)
        total.update(books.ended_ns)
        total.update(books.fates.translate(places))
        for number, copy, ended_ns, code in books.copies:
            total.update(repr((number, copy, ended_ns, places[code])).encode())
        for fault in self._faults:
            total.update(
                repr((fault.at_ns, fault.fault, fault.kind, fault.phase, fault.nodes)).encode()
            )
        return total.hexdigest()

    def columns(self) -> Columns:
        """The books as they lie in memory, copied."""
        return Columns(
            self._records[: self._count * _length],
            _little(self._ended_ns[: self._count]),
            self._fates[: self._count],
            tuple((*key, *end) for key, end in self._copies.items()),
            tuple(self._words),
            self._names_of_fates(),
        )

    def write_parquet(self, path: Path) -> None:
        """Writes the trace: a row per message, copy and fault, as `broker.trace` describes them."""
        from broker import trace  # noqa: PLC0415 - a heavy import that only a written trace needs

        trace.write(self, path)

    def _as_datagram(self, size: int) -> int:
        on_the_wire = datagram_bytes(size, self._transport)
        self._datagram_bytes[size] = on_the_wire
        return on_the_wire

    def _take_off_the_wire(self, place: int) -> None:
        at = place * _length + _WIRE_AT
        self._wire_total -= _WIRE.unpack_from(self._records, at)[0]
        _WIRE.pack_into(self._records, at, 0)

    def _grow(self) -> None:
        """Makes room for the next messages, none of which has ended."""
        self._records += bytes(_length * _ROOM)
        self._ended_ns.extend(_NOT_ENDED)
        self._fates += bytes(_ROOM)

    def _names_of_fates(self) -> tuple[str, ...]:
        return tuple(reason or DELIVERED for reason in self._reasons)


def _entry(
    number: int,
    record: tuple[Any, ...],
    words: Sequence[str],
    ended_ns: int,
    fate: str,
    copy: int = 0,
) -> Entry:
    source, destination, purpose, _, _, size, on_the_wire, sent_ns, content, datagram = record
    return Entry(
        number, words[source], words[destination], words[purpose], size, on_the_wire, content,
        sent_ns, ended_ns, fate, copy, bool(datagram),
    )  # fmt: skip


def _little(numbers: array[int]) -> bytes:
    """The bytes of these numbers, the least first, whatever the machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
