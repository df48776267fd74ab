"""The proxy as a whole: its gates, its network, and its life.

    with running(settings) as proxy:          # in a thread of its own, for tests
        connect(proxy.addresses["cache"])

No client gets in before the network and the faults of the first instant are in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from broker.proxy.connection import Tally
from broker.proxy.gate import Gate
from broker.proxy.loop import new_event_loop
from broker.proxy.settings import Address, ProxySettings, Route
from broker.proxy.toxics import Toxic
from broker.proxy.world import World
from faults import Conditions, Event

_Returned = TypeVar("_Returned")
_FAREWELL_S = 5.0

Struck = Callable[[float, Event], None]
"""What is told of each fault: seconds of the proxy's clock, and what it is."""


class Proxy:
    """Everything between the programs. Belongs to the event loop in which it was made.

    Raises InputError for faults that can't be done to real programs, and BrokerError where an
    address can't be had.
    """

    def __init__(self, settings: ProxySettings, struck: Struck | None = None) -> None:
        self.gates: dict[str, Gate] = {}
        self._seed = settings.seed
        self._struck = struck
        self._gone = Tally()
        self.world: World | None = None
        if settings.topology is not None:
            self.world = World(
                settings.topology,
                settings.faults or (),
                seed=settings.seed,
                struck=self._strike,
            )
        try:
            for route in settings.routes:
                self.add(route)
        except BaseException:
            self.close()
            raise
        if settings.at_once and self.world is not None:
            self.world.start()

    def add(self, route: Route, toxics: Sequence[Toxic] = (), *, opened: bool = True) -> Gate:
        """One route more, whose toxics are there before its first client."""
        gate = Gate(route, self.world, self._seed, toxics)
        if opened:
            gate.open()
        self.gates[route.name] = gate
        return gate

    def remove(self, name: str) -> None:
        """One less. Raises KeyError where there is none of this name."""
        gate = self.gates.pop(name)
        gate.shut()
        self._gone.add(gate.tally())

    def tally(self) -> Tally:
        """What became of all connections and bytes so far."""
        whole = Tally()
        for part in (self._gone, *(gate.tally() for gate in self.gates.values())):
            whole.add(part)
        return whole

    def close(self) -> None:
        """Gives all addresses back, and closes all connections."""
        for gate in self.gates.values():
            gate.shut()
        if self.world is not None:
            self.world.close()

    def _strike(self, conditions: Conditions, events: Sequence[Event]) -> None:
        for gate in self.gates.values():
            gate.strike(conditions)
        for event in events:
            if self._struck is not None:
                self._struck(event.at_ns / 1e9, event)


class Running:
    """A proxy in a thread of its own. `addresses` are where its routes listen, by name."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self.proxy = proxy
        self._loop = loop

    @property
    def addresses(self) -> Mapping[str, Address]:
        """Where each route listens."""
        return {name: gate.listen for name, gate in self.proxy.gates.items()}

    def tally(self) -> Tally:
        """What became of all connections and bytes so far."""
        return self.call(self.proxy.tally)

    def call(self, what: Callable[[], _Returned]) -> _Returned:
        """Does something in the proxy's thread, and gives what it returned."""

        async def do() -> _Returned:
            return what()

        return self.wait(do())

    def wait(self, what: Coroutine[Any, Any, _Returned]) -> _Returned:
        """Waits for something in the proxy's event loop."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_FAREWELL_S)

    def stop(self) -> None:
        """Ends it; its thread ends soon after."""
        self._loop.call_soon_threadsafe(self.proxy.close)
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextlib.contextmanager
def running(settings: ProxySettings, struck: Struck | None = None) -> Iterator[Running]:
    """A proxy in a thread of its own, until the end of the block."""
    started: queue.SimpleQueue[Running | BaseException] = queue.SimpleQueue()

    def live() -> None:
        loop = new_event_loop()
        asyncio.set_event_loop(loop)

        async def start() -> Running:
            return Running(Proxy(settings, struck), loop)

        try:
            started.put(loop.run_until_complete(start()))
        except BaseException as error:
            started.put(error)
        else:
            loop.run_forever()
        loop.run_until_complete(end_tasks())
        loop.close()

    thread = threading.Thread(target=live, name="proxy", daemon=True)
    thread.start()
    made = started.get()
    if isinstance(made, BaseException):
        thread.join()
        raise made
    try:
        yield made
    finally:
        made.stop()
        thread.join(_FAREWELL_S)


async def end_tasks() -> None:
    """Cancels what is left, so that nothing complains when the loop is closed."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
