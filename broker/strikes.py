"""Faults on the machine's clock: nodes learn of each before its time, and suffer it at its time.

So no message that a fault would have stopped is taken up meanwhile, however late an order comes.
What only a run can know (who is "host of client-3"?) is known when the fault strikes, and told
then.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.account import Observer
from broker.facts import Facts
from broker.network import Network
from broker.relay import EARLY_NS, Relay
from broker.troubles import LinkNow, Strike, Troubles
from broker.wire import Frame, Kind, pack
from faults import Conditions, Event, ScenarioError

NEVER_NS = 2**62
_MARGIN_NS = 1_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """Faults of one instant that nodes know of, and what holds from then on."""

    at_ns: int
    strike: Strike
    conditions: Conditions


class Strikes:
    """The faults of a run, for its nodes behind `relay` and for its `network`.

    `facts` are what programs have said of who is what; `near_ns` is when the nodes are next to
    learn of a fault.
    """

    def __init__(
        self,
        troubles: Troubles,
        relay: Relay,
        network: Network,
        names: Sequence[str],
        observer: Observer,
    ) -> None:
        self._troubles = troubles
        self._relay, self._network = relay, network
        self._names = tuple(names)
        self._observer = observer
        self._told: deque[_Told] = deque()
        self._conditions = Conditions()
        self._incarnation = dict.fromkeys(self._names, 0)
        self.facts = Facts(self._names, troubles.topology)
        self.near_ns = self._nearest_ns()

    @property
    def told_ns(self) -> int:
        """When the first of those strikes that the nodes know of."""
        return self._told[0].at_ns if self._told else NEVER_NS

    @property
    def next_ns(self) -> int:
        """When the next one strikes, known or not."""
        return min(self.told_ns, self._troubles.next_ns() or NEVER_NS)

    def to_come(self) -> tuple[Event, ...]:
        """Those that have not struck yet."""
        told = [event for told in self._told for event in told.strike.events]
        return (*told, *self._troubles.pending)

    def foretell(self, now_ns: int) -> None:
        """Tells the nodes of faults that are near: each knows in time what happens to it."""
        while self.near_ns <= now_ns:
            at_ns = self._troubles.next_ns()
            strike = None if at_ns is None else self._troubles.strike(at_ns, self.facts)
            self.near_ns = self._nearest_ns()
            if at_ns is None or strike is None:
                return
            self._told.append(_Told(at_ns, strike, self._troubles.conditions))
            for action, number, *values in strike.orders:
                life = [self._next_incarnation(self._names[number])] if action == "boot" else []
                self._order(number, at_ns, [[action, number, *(life or values)]])
            if strike.links is not None:
                body = pack({"actions": [], "links": strike.links})
                for connection in self._relay.connections():
                    self._relay.tell(connection, Frame(Kind.ORDERS, instant_ns=at_ns, body=body))

    def strike(self) -> None:
        """The first of those that the nodes know of strikes the network."""
        told = self._told.popleft()
        self._conditions = told.conditions
        self._network.apply(told.at_ns, told.conditions)
        self._relay.look_ahead()
        for action, number, *_ in told.strike.orders:
            if action == "crash":
                self._relay.forget(number)
            if action in ("crash", "boot"):
                self.facts.forget(self._names[number])
            if action in ("crash", "stop", "boot"):
                self._observer.restarted(self._names[number])
        for event in told.strike.events:
            self._observer.fault(event)

    def boot(
        self, numbers: Sequence[int], now_ns: int, lives: Mapping[int, int] | None = None
    ) -> None:
        """Starts the programs of nodes that have come, as the faults of now have them. Of those
        that were cut off and still live (`lives`: as which incarnation) it sets right what they
        have missed.
        """
        told = (one.conditions for one in reversed(self._told) if one.at_ns <= now_ns)
        conditions = next(told, self._conditions)
        links = self._troubles.links(conditions)
        for number in numbers:
            life = (lives or {}).get(number, -1)
            if life >= 0:
                self._set_right(number, life, conditions, now_ns)
                continue
            name = self._names[number]
            runs = conditions.is_up(name) and not conditions.is_stopped(name)
            life = self._next_incarnation(name) if runs else 0
            orders = self._troubles.newcomer(number, name, conditions, life)
            actions = [list(order) for order in orders]
            self._order(number, now_ns, actions, links)

    def _set_right(self, number: int, life: int, conditions: Conditions, now_ns: int) -> None:
        """Everything that faults do to a node, as it is now, whatever it has missed."""
        name = self._names[number]
        missed = life < self._incarnation[name] - 1
        self._incarnation[name] = max(self._incarnation[name], life + 1)
        actions: list[list[Any]] = [
            ["skew", number, *conditions.skew(name)],
            ["speed", number, conditions.compute_factor(name)],
            ["disk", number, conditions.is_disk_full(name)],
        ]
        if (left := self._troubles.memory_left(name, conditions)) is not None:
            actions.append(["memory", number, left])
        if not conditions.is_up(name):
            actions.append(["crash", number])
        elif conditions.is_stopped(name):
            actions.append(["stop", number])
        elif missed:
            actions.append(["boot", number, self._next_incarnation(name)])
        actions.append(["pause", number, conditions.is_paused(name)])
        self._order(number, now_ns, actions, self._troubles.links_ever_changed(conditions))

    # What is done by hand.

    def add(self, events: Sequence[Event]) -> None:
        """Further faults, none of them sooner than `soonest_ns`."""
        self._troubles.add(events)
        self.near_ns = self._nearest_ns()

    def drop(self, fault: str, at_ns: int) -> bool:
        """Ends a fault then, or sees that it never begins. Whether there was anything to do."""
        dropped = self._troubles.drop(fault, at_ns)
        self.near_ns = self._nearest_ns()
        return dropped

    @staticmethod
    def soonest_ns(now_ns: int) -> int:
        """When what is added now strikes at the soonest: what is to arrive before is out."""
        return now_ns + EARLY_NS + _MARGIN_NS

    @property
    def conditions(self) -> Conditions:
        """What is broken now."""
        return self._conditions

    @property
    def applied(self) -> tuple[Event, ...]:
        """What has struck, or is known to the nodes already."""
        return tuple(self._troubles.applied)

    def resume(
        self,
        now_ns: int,
        incarnations: Mapping[str, int],
        facts: Mapping[str, Sequence[str]],
    ) -> None:
        """Goes on where another bus was: all that was to strike by now holds; nobody is here yet
        who would have to be told.
        """
        self._incarnation |= incarnations
        for fact, nodes in facts.items():
            self.facts.declare(fact, nodes)
        while (self._troubles.next_ns() or NEVER_NS) <= now_ns:
            try:
                self._troubles.strike(now_ns, self.facts)
            except ScenarioError as error:
                _log.warning(
                    "a fault was left out, for nobody knows any more whom it means: %s", error
                )
        self._conditions = self._troubles.conditions
        self._network.apply(now_ns, self._conditions)
        self._relay.look_ahead()
        self.near_ns = self._nearest_ns()

    def incarnations(self) -> dict[str, int]:
        """The number that each node's next incarnation gets."""
        return dict(self._incarnation)

    def _nearest_ns(self) -> int:
        """When the nodes have to learn of the next fault."""
        at_ns = self._troubles.next_ns()
        if at_ns is None:
            return NEVER_NS
        next_ones = itertools.takewhile(lambda one: one.at_ns == at_ns, self._troubles.pending)
        unknown = any(event.selector is not None for event in next_ones)
        return at_ns if unknown else at_ns - EARLY_NS

    def _next_incarnation(self, name: str) -> int:
        self._incarnation[name] += 1
        return self._incarnation[name] - 1

    def _order(
        self,
        number: int,
        at_ns: int,
        actions: list[list[Any]],
        links: Sequence[LinkNow] = (),
    ) -> None:
        connection = self._relay.home(number)
        if connection is not None and (actions or links):
            body = pack({"actions": actions} | ({"links": links} if links else {}))
            self._relay.tell(connection, Frame(Kind.ORDERS, instant_ns=at_ns, body=body))
