"""What a person reads of the network when a test has failed.

The last of what happened, in order of time; what each node last sent and got; who waits for what;
and the line that repeats it.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from broker.ledger import DELIVERED, IN_FLIGHT, Entry
from broker.machine import where
from topologies import units

if TYPE_CHECKING:
    import pytest

    from broker.testing.world import World

MOST_LINES = 20
MOST_NODES = 12
_NS = 10**9


def describe(
    world: World, nodeid: str, item: pytest.Item | None = None, *, explored: bool = False
) -> str:
    """All of it. What an exploration tries, it says by itself how to repeat."""
    entries = list(world.ledger)
    parts = [
        f"virtual time {_seconds(world.loop._now_ns)}, seed {world.seed}, topology "
        f"{world.topology.name}; {len(world.ledger):,} messages"
        + (f", {len(world.struck):,} faults began or ended" if world.struck else ""),
        _timeline(world, entries),
        _by_node(world, entries),
        "waiting:\n" + "\n".join(f"  {name}: {what}" for name, what in world.waiting().items()),
        "" if explored else f"repeat it with:\n  {repeat(nodeid, world.seed, item)}",
    ]
    return "\n\n".join(part for part in parts if part)


def repeat(nodeid: str, seed: int, item: pytest.Item | None = None) -> str:
    """The command that repeats a test's run."""
    words = ["pytest", nodeid, "--network-seed", str(seed)]
    for option in ("faults", "topology"):
        given = item and getattr(item.config.option, f"network_{option}", None)
        if given:
            words += [f"--network-{option}", str(given)]
    return shlex.join(words)


def task_in_words(task: asyncio.Task[Any]) -> str:
    """A task by its name and where it stands."""
    return f"{task.get_name()}: {where(task) or 'not begun'}"


def _timeline(world: World, entries: list[Entry]) -> str:
    """The last of what happened, in the manner of `python -m broker trace`."""
    rows = [(entry.sent_ns, 1, number, _message(entry)) for number, entry in enumerate(entries)]
    rows += [
        (fault.at_ns, 0, number, f"▸ {fault.text}")
        for number, fault in enumerate(world.ledger.faults)
    ]
    rows += [
        (round(note.time_s * _NS), 2, number, f"{note.node}: {note.event} {note.fields or ''}")
        for number, note in enumerate(world.notes)
        if note.node
    ]
    rows.sort()
    shown = rows[-MOST_LINES:]
    width = max((len(_seconds(at_ns)) for at_ns, *_ in shown), default=0)
    lines = [f"  {_seconds(at_ns):>{width}}  {text.rstrip()}" for at_ns, *_, text in shown]
    if len(rows) > len(shown):
        lines.insert(0, f"  … {len(rows) - len(shown):,} before")
    return "\n".join(lines)


def _by_node(world: World, entries: list[Entry]) -> str:
    """What each node last sent and got."""
    sent: dict[str, Entry] = {}
    got: dict[str, Entry] = {}
    for entry in entries:
        sent[entry.source] = entry
        if entry.fate == DELIVERED:
            before = got.get(entry.destination)
            if before is None or entry.ended_ns >= before.ended_ns:
                got[entry.destination] = entry
    names = [name for name in world.topology.nodes if name in sent or name in got]
    unread = world.unread
    lines: list[str] = []
    for name in names[:MOST_NODES]:
        said = ", ".join(_last(sent.get(name), got.get(name)))
        waits = f"; {unread[name]} unread" if name in unread else ""
        lines.append(f"  {name}: {said}{waits}")
    if len(names) > MOST_NODES:
        lines.append(f"  and {len(names) - MOST_NODES} more nodes")
    return "last of each node:\n" + "\n".join(lines) if lines else ""


def _last(sent: Entry | None, got: Entry | None) -> Iterator[str]:
    if sent is not None:
        fate = "" if sent.fate == DELIVERED else f" ({sent.fate})"
        yield f"sent {_what(sent)}to {sent.destination} at {_seconds(sent.sent_ns)}{fate}"
    if got is not None:
        yield f"got {_what(got)}from {got.source} at {_seconds(got.ended_ns)}"
    else:
        yield "got nothing"


def _what(entry: Entry) -> str:
    return f"{entry.purpose} " if entry.purpose else ""


def _message(entry: Entry) -> str:
    took = "" if entry.fate == IN_FLIGHT else units.show_duration(
        (entry.ended_ns - entry.sent_ns) / _NS, 3
    )  # fmt: skip
    what = f"  {entry.purpose}" if entry.purpose else ""
    size = units.show_size(entry.size_bytes, 3)
    return f"{entry.source} → {entry.destination}{what}  {size}  {took}  {entry.fate}"


def _seconds(at_ns: int) -> str:
    return f"{at_ns // _NS}.{at_ns // 1_000 % 1_000_000:06d} s"
