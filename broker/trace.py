"""The trace of a run: a Parquet file with a row for each message, each copy of one, and each fault.

`write` makes it from a ledger; `read` gives a `Trace`, of which `Trace.chosen` is a part. Rows are
in order of `at_ns`, faults before the messages of their instant. The columns, which later versions
only add to:

    what         "message" or "fault"
    at_ns        when it was sent, or when the fault was applied: nanoseconds of virtual time
    ended_ns     when it arrived or was lost; null as long as it was in flight
    number       of the message, from 1 in order of sending; a copy has that of its original
    copy         0, or 1 for what the network made of a datagram a second time
    source, destination, purpose
    delivery     "stream" or "datagram"
    size_bytes   all that the program sent, with the frame around it
    wire_bytes   what that is on the wire, headers counted; 0: it never left its node
    fate         "delivered", "in flight" (when the run ended), or why it was lost
    content      BLAKE2b, 16 bytes, of header and payload
    fault        which one: its place in the scenario, its own name, or "churn-1.3"
    kind, phase  "crash", "degrade" and so on; "begin" or "end"
    nodes        whom it met: a list, empty where it met links
    text         the fault in words

What a message has is null for a fault, and the other way round. The schema's metadata have, under
`broker.trace`, a JSON object with `version`, `digest`, `copies_in_flight` (those whose fate nobody
knew any more) and `malformed` (frames that could not be read, by reason).
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from broker.ledger import DELIVERED, IN_FLIGHT, RECORD, Columns
from topologies import InputError
from topologies.errors import did_you_mean

if TYPE_CHECKING:
    from broker.ledger import Ledger

VERSION = 1
DROPPED = "dropped"
"""In place of a fate: all that is neither delivered nor in flight."""
_KEY = b"broker.trace"
_RECORD = np.dtype(
    [
        ("source", "<u4"), ("destination", "<u4"), ("purpose", "<u4"), ("body_bytes", "<u4"),
        ("answers", "<u8"), ("size_bytes", "<i8"), ("wire_bytes", "<i8"), ("at_ns", "<i8"),
        ("content", "V16"), ("datagram", "u1"),
    ]
)  # fmt: skip
assert _RECORD.itemsize == RECORD.size
_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "what": _WORD, "at_ns": pa.int64(), "ended_ns": pa.int64(), "number": pa.int64(),
        "copy": pa.int64(), "source": _WORD, "destination": _WORD, "purpose": _WORD,
        "delivery": _WORD, "size_bytes": pa.int64(), "wire_bytes": pa.int64(), "fate": _WORD,
        "content": pa.binary(16), "fault": pa.string(), "kind": _WORD, "phase": _WORD,
        "nodes": pa.list_(pa.string()), "text": pa.string(),
    }
)  # fmt: skip


def write(ledger: Ledger, path: Path) -> None:
    """Writes the trace of a run. Raises OSError where the file can't be written."""
    messages, faults = _messages(ledger.columns()), _faults(ledger)
    table = pa.concat_tables([faults, messages])
    at_ns = table.column("at_ns").to_numpy()
    if np.any(at_ns[1:] < at_ns[:-1]) or len(faults):
        table = table.take(pa.array(np.argsort(at_ns, kind="stable")))
    about = {
        "version": VERSION,
        "digest": ledger.digest(),
        "copies_in_flight": ledger.copies_in_flight,
        "malformed": ledger.malformed_frames,
    }
    table = table.replace_schema_metadata({_KEY: json.dumps(about)})
    plain = {"at_ns", "ended_ns", "number"}
    parquet.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=[name for name in SCHEMA.names if name not in plain | {"content"}],
        column_encoding=dict.fromkeys(plain, "DELTA_BINARY_PACKED"),
    )


def read(path: Path) -> Trace:
    """The trace in a file, or in a folder that has a `trace.parquet`. Raises InputError."""
    if path.is_dir():
        path = path / "trace.parquet"
    if not path.is_file():
        raise InputError(
            "there is no such file",
            file=str(path),
            remedy="`atlas run` leaves one in its folder, and `run.ledger.write_parquet(path)` "
            "writes one",
        )
    remedy = "Give the trace.parquet of a run"
    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise InputError(
            "this is no Parquet file, or only a part of one", file=str(path), remedy=remedy
        ) from error
    about = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if not about or missing:
        raise InputError(
            "this is a Parquet file, but not the trace of a run", file=str(path), remedy=remedy
        )
    if about["version"] > VERSION:
        raise InputError(
            f"this trace has version {about['version']}, and {VERSION} is known here",
            file=str(path),
            remedy="Read it with the version of broker that wrote it",
        )
    return Trace(table.select(SCHEMA.names).combine_chunks(), about)


@dataclass(frozen=True)
class Trace:
    """The rows of a trace, and what its metadata say."""

    table: pa.Table
    about: dict[str, Any]

    @property
    def messages(self) -> pa.Table:
        """The rows that are messages, copies among them."""
        return self.table.filter(compute.equal(self.table["what"], "message"))

    @property
    def faults(self) -> pa.Table:
        """The rows that are faults."""
        return self.table.filter(compute.equal(self.table["what"], "fault"))

    @property
    def end_ns(self) -> int:
        """The last instant of which the trace knows."""
        last = (compute.max(self.table[name]).as_py() for name in ("at_ns", "ended_ns"))
        return max((ns for ns in last if ns is not None), default=0)

    def nodes(self) -> tuple[str, ...]:
        """All nodes that sent, received or were met by a fault, sorted."""
        found = self._known("source") | self._known("destination")
        for nodes in self.faults["nodes"].to_pylist():
            found.update(nodes)
        return tuple(sorted(found))

    def chosen(
        self,
        *,
        nodes: Collection[str] = (),
        purposes: Collection[str] = (),
        fates: Collection[str] = (),
        from_ns: int | None = None,
        to_ns: int | None = None,
    ) -> Trace:
        """The part that all of these let through; what is not given lets everything through.

        Args:
            nodes: Names or patterns as `edge-*`. Messages that one of them sent or was sent, and
                faults that met one of them, or links.
            purposes: Of messages; names or patterns. Faults stay.
            fates: Of messages; names or patterns, or "dropped". Faults stay.
            from_ns: What was sent, or struck, at this instant or later.
            to_ns: What was sent, or struck, at this instant or earlier.

        Raises InputError where a name or pattern means nothing in this trace.
        """
        table = self.table
        is_fault = compute.equal(table["what"], "fault")
        keep = pa.chunked_array([pa.array(np.ones(len(table), dtype=bool))])
        if nodes:
            wanted = _matching(nodes, self.nodes(), "--node", "nodes")
            either = compute.or_(
                _among(table["source"], wanted), _among(table["destination"], wanted)
            )
            met = [
                whom is not None and (not whom or not wanted.isdisjoint(whom))
                for whom in table["nodes"].to_pylist()
            ]
            keep = compute.or_(either, pa.chunked_array([pa.array(met, pa.bool_())]))
        if purposes:
            wanted = _matching(purposes, self._known("purpose"), "--purpose", "purposes")
            keep = compute.and_(keep, compute.or_(is_fault, _among(table["purpose"], wanted)))
        if fates:
            known = self._known("fate")
            wanted = known - {DELIVERED, IN_FLIGHT} if DROPPED in fates else set()
            others = [fate for fate in fates if fate != DROPPED]
            wanted |= _matching(others, known, "--fate", "fates")
            keep = compute.and_(keep, compute.or_(is_fault, _among(table["fate"], wanted)))
        if from_ns is not None:
            keep = compute.and_(keep, compute.greater_equal(table["at_ns"], from_ns))
        if to_ns is not None:
            keep = compute.and_(keep, compute.less_equal(table["at_ns"], to_ns))
        return Trace(table.filter(keep), self.about)

    def fates(self) -> dict[str, int]:
        """How many messages met each fate: the delivered first, then by number."""
        counted = compute.value_counts(self.messages["fate"].cast(pa.string())).to_pylist()
        counts = {row["values"]: int(row["counts"]) for row in counted}
        return dict(sorted(counts.items(), key=lambda item: (item[0] != DELIVERED, -item[1], item)))

    def bytes_by_purpose(self) -> dict[str, int]:
        """Bytes on the wire by purpose, most first."""
        rows = self.messages.select(["purpose", "wire_bytes"])
        sums = rows.group_by("purpose").aggregate([("wire_bytes", "sum")]).to_pylist()
        totals = {str(row["purpose"]): int(row["wire_bytes_sum"]) for row in sums}
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))

    def _known(self, column: str) -> set[str]:
        found = compute.unique(self.table[column].cast(pa.string())).to_pylist()
        return {word for word in found if word is not None}


def _matching(patterns: Collection[str], known: Collection[str], key: str, what: str) -> set[str]:
    """The known words that these patterns mean. Raises InputError for one that means none."""
    found: set[str] = set()
    for pattern in patterns:
        matches = {word for word in known if word == pattern or fnmatch.fnmatchcase(word, pattern)}
        if not matches:
            raise InputError(
                f'nothing in this trace is called "{pattern}"',
                key=key,
                remedy=did_you_mean(pattern, sorted(known), what=f"{what} here"),
            )
        found |= matches
    return found


def _among(column: pa.ChunkedArray, words: Collection[str]) -> pa.ChunkedArray:
    return compute.is_in(column.cast(pa.string()), value_set=pa.array(sorted(words), pa.string()))


def _messages(columns: Columns) -> pa.Table:
    """A row for each message, each copy behind its original."""
    records = np.frombuffer(columns.records, dtype=_RECORD)
    ended = np.frombuffer(columns.ended_ns, dtype="<i8")
    fate = np.frombuffer(columns.fates, dtype="u1")
    number = np.arange(1, len(records) + 1)
    copy = np.zeros(len(records), dtype=np.int64)
    if columns.copies:
        numbers, copies, ended_ns, fates = np.array(columns.copies, dtype=np.int64).T
        order = np.lexsort((np.append(copy, copies), np.append(number, numbers)))
        records = np.append(records, records[numbers - 1])[order]
        ended, fate = np.append(ended, ended_ns)[order], np.append(fate, fates)[order]
        number, copy = np.append(number, numbers)[order], np.append(copy, copies)[order]
    found: dict[str, pa.Array] = {
        name: _words(records[name], columns.words) for name in ("source", "destination", "purpose")
    }
    for name in ("at_ns", "size_bytes", "wire_bytes"):
        found[name] = pa.array(np.ascontiguousarray(records[name]))
    contents = pa.py_buffer(np.ascontiguousarray(records["content"]).tobytes())
    found |= {
        "what": _words(np.zeros(len(records)), ("message",)),
        "ended_ns": pa.array(ended, mask=ended < 0),
        "number": pa.array(number),
        "copy": pa.array(copy),
        "delivery": _words(records["datagram"], ("stream", "datagram")),
        "fate": _words(fate, columns.reasons),
        "content": pa.Array.from_buffers(pa.binary(16), len(records), [None, contents]),
    }
    return _table(found, len(records))


def _faults(ledger: Ledger) -> pa.Table:
    faults: Sequence[Any] = sorted(ledger.faults, key=lambda fault: fault.at_ns)
    found = {"what": pa.array(["fault"] * len(faults), pa.string()).cast(_WORD)}
    for name in ("at_ns", "fault", "kind", "phase", "nodes", "text"):
        values = [getattr(fault, name) for fault in faults]
        kind = SCHEMA.field(name).type
        plain = pa.array(values, pa.string() if kind == _WORD else kind)
        found[name] = plain.cast(kind)
    return _table(found, len(faults))


def _table(columns: dict[str, pa.Array], rows: int) -> pa.Table:
    """All columns in their order, those not given null."""
    return pa.table(
        [
            columns[field.name].cast(field.type)
            if field.name in columns
            else pa.nulls(rows, field.type)
            for field in SCHEMA
        ],
        schema=SCHEMA,
    )


def _words(places: np.ndarray[Any, Any], words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(places.astype(np.int32), pa.array(words, pa.string()))
