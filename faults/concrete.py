"""Concrete events back into a scenario file.

A run writes what really happened, with everything filled in that only it could know; that file can
be run again, on the same topology, and means exactly the same events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from faults.event import Event, describe, ends_of
from topologies import units

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?: [A-Za-z0-9_.-]+)*")
_TAKEN = frozenset({"true", "false", "null"})


def concrete(events: Iterable[Event], *, name: str) -> str:
    """These events as YAML that `faults.load` reads, and that `faults.expand` turns into them
    again.

    The file names nodes, so it is for the topology of these events. A fault whose end is not among
    the events never ends in it.

    Raises ``ValueError`` when an end comes without its begin.
    """
    begins: dict[str, Event] = {}
    ends: dict[str, Event] = {}
    for event in events:
        (begins if event.phase == "begin" else ends)[event.fault] = event
    if lost := [fault for fault in ends if fault not in begins]:
        raise ValueError(f"fault {lost[0]} ends without having begun")
    entries = [
        _entry(begin, ends.get(begin.fault), position)
        for position, begin in enumerate(sorted(begins.values(), key=lambda e: e.order), start=1)
    ]
    head = f"name: {_word(name)}\ntimeline:"
    return "\n".join([head, *entries]) + "\n" if entries else f"{head} []\n"


def _entry(begin: Event, end: Event | None, position: int) -> str:
    settings = {"at": units.show_nanoseconds(begin.at_ns), begin.kind: _what(begin)}
    if end is not None:
        settings["for"] = units.show_nanoseconds(end.at_ns - begin.at_ns)
    if begin.fault != str(position):
        settings["id"] = _word(begin.fault)
    return f"  - {_flow(settings)}"


def _what(event: Event) -> str:
    if event.kind == "partition":
        groups = _list(_list(map(_word, group)) for group in event.groups)
        return _flow({"groups": groups, "oneway": "true"}) if event.oneway else groups
    changes = describe(event.change) if event.change is not None else {}
    if event.kind == "traffic":
        sources, targets = ends_of(event.links)
        return _flow({"from": _whom(sources), "to": _whom(targets)} | changes)
    whom = _word(event.selector) if event.selector is not None else _whom(event.nodes)
    if event.kind in ("crash", "stop", "pause", "leave", "full_disk"):
        return whom
    if event.kind == "nat":
        gateways = {"gateway": _whom(ends_of(event.links)[1])} if event.links else {}
        return _flow({"nodes": whom} | gateways)
    oneway = {"oneway": "true"} if event.oneway else {}
    if event.kind in ("degrade", "cut") and event.links and not event.nodes:
        return _flow({"link": _list(map(_word, event.links[0]))} | oneway | changes)
    return _flow({"nodes": whom} | oneway | changes)


def _whom(nodes: Sequence[str]) -> str:
    return _word(nodes[0]) if len(nodes) == 1 else _list(map(_word, nodes))


def _flow(settings: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in settings.items()) + "}"


def _list(items: Iterable[str]) -> str:
    return "[" + ", ".join(items) + "]"


def _word(text: str) -> str:
    if _PLAIN.fullmatch(text) and text not in _TAKEN:
        return text
    return json.dumps(text, ensure_ascii=False)
