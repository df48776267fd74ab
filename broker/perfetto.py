"""A trace as Chrome's Trace Event Format, for ui.perfetto.dev and chrome://tracing.

Each node is a process, named after it, with these tracks:

- its messages by purpose, each a slice from when it was sent until it arrived or was lost
  (asynchronous events ``b`` and ``e``, matched by category and id, as many at once as there are);
- "sent" and "arrived": a tick of a nanosecond at each end of a message that was delivered
  (complete events ``X``), with an arrow from the one to the other (flow events ``s`` and ``f``);
- its faults, each from its beginning to its end, or to the trace's.

Faults that met links and no node are on a process "(network)". ``ts`` and ``dur`` are microseconds,
exact to the nanosecond. Ids are unique over the whole trace, as are those of threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.ledger import DELIVERED
from broker.trace import Trace
from topologies import InputError

Event = dict[str, object]
_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
NETWORK = "(network)"
_SENT, _ARRIVED = 1, 2
_TICK = 0.001
_AT_ONCE = 4_096


def export(trace: Trace, path: Path) -> int:
    """Writes the trace to a file, some 600 bytes a message; returns how many events there are.

    Raises InputError where the file's folder is missing, and OSError.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"there is no folder {path.parent}", file=str(path), remedy="Make it, or name another"
        )
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for event in events(trace):
            file.write(",\n" if count else "")
            file.write(_write(event))
            count += 1
        file.write("\n]}\n")
    return count


def events(trace: Trace) -> Iterator[Event]:
    """All events: the names of processes and threads, then messages, then faults."""
    faults = trace.faults.to_pylist()
    owners = list(trace.nodes())
    if any(not fault["nodes"] for fault in faults):
        owners.append(NETWORK)
    # Tens, so that no thread has a process's number: a thread of that number is its main one.
    processes = {name: 10 * place for place, name in enumerate(owners, 1)}
    for name, pid in processes.items():
        yield _metadata(pid, 0, "process_name", {"name": name})
        yield _metadata(pid, 0, "process_sort_index", {"sort_index": pid})
        if name != NETWORK:
            yield _metadata(pid, pid + _SENT, "thread_name", {"name": "sent"})
            yield _metadata(pid, pid + _ARRIVED, "thread_name", {"name": "arrived"})
    end_ns = trace.end_ns
    free = 0
    for batch in trace.messages.to_batches(_AT_ONCE):
        for row in batch.to_pylist():
            identity = 2 * row["number"] + row["copy"]
            free = max(free, identity + 1)
            yield from _message(row, hex(identity), processes, end_ns)
    for number, span in enumerate(_spans(faults), free):
        yield from _fault(*span, hex(number), processes, end_ns)


def _message(
    row: dict[str, Any], identity: str, processes: dict[str, int], end_ns: int
) -> Iterator[Event]:
    source, destination = row["source"], row["destination"]
    pid = processes[source]
    sent_ns, ended_ns = row["at_ns"], row["ended_ns"]
    arrived = row["fate"] == DELIVERED
    name = row["purpose"] or "message"
    told = {
        "number": row["number"],
        "to": destination,
        "bytes": row["size_bytes"],
        "bytes on the wire": row["wire_bytes"],
        "delivery": row["delivery"],
        "fate": row["fate"],
    }
    if row["copy"]:
        told["copy"] = row["copy"]
    if not arrived:
        name += f" ({row['fate']})"
    slice_of = {"cat": "message", "id": identity, "name": name, "pid": pid, "tid": pid + _SENT}
    yield {"ph": "b", "ts": _us(sent_ns), **slice_of, "args": told}
    yield {"ph": "e", "ts": _us(end_ns if ended_ns is None else ended_ns), **slice_of}
    if not arrived:
        return
    other = processes[destination]
    ends = (
        ("s", sent_ns, pid, pid + _SENT, f"to {destination}"),
        ("f", ended_ns, other, other + _ARRIVED, f"from {source}"),
    )
    for phase, at_ns, pid, tid, whom in ends:
        at = {"ts": _us(at_ns), "pid": pid, "tid": tid}
        yield {"ph": "X", **at, "dur": _TICK, "cat": "end", "name": f"{name} {whom}"}
        arrow = {"ph": phase, **at, "cat": "flow", "id": identity, "name": name}
        yield {**arrow, "bp": "e"} if phase == "f" else arrow


def _spans(faults: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, int | None]]:
    """Each fault that begins, a node it met ("(network)" for links), and when it ended."""
    ends: dict[str, list[int]] = {}
    for fault in faults:
        if fault["phase"] == "end":
            ends.setdefault(fault["fault"], []).append(fault["at_ns"])
    for fault in faults:
        if fault["phase"] == "begin":
            later = ends.get(fault["fault"], [])
            ended_ns = next((at_ns for at_ns in later if at_ns >= fault["at_ns"]), None)
            for node in fault["nodes"] or (NETWORK,):
                yield fault, node, ended_ns


def _fault(
    fault: dict[str, Any],
    node: str,
    ended_ns: int | None,
    identity: str,
    processes: dict[str, int],
    end_ns: int,
) -> Iterator[Event]:
    pid = processes[node]
    told = {"fault": fault["fault"], "text": fault["text"]}
    if ended_ns is None:
        told["ends"] = "after this trace, or never"
    slice_of = {"cat": "fault", "id": identity, "name": fault["kind"], "pid": pid, "tid": pid}
    yield {"ph": "b", "ts": _us(fault["at_ns"]), **slice_of, "args": told}
    yield {"ph": "e", "ts": _us(end_ns if ended_ns is None else ended_ns), **slice_of}


def _metadata(pid: int, tid: int, name: str, told: Event) -> Event:
    return {"ph": "M", "ts": 0, "pid": pid, "tid": tid or pid, "name": name, "args": told}


def _us(at_ns: int) -> float:
    """Microseconds; a double has room for the nanoseconds of a hundred days."""
    return at_ns / 1000
