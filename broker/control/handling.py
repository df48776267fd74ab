"""What can be asked of a bus and done to it. All of it runs in the bus's own thread (`Bus.ask`).

A fault that is injected strikes a tenth of a second later: nodes learn of each fault before its
time, and what is to arrive before then is out already.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import faults as fault_language
from broker.clock import NANOSECONDS, to_seconds
from broker.control.chronicle import Chronicle
from broker.control.models import (
    Cleared,
    Fault,
    Faults,
    Link,
    Node,
    NodeState,
    Queue,
    State,
    Totals,
)
from broker.resuming import Edit
from broker.standalone import Standing
from broker.troubles import is_meant
from faults import Scenario, ScenarioError
from topologies import InputError

MOST = 500
"""So many of each kind are listed at most."""
MOST_DRAWN = 400
"""A network of more nodes is not drawn."""


class UnknownFaultError(LookupError):
    """No fault has that id."""


class Handling:
    """A bus that serves, as who controls it sees it."""

    def __init__(self, standing: Standing, chronicle: Chronicle) -> None:
        self._standing, self._chronicle = standing, chronicle
        self.bus = standing.bus
        links = self.bus.topology.links if len(self.bus.topology.nodes) <= MOST_DRAWN else {}
        self._graph = [pair for pair in links if pair[::-1] not in links or pair < pair[::-1]]
        self._injected: dict[str, None] = {}
        if standing.journal is not None:
            self._injected = dict.fromkeys(standing.journal.added)

    # What there is.

    def state(self) -> State:
        """Everything that the live page shows."""
        bus, account = self.bus, self.bus.account()
        totals = {name: getattr(account, name) for name in Totals.model_fields}
        return State(
            run=bus.run_name,
            topology=bus.topology.name,
            seed=bus.seed,
            time_s=None if bus.started_ns is None else to_seconds(bus.now_ns),
            totals=Totals.model_validate(totals),
            nodes=self.nodes(),
            links=self.links(),
            graph=self._graph,
            queues=self.queues(),
            faults=self.faults().faults,
            happenings=list(self._chronicle.latest),
        )

    def nodes(self) -> list[Node]:
        """All nodes, in the topology's order."""
        relay, conditions = self.bus.relay, self.bus.strikes.conditions
        found: list[Node] = []
        for number, name in enumerate(self.bus.names):
            home = relay.home(number)
            state: NodeState = "absent" if home is None else "up"
            if not conditions.is_up(name):
                state = "down"
            elif home is not None and conditions.is_stopped(name):
                state = "stopped"
            elif home is not None and conditions.is_paused(name):
                state = "paused"
            found.append(
                Node.model_construct(
                    name=name,
                    role=self.bus.topology.nodes[name].role,
                    state=state,
                    deaths=self._chronicle.deaths.get(name, 0),
                    waiting_bytes=home.backlog_bytes if home is not None else 0,
                )
            )
        return found

    def links(self) -> list[Link]:
        """Those with something on them, the fullest first, behind those that are not whole."""
        bus, conditions = self.bus, self.bus.strikes.conditions
        loads = {load.link.ends: load for load in bus.network.loads()}
        changed = dict.fromkeys(
            ends
            for event in conditions.active.values()
            if event.kind in ("degrade", "cut")
            for ends in event.links or _touching(bus.topology.links, event.nodes)
        )
        found: list[Link] = []
        for ends in (*changed, *(ends for ends in loads if ends not in changed)):
            load, own = loads.get(ends), bus.topology.links[ends]
            now = conditions.link(own)
            cut = conditions.is_cut(*ends)
            share, queue_s = (load.share, load.queue_s) if load is not None else (0.0, 0.0)
            if ends in changed or share or queue_s:
                found.append(
                    Link.model_construct(
                        source=ends[0],
                        target=ends[1],
                        bandwidth_bps=now.bandwidth_bps,
                        delay_s=now.delay_s,
                        loss=now.loss,
                        state="cut" if cut else "whole" if now is own else "worse",
                        share=share,
                        queue_s=queue_s,
                    )
                )
        found.sort(key=lambda link: (link.state == "whole", -link.queue_s, -link.share))
        return found[:MOST]

    def queues(self) -> list[Queue]:
        """What is sent and not taken up, the longest first."""
        names, most = self.bus.names, self.bus.topology.transport.send_buffer_bytes
        waiting = sorted(self.bus.relay.under_way(), key=lambda entry: -entry[1])
        return [
            Queue.model_construct(
                source=names[source],
                destination=names[destination],
                waiting_bytes=size,
                full=size >= most,
            )
            for (source, destination), size in waiting[:MOST]
        ]

    def faults(self) -> Faults:
        """Those that hold and those to come."""
        strikes = self.bus.strikes
        active = strikes.conditions.active
        coming = self.bus.to_come()
        ends = {event.fault: event.at_ns for event in coming if event.phase == "end"}
        begins = [event for event in coming if event.phase == "begin"]
        listed = [
            Fault.model_construct(
                id=event.fault,
                kind=event.kind,
                holds=event.fault in active,
                by_hand=any(is_meant(event.fault, one) for one in self._injected),
                begins_s=to_seconds(event.at_ns),
                ends_s=to_seconds(ends[event.fault]) if event.fault in ends else None,
                nodes=list(event.nodes),
                links=list(event.links),
                text=event.text,
            )
            for event in itertools.islice((*active.values(), *begins), MOST)
        ]
        return Faults.model_construct(faults=listed, more=max(len(active) + len(begins) - MOST, 0))

    # What can be done.

    def inject(self, entry: Mapping[str, Any]) -> list[Fault]:
        """Injects a fault: an entry of a timeline, whose `at` counts from now; gives what came of
        it. Raises InputError.
        """
        if "trace" in entry:
            raise InputError(
                "a trace is a file, and can't be injected",
                key="trace",
                remedy="Name it in the scenario with which the bus is started",
            )
        name = self._name(entry.get("id"))
        content = {"at": "0 s", **entry, "id": name}
        try:
            scenario = Scenario.of({"name": name, "timeline": [content]})
            drawn = fault_language.expand(scenario, self.bus.topology, self.bus.seed)
            for event in drawn:
                if event.phase == "begin":
                    fault_language.resolve(event, self.bus.strikes.facts, self.bus.topology)
        except ScenarioError as error:
            raise _of_entry(error) from None
        from_ns = self.bus.strikes.soonest_ns(self.bus.now_ns)
        events = [replace(event, at_ns=event.at_ns + from_ns) for event in drawn]
        self.bus.strikes.add(events)
        self._injected[name] = None
        self._standing.edit(Edit(at_ns=from_ns, add=fault_language.concrete(events, name=name)))
        return [fault for fault in self.faults().faults if is_meant(fault.id, name)]

    def clear(self, fault: str = "") -> Cleared:
        """Ends a fault, or sees that it never begins; all of them where none is named. Raises
        UnknownFaultError.
        """
        strikes = self.bus.strikes
        known = [one.fault for one in (*strikes.conditions.active.values(), *self.bus.to_come())]
        meant = [name for name in dict.fromkeys(known) if is_meant(name, fault)]
        if fault and not meant:
            raise UnknownFaultError(fault)
        at_ns = strikes.soonest_ns(self.bus.now_ns)
        if strikes.drop(fault, at_ns):
            self._standing.edit(Edit(at_ns=at_ns, drop=fault))
        return Cleared(cleared=meant, at_s=at_ns / NANOSECONDS)

    def _name(self, wanted: object) -> str:
        """The new fault's id, which no other of this run may have or have had."""
        strikes = self.bus.strikes
        taken = {event.fault.partition(".")[0] for event in (*strikes.applied, *self.bus.to_come())}
        if wanted is None:
            names = (f"by-hand-{number}" for number in itertools.count(1))
            return next(name for name in names if name not in taken | self._injected.keys())
        if not isinstance(wanted, str) or "." in wanted or wanted in taken | self._injected.keys():
            raise InputError(
                f"a fault can't be called {wanted!r}",
                key="id",
                remedy="Give it a name without a dot that no fault of this run has had",
            )
        return wanted


def _touching(
    links: Mapping[tuple[str, str], object], nodes: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    chosen = frozenset(nodes)
    return (ends for ends in links if not chosen.isdisjoint(ends))


def _of_entry(error: ScenarioError) -> InputError:
    """The error without the scenario around the entry, which nobody has written."""
    key = (error.key or "").removeprefix("timeline #1").removeprefix(" > ")
    return InputError(error.problem, key=key or None, remedy=error.remedy)
