"""A bus's counters for Prometheus, in its text format.

The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4). What
counts messages is of the bus's last beat, at most a second old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from broker.account import Account

if TYPE_CHECKING:
    from broker.control.models import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PLAIN = (
    ("sent_messages_total", "counter", "Messages that nodes have sent", "sent"),
    ("sent_bytes_total", "counter", "Their bytes, headers of the wire not counted", "sent_bytes"),
    ("duplicated_messages_total", "counter", "Copies that the network has made", "duplicated"),
    ("delivered_messages_total", "counter", "Messages that have arrived", "delivered"),
    ("delivered_bytes_total", "counter", "Their bytes", "delivered_bytes"),
    ("in_flight_messages", "gauge", "Messages that the network holds", "in_flight"),
    ("late_messages_total", "counter", "Messages that went out after their time", "late"),
    ("lag_seconds_max", "gauge", "By how much at worst", "lag_s"),
    ("blocked_senders", "gauge", "Pairs whose sender has to wait for its receiver", "blocked"),
    ("waiting_bytes", "gauge", "Bytes that wait for processes that don't read", "waiting_bytes"),
    ("connections", "gauge", "Processes that have joined", "connections"),
    ("turned_away_total", "counter", "Connections without a key that is known", "turned_away"),
)
_BY_REASON = (
    ("dropped_messages_total", "Messages that were lost", "dropped"),
    ("malformed_frames_total", "Frames that were not readable or not allowed", "malformed"),
)


def exposition(account: Account, state: State | None = None) -> str:
    """An account as Prometheus reads it; with a bus's state, that of its nodes and links, too."""
    lines = [*_lines(account)]
    if state is not None:
        lines += _state_lines(state)
    return "\n".join([*lines, ""])


def _state_lines(state: State) -> Iterator[str]:
    yield from _gauge("bus_clock_seconds", "How long the run lasts", [({}, state.time_s or 0.0)])
    holding = sum(fault.holds for fault in state.faults)
    yield from _gauge("bus_faults", "Faults that hold", [({}, holding)])
    nodes = [({"node": node.name}, node) for node in state.nodes]
    up = [(labels, int(node.state == "up")) for labels, node in nodes]
    yield from _gauge("node_up", "Whether it is there, and no fault holds it", up)
    deaths = [(labels, node.deaths) for labels, node in nodes]
    yield from _gauge("node_deaths_total", "How often it has died", deaths, kind="counter")
    links = [({"source": link.source, "target": link.target}, link) for link in state.links]
    for name, text, values in (
        ("bandwidth_bps", "What a link carries now", [link.bandwidth_bps for _, link in links]),
        ("used_ratio", "How much of it is in use", [link.share for _, link in links]),
        ("queue_seconds", "How long what comes waits", [link.queue_s for _, link in links]),
        ("cut", "Whether it carries nothing", [int(link.state == "cut") for _, link in links]),
    ):
        labels = (ends for ends, _ in links)
        yield from _gauge(f"link_{name}", text, list(zip(labels, values, strict=True)))


def _gauge(
    name: str, text: str, values: Iterable[tuple[Mapping[str, str], float]], kind: str = "gauge"
) -> Iterator[str]:
    yield f"# HELP atlas_{name} {text}."
    yield f"# TYPE atlas_{name} {kind}"
    for labels, value in values:
        shown = ",".join(f'{key}="{_escaped(word)}"' for key, word in labels.items())
        yield f"atlas_{name}{{{shown}}} {value}" if shown else f"atlas_{name} {value}"


def _lines(account: Account) -> Iterator[str]:
    for name, kind, text, field in _PLAIN:
        yield from _head(name, kind, text)
        yield f"atlas_bus_{name} {getattr(account, field)}"
    for name, text, field in _BY_REASON:
        yield from _head(name, "counter", text)
        counts: Mapping[str, int] = getattr(account, field)
        for reason, count in counts.items():
            yield f'atlas_bus_{name}{{reason="{_escaped(reason)}"}} {count}'


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP atlas_bus_{name} {text}."
    yield f"# TYPE atlas_bus_{name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
