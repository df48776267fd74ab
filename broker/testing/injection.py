"""Breaking things by hand, within a test.

    async with faults.partition(["phone"], ["server"]):       # until the block ends
        ...
    await faults.crash("server", for_="5 s")                   # ends by itself
    await faults.degrade(link=["phone", "mast"], bandwidth="10 %", delay="+200 ms", for_="1 min")
    faults.play("evening.yaml")                                # a whole scenario, from now on

The kinds, their settings and their units are those of scenario files (docs/faults.md); ``for``,
``from`` and ``as``, which are words of Python, are written with an underscore behind. When the
block begins, or `await` goes on, the fault has struck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import faults
from broker.testing.loop import VirtualLoop
from broker.troubles import Troubles
from faults import Event, Scenario, ScenarioError
from topologies import Topology, units
from topologies.errors import did_you_mean

_WHOLE = ("crash", "stop", "pause", "leave", "full_disk")
_NOT_BY_HAND = ("join", "trace")


class Injector:
    """Faults by hand: a method for each kind of fault that a scenario file knows."""

    def __init__(
        self, topology: Topology, seed: int, loop: VirtualLoop, troubles: Troubles
    ) -> None:
        self._topology, self._seed = topology, seed
        self._loop, self._troubles = loop, troubles
        self._count = 0
        self._awaited: list[tuple[Event, asyncio.Future[None]]] = []

    def __getattr__(self, kind: str) -> Callable[..., Injection]:
        known = [name for name in faults.KINDS if name not in _NOT_BY_HAND]
        if kind not in known:
            raise AttributeError(f"no fault {kind!r}. {did_you_mean(kind, known, what='kinds')}")

        def strike(*whom: Any, for_: str | None = None, **settings: Any) -> Injection:
            said = {name.rstrip("_"): value for name, value in settings.items()}
            return self.inject(_entry(kind, whom, said, for_))

        return strike

    def inject(self, entry: dict[str, Any]) -> Injection:
        """A fault as an entry of a timeline says it; ``at``, if given, counts from now."""
        self._count += 1
        said = {"at": "0 s", "id": f"by hand {self._count}"} | entry
        scenario = Scenario.of({"name": "by hand", "timeline": [said]})
        return Injection(self, self._play(scenario))

    def play(self, scenario: Scenario | str | Path) -> None:
        """All faults of a scenario, their times counted from now."""
        if not isinstance(scenario, Scenario):
            scenario = faults.load(scenario)
        self._count += 1
        prefix = f"by hand {self._count}."
        events = self._play(scenario)
        self._troubles.add([replace(one, fault=prefix + one.fault) for one in events])

    async def strike(self, events: Sequence[Event]) -> None:
        """Adds these events, and waits until the first has struck."""
        struck = self._loop.create_future()
        self._awaited.append((events[0], struck))
        self._troubles.add(events)
        await struck

    async def end(self, faults: Sequence[str], events: Sequence[Event]) -> None:
        """Ends these faults now, as far as they hold; what of them is still to come never does."""
        now_ns, active = self._loop._now_ns, self._troubles.conditions.active
        self._troubles.withdraw(faults)
        ends = [
            replace(event, at_ns=now_ns, phase="end")
            for event in events
            if event.phase == "begin" and event.fault in active
        ]
        if ends:
            await self.strike(ends)

    def have_struck(self, events: Sequence[Event]) -> None:
        """These have; who waits for one of them goes on."""
        done = {(event.fault, event.phase) for event in events}
        waiting, self._awaited = self._awaited, []
        for event, struck in waiting:
            if (event.fault, event.phase) not in done:
                self._awaited.append((event, struck))
            elif not struck.done():
                struck.set_result(None)

    def _play(self, scenario: Scenario) -> list[Event]:
        now_ns = self._loop._now_ns
        events = faults.expand(scenario, self._topology, self._seed)
        return [replace(event, at_ns=event.at_ns + now_ns) for event in events]


class Injection:
    """A fault that is about to strike: await it, or enter it."""

    def __init__(self, injector: Injector, events: Sequence[Event]) -> None:
        self._injector = injector
        self._events = tuple(events)

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._injector.strike(self._events).__await__()

    async def __aenter__(self) -> Injection:
        await self
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        faults = list(dict.fromkeys(event.fault for event in self._events))
        await self._injector.end(faults, self._events)


def _entry(
    kind: str, whom: Sequence[Any], settings: dict[str, Any], for_: str | None
) -> dict[str, Any]:
    """What a scenario file would say."""
    said: Any
    named = whom[0] if len(whom) == 1 else list(whom)
    if kind in _WHOLE:
        if not whom or settings:
            raise ScenarioError(f"{kind} takes the nodes it strikes, and for_", key=kind)
        said = named
    elif kind == "partition":
        said = {"groups": [_group(group) for group in whom], **settings}
    else:
        said = ({"nodes": named} if whom else {}) | settings
    lasts = {} if for_ is None else {"for": for_ if isinstance(for_, str) else _seconds(for_)}
    return {kind: said} | lasts


def _group(group: Any) -> Any:
    return group if isinstance(group, str) else list(group)


def _seconds(duration: float) -> str:
    return units.show_duration(float(duration))
