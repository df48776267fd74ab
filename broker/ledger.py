"""Every message's fate, and the digest of a run.

The law: sent + duplicated = delivered + dropped, each with its reason, + in flight. `Ledger.check`
is called whenever a run closes and raises `LedgerError` when the books do not balance.

The digest is SHA-256 over every message in the order in which it was sent (ends, purpose, sizes,
times in nanoseconds, fate, and a hash of what it carried) and every fault that was applied. Two
runs with the same digest carried the same bytes at the same instants.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from broker.errors import LedgerError
from broker.network import Fate, wire_bytes
from broker.wire import Frame

IN_FLIGHT = "in flight"
DELIVERED = "delivered"


@dataclass(slots=True)
class Entry:
    """One message, or with `copy` 1 what a network made of it a second time.

    Times in nanoseconds of virtual time; `fate` is "delivered", "in flight" or a reason.
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


@dataclass(frozen=True, slots=True)
class FaultEntry:
    """One fault as it was applied, in words, and the nodes it met."""

    at_ns: int
    fault: str
    kind: str
    phase: str
    nodes: tuple[str, ...]
    text: str


class Ledger:
    """The books of one run."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._copies: list[Entry] = []
        self._ended = 0
        self._faults: list[FaultEntry] = []
        self._malformed: dict[str, int] = {}
        self._wire_total = 0

    def sent(self, source: str, destination: str, frame: Frame) -> Entry:
        """Books a message that a node handed over. Its number counts from 1 in order of sending."""
        content = hashlib.blake2b(frame.body, digest_size=16)
        content.update(frame.answers.to_bytes(8, "big"))
        for part in frame.payload:
            content.update(part)
        size = frame.size_bytes
        on_the_wire = wire_bytes(size)
        entry = Entry(
            len(self._entries) + 1,
            source,
            destination,
            frame.purpose,
            size,
            on_the_wire,
            content.digest(),
            frame.instant_ns,
        )
        self._entries.append(entry)
        self._wire_total += on_the_wire
        return entry

    def ended(self, fate: Fate) -> None:
        """Books how a message ended. Raises LedgerError where it had ended before."""
        entry = self._entries[fate.number - 1]
        if fate.copy:
            entry = replace(entry, ended_ns=-1, fate=IN_FLIGHT, copy=fate.copy)
            self._copies.append(entry)
        elif entry.fate != IN_FLIGHT:
            raise LedgerError(
                f"message {fate.number} ended twice: {entry.fate}, then {fate.reason}"
            )
        entry.ended_ns = fate.at_ns
        entry.fate = fate.reason or DELIVERED
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
        if len(self._entries) + duplicated != self._ended + in_flight:
            raise LedgerError(
                f"{len(self._entries):,} messages were sent and {duplicated:,} duplicated, "
                f"{self._ended:,} have a fate, and the network holds {in_flight:,}"
            )

    def __iter__(self) -> Iterator[Entry]:
        """Messages in the order in which they were sent, then copies as they ended."""
        return itertools.chain(self._entries, self._copies)

    def __len__(self) -> int:
        return len(self._entries)

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

    def bytes_by_purpose(self) -> dict[str, int]:
        """Bytes on the wire by purpose, lost messages included, sorted by purpose."""
        totals: dict[str, int] = {}
        for entry in self:
            totals[entry.purpose] = totals.get(entry.purpose, 0) + entry.wire_bytes
        return dict(sorted(totals.items()))

    def fates(self) -> dict[str, int]:
        """How many messages met each fate."""
        counts: dict[str, int] = {}
        for entry in self:
            counts[entry.fate] = counts.get(entry.fate, 0) + 1
        return dict(sorted(counts.items()))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, over all entries."""
        total = hashlib.sha256()
        for entry in self:
            total.update(
                (
                    f"{entry.source}\0{entry.destination}\0{entry.purpose}\0{entry.size_bytes}\0"
                    f"{entry.sent_ns}\0{entry.ended_ns}\0{entry.fate}\0{entry.copy}\0"
                    f"{entry.content.hex()}\n"
                ).encode()
            )
        for fault in self._faults:
            nodes = ",".join(fault.nodes)
            total.update(
                f"{fault.at_ns}\0{fault.fault}\0{fault.kind}\0{fault.phase}\0{nodes}\n".encode()
            )
        return total.hexdigest()

    def write_parquet(self, path: Path) -> None:
        """Writes the trace: one row per message and per fault, in order of their instants."""
        import pyarrow as pa  # noqa: PLC0415 - a heavy import that only a written trace needs
        from pyarrow import parquet  # noqa: PLC0415

        columns: dict[str, list[object]] = {
            name: []
            for name in (
                "what", "number", "source", "destination", "purpose", "size_bytes", "wire_bytes",
                "sent_ns", "ended_ns", "fate", "copy", "content", "text",
            )
        }  # fmt: skip

        def add(*values: object) -> None:
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)

        merged: list[tuple[int, int, Entry | FaultEntry]] = [
            *((fault.at_ns, 0, fault) for fault in self._faults),
            *((entry.sent_ns, 1, entry) for entry in self),
        ]
        for _, _, item in sorted(merged, key=lambda row: row[:2]):
            if isinstance(item, Entry):
                ended = item.ended_ns if item.ended_ns >= 0 else None
                add(
                    "message", item.number, item.source, item.destination, item.purpose,
                    item.size_bytes, item.wire_bytes, item.sent_ns, ended, item.fate, item.copy,
                    item.content.hex(), "",
                )  # fmt: skip
            else:
                nodes = ", ".join(item.nodes)
                add(
                    "fault", None, nodes, "", f"{item.kind} {item.phase}", None, None,
                    item.at_ns, None, "", None, "", item.text,
                )  # fmt: skip
        integers = {"number", "size_bytes", "wire_bytes", "sent_ns", "ended_ns", "copy"}
        table = pa.table(
            {
                name: pa.array(values, pa.int64() if name in integers else pa.string())
                for name, values in columns.items()
            }
        )
        parquet.write_table(table, path)
