"""Datagrams on their way over links: what `datagrams` says of each link, one link after another."""

from __future__ import annotations

from broker.network import datagrams
from broker.network.agenda import NEVER, Agenda, Fate
from broker.network.chance import least_delay_s
from broker.network.datagrams import Fortune, Train
from broker.network.routes import to_ns
from broker.network.segments import LARGEST_DATAGRAM
from broker.network.shares import Shares
from broker.network.ways import Ways
from topologies import InputError, Link, Transport


class Carrier:
    """All datagrams under way. `duplicated` counts the copies that links have made."""

    __slots__ = ("_agenda", "_copies", "_fortune", "_shares", "_trains", "_transport", "_ways",
                 "duplicated")  # fmt: skip

    def __init__(
        self, agenda: Agenda, ways: Ways, shares: Shares, transport: Transport, seed: int
    ) -> None:
        self._agenda, self._ways, self._shares = agenda, ways, shares
        self._transport = transport
        self._fortune = Fortune(seed)
        self._trains: dict[str, dict[int, Train]] = {}
        self._copies: dict[int, int] = {}
        self.duplicated = 0

    def send(self, at_ns: int, number: int, source: str, destination: str, size: int) -> None:
        """A datagram is handed over. Raises InputError for one of more than 65,507 bytes."""
        if size > LARGEST_DATAGRAM:
            raise InputError(
                f"a datagram has at most {LARGEST_DATAGRAM:,} bytes, not {size:,}",
                remedy="Send it as a stream, or in parts",
            )
        if not self._ways.conditions.is_up(destination):
            self._agenda.fates.append(Fate(number, at_ns, "destination down"))
            return
        relays = self._ways.by_way_of(source, destination)
        if relays is None and not self._ways.conditions.blocked(source, destination):
            self._agenda.fates.append(Fate(number, at_ns, "behind a NAT"))
            return
        train = datagrams.train(
            self._agenda.name(), number, source, destination, size, self._transport
        )
        train.relays = relays or ()
        self._ways.call(source, destination)
        self._add(train)
        self._agenda.in_flight += 1
        self.hop(train, at_ns)

    def _add(self, train: Train) -> None:
        self._trains.setdefault(train.destination, {})[train.index] = train

    def hop(self, train: Train, at_ns: int) -> None:
        """A datagram has come to a node: it has arrived, or goes on over the next link."""
        train.wake_ns = NEVER
        if train.relays and train.at_node == train.relays[0]:
            train.relays = train.relays[1:]
        if train.arriving or (train.at_node == train.destination and not train.relays):
            self._lose(train, at_ns, "corrupt" if train.corrupt else "")
            return
        link = None
        if not self._ways.conditions.blocked(train.source, train.destination):
            link = self._ways.next_link(train.at_node, train.goal)
        if link is None:
            self._lose(train, at_ns, "no route")
            return
        fortune = self._fortune
        if train.copy == 0 and fortune.happens(train, link, "duplicate", link.duplicate):
            twin = train.twin(self._agenda.name())
            self._add(twin)
            self._copies[train.number] = self._copies.get(train.number, 1) + 1
            self._agenda.in_flight += 1
            self.duplicated += 1
            self._cross(train, link, at_ns)
            self._cross(twin, link, at_ns)
            return
        self._cross(train, link, at_ns)

    def _cross(self, train: Train, link: Link, at_ns: int) -> None:
        fortune = self._fortune
        if fortune.loses(train, link):
            self._lose(train, at_ns, "lost")
            return
        if fortune.happens(train, link, "corrupt", link.corrupt):
            train.corrupt = True
        if self._shares.dirty:
            self._shares.solve()
        resource = self._ways.resource(link)
        was_free_ns = max(resource.free_ns, at_ns)
        standing_ns = self._shares.standing_ns(resource, at_ns)
        taken = datagrams.transmit(train, link, resource, at_ns, standing_ns)
        if taken is None:
            self._lose(train, at_ns, "queue full")
            return
        if resource.users:
            self._shares.push_back(resource, at_ns, resource.free_ns - was_free_ns)
        train.at_node = link.target
        wake_ns = at_ns + taken + fortune.delay_ns(train, link)
        if link.target == train.destination and not train.relays:
            train.arriving = True
            wake_ns += train.lag_ns
        self._agenda.wake(train, wake_ns)

    def _lose(self, train: Train, at_ns: int, reason: str) -> None:
        self._agenda.fates.append(self.end(train, at_ns, reason))

    def end(self, train: Train, at_ns: int, reason: str) -> Fate:
        """A copy has ended, for this reason."""
        bound = self._trains[train.destination]
        del bound[train.index]
        if not bound:
            del self._trains[train.destination]
        train.wake_ns = NEVER
        self._agenda.in_flight -= 1
        left = self._copies.pop(train.number, 1) - 1
        if left:
            self._copies[train.number] = left
        return Fate(train.number, at_ns, reason, train.copy, not left)

    def lose_ends(self, now_ns: int, name: str, how: str) -> None:
        """A node has crashed, or left: what was for it is lost."""
        for train in list(self._trains.get(name, {}).values()):
            self._lose(train, now_ns, f"destination {how}")

    def certain_ns(self, until_ns: int) -> int:
        """Until when no datagram arrives that still has links before it; `until_ns` at most."""
        for bound in self._trains.values():
            for train in bound.values():
                if not train.arriving and train.wake_ns < until_ns:
                    links = self._ways.onward(train.at_node, train.goal)
                    least_ns = sum(to_ns(least_delay_s(link)) for link in links)
                    until_ns = min(until_ns, train.wake_ns + least_ns)
        return until_ns
