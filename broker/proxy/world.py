"""The network between the proxy's nodes, on the clock of the event loop, and its faults.

A connection is a channel of `broker.network`: it shares links with all others, and its two ways are
two streams. `World.carry` is told of bytes, keeps none of them, and calls back when they are there.
Nothing comes from another process, so that the network's time is the machine's: what is sent is
sent now, and what has arrived is told within microseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import faults as fault_language
from broker.network import Network
from broker.troubles import Troubles
from faults import Conditions, Event, Scenario
from topologies import InputError, Link, Topology

Then = Callable[[str], None]
"""What is called with why something was lost; with nothing once it is there."""

_LATE_NS = 1_000_000
_REAL = ("slow", "skew", "squeeze", "full_disk")
"""Faults of a machine's inside, which a network in front of a real program can't bring about."""


class World:
    """A topology and its faults. `struck` is called after each change of the conditions with what
    holds then, and with the events.

    `late` counts what was told more than 1 ms after its time, and `lag_ns` is the worst of all.

    Raises InputError for faults that real programs can't suffer here.
    """

    def __init__(
        self,
        topology: Topology,
        faults: Scenario | Sequence[Event] = (),
        *,
        seed: int = 0,
        struck: Callable[[Conditions, Sequence[Event]], None],
    ) -> None:
        self.topology = topology
        events = (
            fault_language.expand(faults, topology, seed)
            if isinstance(faults, Scenario)
            else tuple(faults)
        )
        for event in events:
            _check(event)
        self._struck = struck
        self._network = Network(topology, seed)
        self._troubles = Troubles(events, topology, seed, tuple(topology.nodes))
        self._loop = asyncio.get_running_loop()
        self._start_ns: int | None = None
        self._number = self._connections = 0
        self._under_way: dict[int, Then] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns: int | None = None
        self._planned = False
        self._striking_ns: int | None = None
        self.late = self.lag_ns = 0
        self._strike(0)

    # Time.

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the clock started; 0 before."""
        return 0 if self._start_ns is None else time.monotonic_ns() - self._start_ns

    def start(self) -> None:
        """The clock starts, if it has not yet."""
        if self._start_ns is None:
            self._start_ns = time.monotonic_ns()
            self._plan()

    @property
    def _at_ns(self) -> int:
        """What time it is in the network."""
        return self.now_ns if self._striking_ns is None else self._striking_ns

    def close(self) -> None:
        """Nothing more is told."""
        if self._timer is not None:
            self._timer.cancel()
        self._under_way.clear()
        self._planned = True

    # Questions.

    @property
    def conditions(self) -> Conditions:
        """What holds now."""
        return self._troubles.conditions

    @property
    def in_flight(self) -> int:
        """Messages that the network holds."""
        return self._network.in_flight()

    def links(self, source: str, target: str) -> tuple[Link, ...] | None:
        """The links on the way as they are now; None without one."""
        if not (self.conditions.is_up(source) and self.conditions.is_up(target)):
            return None
        return self._network.route(source, target)

    # What goes through.

    def connection(self) -> int:
        """The number of a new connection."""
        self._connections += 1
        return self._connections

    def carry(self, source: str, target: str, channel: int, size: int, then: Then) -> None:
        """So many bytes of a connection go from one node to another."""
        self._number += 1
        self._under_way[self._number] = then
        self._network.send(self._at_ns, self._number, source, target, size, channel=channel)
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._turn)

    def hang_up(self, source: str, target: str, channel: int) -> None:
        """A connection is no more, this way; what of it is under way is lost."""
        self._network.close(self._at_ns, source, target, channel)

    # Inside.

    def _turn(self) -> None:
        """All that has happened by now."""
        self._planned = True  # what is carried meanwhile is planned for in the end
        now_ns = self.now_ns
        while (at_ns := self._troubles.next_ns()) is not None and at_ns <= now_ns:
            self._tell(at_ns - 1)
            self._strike(at_ns)
        self._tell(now_ns)
        self._planned = False
        self._plan()

    def _tell(self, to_ns: int) -> None:
        for fate in self._network.advance(to_ns):
            then = self._under_way.pop(fate.number, None)
            lag_ns = self.now_ns - fate.at_ns
            self.late += lag_ns > _LATE_NS
            self.lag_ns = max(self.lag_ns, lag_ns)
            if then is not None:
                then(fate.reason)

    def _strike(self, at_ns: int) -> None:
        strike = self._troubles.strike(at_ns, {})
        if strike is not None:
            self._striking_ns = at_ns
            self._network.apply(at_ns, self._troubles.conditions)
            self._struck(self._troubles.conditions, strike.events)
            self._striking_ns = None

    def _plan(self) -> None:
        """Sets the timer to when something happens next."""
        if self._start_ns is None:
            return
        coming = (self._network.next_ns(), self._troubles.next_ns())
        due_ns = min((at_ns for at_ns in coming if at_ns is not None), default=None)
        if self._timer is not None:
            if due_ns == self._due_ns:
                return
            self._timer.cancel()
            self._timer = None
        self._due_ns = due_ns
        if due_ns is not None:
            self._timer = self._loop.call_at((self._start_ns + due_ns) / 1e9, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._turn()


def _check(event: Event) -> None:
    if event.kind in _REAL:
        raise InputError(
            f'"{event.kind}" can\'t be done to a program behind the proxy',
            key=event.text,
            remedy="The proxy is the network between real programs: it can crash, stop and pause "
            "nodes, cut, part and degrade links, and make traffic",
        )
    if event.selector is not None:
        raise InputError(
            f'"{event.selector}" is known to programs on the emulator\'s own bus only',
            key=event.text,
            remedy="Name the nodes",
        )
