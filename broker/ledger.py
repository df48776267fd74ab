"""Every message's fate, and the digest of a run.

The law: sent + duplicated = delivered + dropped, each with its reason, + in flight. `Ledger.check`
is called whenever a run closes and raises `LedgerError` when the books do not balance.

The digest is SHA-256 over every message in the order in which it was sent (ends, purpose, sizes,
times in nanoseconds, fate, and a fingerprint of what it carried) and every fault that was applied.
Two runs with the same digest carried the same bytes at the same instants.

A run may book millions of messages, so the books are a record of 74 bytes for each, and an
`Entry` is made only for who looks at one.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from broker.errors import LedgerError
from broker.network import Fate, datagram_bytes
from broker.wire import DATAGRAM, Frame
from topologies import Transport

IN_FLIGHT = "in flight"
DELIVERED = "delivered"

RECORD = struct.Struct("<IIIIQqqq16sBqB")
"""One message: the numbers of source, destination and purpose among the words, the length of its
body, what it answers, its size, its bytes on the wire, when it was sent, its fingerprint, whether
it is a datagram; when it ended (-1: not yet), and the number of its fate among the reasons."""
_END = struct.Struct("<qB")
_END_AT = RECORD.size - _END.size
_FATE_AT = RECORD.size - 1
_MOST_REASONS = 256

_pack = RECORD.pack
_length = RECORD.size
_end = _END.pack_into
_tuple = tuple.__new__


class _Words(dict[str, int]):
    """Words and their places in the order in which they were first asked for."""

    def __missing__(self, word: str) -> int:
        self[word] = place = len(self)
        return place


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

    `records` has one `RECORD` for each message, whose words and fates are places in `words` and
    `reasons`; `copies` are (number, copy, ended_ns, fate).
    """

    records: bytes
    copies: tuple[tuple[int, int, int, int], ...]
    words: tuple[str, ...]
    reasons: tuple[str, ...]


class Ledger:
    """The books of one run. `transport` says what a message takes on the wire."""

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport = transport or Transport()
        self._segment_bytes = self._transport.segment_bytes
        self._header_bytes = self._transport.header_bytes
        self._count = 0
        self._records = bytearray()
        self._copies: dict[tuple[int, int], tuple[int, int]] = {}
        self._words = _Words()
        self._reasons = _Words({IN_FLIGHT: 0, "": 1})
        self._ended = 0
        self._duplicated = 0
        self._faults: list[FaultEntry] = []
        self._malformed: dict[str, int] = {}
        self._wire_total = 0
        self._fingerprint = hashlib.blake2b(digest_size=16).copy  # half the price of a new one

    def sent(self, source: str, destination: str, frame: Frame) -> Booking:
        """Books a message that a node handed over. Its number counts from 1 in order of sending."""
        body = frame.body
        content = self._fingerprint()
        content.update(body)
        payload = frame.payload
        for part in payload:
            content.update(part)
        if len(payload) > 1:
            content.update(repr([len(part) for part in payload]).encode())
        size = frame.size_bytes
        datagram = frame.flags & DATAGRAM
        if datagram:
            on_the_wire = datagram_bytes(size, self._transport)
        else:
            on_the_wire = size + (-(-size // self._segment_bytes) or 1) * self._header_bytes
        number_of = self._words.__getitem__
        self._records += _pack(
            number_of(source),
            number_of(destination),
            number_of(frame.purpose),
            len(body),
            frame.answers,
            size,
            on_the_wire,
            frame.instant_ns,
            content.digest(),
            datagram,
            -1,
            0,
        )
        self._wire_total += on_the_wire
        self._count = number = self._count + 1
        return _tuple(Booking, (number, size))

    def ended(self, fate: Fate) -> None:
        """Books how a message ended. Raises LedgerError where it had ended before."""
        number, at_ns, reason, copy, _ = fate
        if not 0 < number <= self._count:
            raise LedgerError(f"message {number} ended, and was never sent")
        code = self._reasons[reason]
        at = (number - 1) * _length
        before = (
            self._copies.get((number, copy), (0, 0))[1] if copy else self._records[at + _FATE_AT]
        )
        if before:
            earlier = self._names_of_fates()[before]
            raise LedgerError(
                f"message {number} ended twice: {earlier}, then {reason or DELIVERED}"
            )
        if copy:
            self._copies[number, copy] = at_ns, code
        else:
            _end(self._records, at + _END_AT, at_ns, code)
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
        words, reasons = tuple(self._words), self._names_of_fates()
        records = bytes(self._records)
        for number, record in enumerate(RECORD.iter_unpack(records), 1):
            yield _entry(number, record, words, reasons)
        for (number, copy), (ended_ns, code) in self._copies.items():
            record = RECORD.unpack_from(records, (number - 1) * _length)
            original = _entry(number, record, words, reasons)
            yield replace(original, ended_ns=ended_ns, fate=reasons[code], copy=copy)

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
        totals: dict[int, int] = {}
        for _, _, purpose, _, _, _, on_the_wire, *_ in RECORD.iter_unpack(self._records):
            totals[purpose] = totals.get(purpose, 0) + on_the_wire
        for number, _ in self._copies:
            record = RECORD.unpack_from(self._records, (number - 1) * _length)
            totals[record[2]] += record[6]
        words = tuple(self._words)
        return dict(sorted((words[purpose], total) for purpose, total in totals.items()))

    def fates(self) -> dict[str, int]:
        """How many messages met each fate."""
        counts = Counter(self._records[_FATE_AT::_length])
        counts.update(code for _, code in self._copies.values())
        names = self._names_of_fates()
        return dict(sorted((names[code], count) for code, count in counts.items()))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, over all entries and faults."""
        names = self._names_of_fates()
        records = bytearray(self._records)
        codes = records[_FATE_AT::_length]
        seen = dict.fromkeys([*codes, *(code for _, code in self._copies.values())])
        places = bytearray(_MOST_REASONS)  # by first use: the books don't say which ended first
        for place, code in enumerate(seen):
            places[code] = place
        records[_FATE_AT::_length] = codes.translate(places)
        heading = (tuple(self._words), [names[code] for code in seen], self._count)
        total = hashlib.sha256(repr(heading).encode())
        total.update(records)
        for (number, copy), (ended_ns, code) in self._copies.items():
            total.update(repr((number, copy, ended_ns, places[code])).encode())
        for fault in self._faults:
            total.update(
                repr((fault.at_ns, fault.fault, fault.kind, fault.phase, fault.nodes)).encode()
            )
        return total.hexdigest()

    def columns(self) -> Columns:
        """The books as they lie in memory, copied."""
        return Columns(
            bytes(self._records),
            tuple((*key, *end) for key, end in self._copies.items()),
            tuple(self._words),
            self._names_of_fates(),
        )

    def write_parquet(self, path: Path) -> None:
        """Writes the trace: a row per message, copy and fault, as `broker.trace` describes them."""
        from broker import trace  # noqa: PLC0415 - a heavy import that only a written trace needs

        trace.write(self, path)

    def _names_of_fates(self) -> tuple[str, ...]:
        return tuple(reason or DELIVERED for reason in self._reasons)


def _entry(
    number: int, record: tuple[Any, ...], words: Sequence[str], reasons: Sequence[str]
) -> Entry:
    (
        source, destination, purpose, _, _, size, on_the_wire, sent_ns, content, datagram,
        ended_ns, code,
    ) = record  # fmt: skip
    return Entry(
        number, words[source], words[destination], words[purpose], size, on_the_wire, content,
        sent_ns, ended_ns, reasons[code], 0, bool(datagram),
    )  # fmt: skip
