"""Scenarios back into files: as they were meant, or as concrete events.

Everything written here is read again by `faults.load`, and means the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from faults.event import Event, describe, ends_of
from topologies import units

if TYPE_CHECKING:
    from pydantic import BaseModel

    from faults.scenario import Scenario

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?: [A-Za-z0-9_.-]+)*")
_QUANTITY = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)? ?[A-Za-zµ%][A-Za-z/%]*")
_TAKEN = frozenset({"true", "false", "null"})


def write(scenario: Scenario) -> str:
    """The scenario as YAML that `faults.load` reads, with the traces it names beside it."""
    lines = [f"name: {_word(scenario.name)}"]
    if scenario.description:
        lines.append(f"description: {_word(scenario.description)}")
    if scenario.concrete:
        lines.append("concrete: true")
    for key, entries in (("timeline", scenario.timeline), ("processes", scenario.processes)):
        rows = [f"  - {_yaml(content(entry))}" for entry in entries]
        if rows:
            lines += [f"{key}:", *rows]
    if not scenario.timeline and not scenario.processes:
        lines.append("timeline: []")
    return "\n".join(lines) + "\n"


def content(entry: BaseModel) -> dict[str, Any]:
    """An entry of a scenario as a file says it, in plain dicts, lists and words."""
    said = entry.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if list(said.get("partition", ())) == ["groups"]:
        said["partition"] = said["partition"]["groups"]
    order = {"at": -1, "for": 1, "id": 2}  # when, what, for how long: as people write it
    return {key: said[key] for key in sorted(said, key=lambda key: order.get(key, 0))}


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
        f"  - {_yaml(_entry(begin, ends.get(begin.fault), position))}"
        for position, begin in enumerate(sorted(begins.values(), key=lambda e: e.order), start=1)
    ]
    head = f"name: {_word(name)}\nconcrete: true\ntimeline:"
    return "\n".join([head, *entries]) + "\n" if entries else f"{head} []\n"


def _entry(begin: Event, end: Event | None, position: int) -> dict[str, Any]:
    settings = {"at": units.show_nanoseconds(begin.at_ns), begin.kind: _what(begin)}
    if end is not None:
        settings["for"] = units.show_nanoseconds(end.at_ns - begin.at_ns)
    if begin.fault != str(position):
        settings["id"] = begin.fault
    return settings


def _what(event: Event) -> Any:
    oneway = {"oneway": True} if event.oneway else {}
    if event.kind == "partition":
        groups = [list(group) for group in event.groups]
        return {"groups": groups} | oneway if event.oneway else groups
    changes: dict[str, Any] = {}
    if event.change is not None:
        changes |= describe(event.change)
        if event.change.burst is not None:
            changes["burst"] = event.change.burst.value
    if event.kind == "traffic":
        sources, targets = ends_of(event.links)
        return {"from": _whom(sources), "to": _whom(targets)} | changes
    whom = event.selector if event.selector is not None else _whom(event.nodes)
    if event.kind in ("crash", "stop", "pause", "leave", "full_disk"):
        return whom
    if event.kind == "nat":
        gateways = {"gateway": _whom(ends_of(event.links)[1])} if event.links else {}
        return {"nodes": whom} | gateways
    if event.kind in ("degrade", "cut") and event.links and not event.nodes:
        return {"link": list(event.links[0])} | oneway | changes
    return {"nodes": whom} | oneway | changes


def _whom(nodes: Sequence[str]) -> str | list[str]:
    return nodes[0] if len(nodes) == 1 else list(nodes)


def _yaml(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return units.show_number(value)
    return str(value) if _QUANTITY.fullmatch(value) else _word(value)


def _word(text: str) -> str:
    if _PLAIN.fullmatch(text) and text not in _TAKEN:
        return text
    return json.dumps(text, ensure_ascii=False)
