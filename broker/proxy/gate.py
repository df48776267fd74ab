"""One listener of the proxy: where clients come in, the server that is called for each of them, and
the toxics that their connections go through.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping

from broker.proxy.connection import Connection, Tally, Way
from broker.proxy.door import Door, State
from broker.proxy.settings import Address, Route
from broker.proxy.stages import Stage
from broker.proxy.toxics import Toxic
from broker.proxy.world import World
from faults import Conditions


class Gate:
    """A route at work, once `open`ed. `listen` is where it listens, a free port filled in."""

    def __init__(
        self, route: Route, world: World | None, seed: int, toxics: Iterable[Toxic] = ()
    ) -> None:
        self.name = route.name
        self.listen, self.forward = route.listen, route.forward
        self.nodes = (route.source, route.target)
        self._world = world if route.source is not None else None
        self._begin = world
        self._seed = seed
        self._door: Door | None = None
        self._toxics = {toxic.name: toxic for toxic in toxics}
        self._connections: dict[int, Connection] = {}
        self._counted = 0
        self._gone = (Tally(), Tally(), Tally())

    # Who comes in.

    @property
    def is_open(self) -> bool:
        """Whether it listens, or would if its nodes could be reached."""
        return self._door is not None

    def open(self) -> None:
        """Takes its address. Raises BrokerError where it can't be had."""
        if self._door is None:
            self._door = Door(self.listen.host, self.listen.port, self._came)
            self.listen = Address(self._door.host, self._door.port)
            self._turn()

    def shut(self) -> None:
        """Gives its address back, and closes its connections."""
        if self._door is not None:
            self._door.close()
            self._door = None
        for connection in list(self._connections.values()):
            connection.close()

    def strike(self, conditions: Conditions) -> None:
        """The conditions are these from now on."""
        self._turn()
        if self._world is not None:
            for connection in list(self._connections.values()):
                connection.strike(conditions)

    def tally(self) -> Tally:
        """What became of everything so far."""
        return self.tallies()[0]

    def tallies(self) -> tuple[Tally, Tally, Tally]:
        """What became of everything so far: all of it, and what went up, and down."""
        up, down, whole = Tally(), Tally(), Tally()
        for known, found in zip((whole, up, down), self._gone, strict=True):
            known.add(found)
        for connection in self._connections.values():
            for known, found in zip((whole, up, down), connection.tallies(), strict=True):
                known.add(found)
        return whole, up, down

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def _turn(self) -> None:
        if self._door is not None:
            self._door.turn(self._state())

    def _state(self) -> State:
        source, target = self.nodes
        if self._world is None or source is None or target is None:
            return "open"
        conditions = self._world.conditions
        if any(conditions.is_stopped(node) for node in (source, target)):
            return "shut"
        ways = (self._world.links(source, target), self._world.links(target, source))
        return "deaf" if None in ways else "open"

    def _came(self, accepted: socket.socket) -> None:
        if self._begin is not None:
            self._begin.start()
        self._counted += 1
        number = self._counted if self._world is None else self._world.connection()
        connection = Connection(
            accepted, self.forward, number, self._world, self.nodes, self._ended
        )
        self._connections[number] = connection
        for way in _WAYS:
            self._chain(connection, way)

    def _ended(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is not None:
            for known, found in zip(self._gone, connection.tallies(), strict=True):
                known.add(found)

    # Toxics.

    @property
    def toxics(self) -> Mapping[str, Toxic]:
        """The toxics by name, in the order in which they act: upstream first."""
        return {
            toxic.name: toxic
            for way in _WAYS
            for toxic in self._toxics.values()
            if toxic.stream == way
        }

    def put(self, toxic: Toxic) -> None:
        """Adds a toxic, behind the others of its way, or changes the one of this name."""
        known = toxic.name in self._toxics
        self._toxics[toxic.name] = toxic
        for connection in list(self._connections.values()):
            half = connection.half(toxic.stream)
            if not known:
                self._chain(connection, toxic.stream)
                continue
            for stage in half.stages:
                if stage.toxic.name == toxic.name:
                    stage.change(toxic)
            half.measure()
            half.steer()

    def remove(self, name: str) -> None:
        """Takes a toxic away. Raises KeyError where there is none of this name."""
        toxic = self._toxics.pop(name)
        for connection in list(self._connections.values()):
            half = connection.half(toxic.stream)
            gone = [stage for stage in half.stages if stage.toxic.name == name]
            self._chain(connection, toxic.stream)
            for stage in gone:
                stage.leave()

    def _chain(self, connection: Connection, way: Way) -> None:
        """Puts the toxics of one way between the ends of a connection."""
        half = connection.half(way)
        known = {stage.toxic.name: stage for stage in half.stages}
        half.chain([
            known[toxic.name] if toxic.name in known else self._stage(toxic, connection)
            for toxic in self._toxics.values()
            if toxic.stream == way
        ])  # fmt: skip

    def _stage(self, toxic: Toxic, connection: Connection) -> Stage:
        half = connection.half(toxic.stream)
        words = f"{self._seed}:toxic {toxic.name}:{self.name}:{connection.number}"
        return Stage(toxic, random.Random(words), half.pass_on, half.lose)


_WAYS: tuple[Way, ...] = ("upstream", "downstream")
