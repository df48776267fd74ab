"""The course of a run in virtual time, from its notes: who hosted whom, and what was broken.

Pure functions of the notes; the report draws what they return.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from atlas.results.events import (
    Aggregated,
    Event,
    Fault,
    Finished,
    Moved,
    Paired,
    Refused,
    Repaired,
    Step,
    Suspected,
    read,
)
from atlas.results.notes import Note
from atlas.results.telling import fault_in_words

Part = tuple[str, int, int]
"""Some layers of a client: its name, the first and the one after the last."""


@dataclass(frozen=True)
class Hosting:
    """A host runs layers `first` … `last - 1` for a client, for a while."""

    client: str
    first: int
    last: int
    host: str
    begin_s: float
    end_s: float
    borrowed: bool = False
    """The host belongs to another neighborhood: an inter-cluster fallback."""


@dataclass(frozen=True)
class Wait:
    """A client waits: from when its host was silent or refused it until another had taken over."""

    client: str
    first: int
    last: int
    lost: str
    host: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Breakage:
    """A fault, for as long as it lasts; `lasting` means that it never ended."""

    fault: str
    kind: str
    text: str
    nodes: tuple[str, ...]
    links: tuple[tuple[str, ...], ...]
    begin_s: float
    end_s: float
    lasting: bool


@dataclass(frozen=True)
class Course:
    """All of it, each part in order of its beginning."""

    hostings: tuple[Hosting, ...]
    waits: tuple[Wait, ...]
    breakages: tuple[Breakage, ...]
    end_s: float


def follow(notes: Iterable[Note]) -> Course:
    """Derive the course of a run.

    What is still open at the last note ends there; but in a run that came to its end, the hosts of
    a neighborhood are drawn until its last round was combined.
    """
    told = [(note.time_s, read(note)) for note in notes]
    end_s = max((time_s for time_s, _ in told), default=0.0)
    pairings = _Pairings(end_s)
    for time_s, event in told:
        pairings.add(time_s, event)
    pairings.finish()
    return Course(
        hostings=tuple(pairings.hostings),
        waits=tuple(pairings.waits),
        breakages=_breakages(told, end_s),
        end_s=end_s,
    )


class _Pairings:
    """Follows who hosts whom, event after event."""

    def __init__(self, end_s: float) -> None:
        self._end_s = end_s
        self._open: dict[Part, Hosting] = {}
        self._homes: dict[str, set[str]] = {}
        """The hosts of each neighborhood, as far as chains and stand-ins tell."""
        self._neighborhood_of: dict[str, str] = {}
        self._lost: dict[str, list[tuple[str, float, float]]] = {}
        """By client, since its last step: (host, when it was given up, since when it was silent)"""
        self._combined_s: dict[str, float] = {}
        self._finished = False
        self.hostings: list[Hosting] = []
        self.waits: list[Wait] = []

    def add(self, time_s: float, event: Event | None) -> None:
        match event:
            case Paired():
                self._paired(time_s, event)
            case Suspected():
                since = max(0.0, time_s - event.waited_s)
                self._lost.setdefault(event.client, []).append((event.host, time_s, since))
            case Refused():
                self._lost.setdefault(event.client, []).append((event.host, time_s, time_s))
            case Step():
                # A step went through, so the whole of this client's chain answers again.
                self._lost.pop(event.client, None)
            case Repaired():
                self._repaired(time_s, event)
            case Moved():
                self._moved(time_s, event)
            case Aggregated():
                self._combined_s[event.neighborhood] = time_s
            case Finished():
                self._finished = True
            case _:
                pass

    def finish(self) -> None:
        for part in list(self._open):
            ended_s = self._combined_s.get(self._neighborhood_of.get(part[0], ""), 0.0)
            over = self._finished and ended_s > self._open[part].begin_s
            self._close(part, ended_s if over else self._end_s)
        self.hostings.sort(key=lambda hosting: (hosting.begin_s, hosting.client, hosting.first))

    def _paired(self, time_s: float, event: Paired) -> None:
        chain = {(event.client, link.first, link.last): link.host for link in event.chain}
        homes = self._homes.setdefault(event.neighborhood, set())
        homes.update(chain.values(), *event.stand_ins)
        self._neighborhood_of[event.client] = event.neighborhood
        for part in [part for part in self._open if part[0] == event.client]:
            if chain.get(part) != self._open[part].host:
                self._close(part, time_s)
        for part, host in chain.items():
            if part not in self._open:
                self._open[part] = Hosting(*part, host, begin_s=time_s, end_s=self._end_s)

    def _repaired(self, time_s: float, event: Repaired) -> None:
        part = (event.client, event.first, event.last)
        begun = self._open[part].begin_s if part in self._open else 0.0
        # One host may have run several parts, so what is known of it stays until the next step.
        silences = [
            max(since, begun)
            for host, at_s, since in self._lost.get(event.client, ())
            if host == event.lost and at_s > begun
        ]
        since = min(silences, default=time_s)
        if part in self._open:
            self._close(part, since)
        if since < time_s:
            self.waits.append(Wait(*part, event.lost, event.host, begin_s=since, end_s=time_s))
        self._open[part] = Hosting(
            *part, event.host, begin_s=time_s, end_s=self._end_s, borrowed=event.fallback
        )

    def _moved(self, time_s: float, event: Moved) -> None:
        part = (event.client, event.first, event.last)
        if part in self._open:
            self._close(part, time_s)
        self._open[part] = Hosting(
            *part,
            event.host,
            begin_s=time_s,
            end_s=self._end_s,
            borrowed=self._is_foreign(event.client, event.host),
        )

    def _is_foreign(self, client: str, host: str) -> bool:
        """Whether the host is known to serve other neighborhoods, and not this client's."""
        home = self._neighborhood_of.get(client)
        serves = {name for name, hosts in self._homes.items() if host in hosts}
        return bool(serves) and home not in serves

    def _close(self, part: Part, at_s: float) -> None:
        hosting = self._open.pop(part)
        if at_s > hosting.begin_s:
            self.hostings.append(replace(hosting, end_s=at_s))


def _breakages(told: Sequence[tuple[float, Event | None]], end_s: float) -> tuple[Breakage, ...]:
    found: list[Breakage] = []
    open_: dict[str, int] = {}
    for time_s, event in told:
        if not isinstance(event, Fault):
            continue
        if event.phase == "begin":
            open_[event.fault] = len(found)
            found.append(
                Breakage(
                    fault=event.fault,
                    kind=event.kind,
                    text=fault_in_words(event),
                    nodes=event.nodes,
                    links=event.links,
                    begin_s=time_s,
                    end_s=end_s,
                    lasting=True,
                )
            )
        elif event.fault in open_:
            index = open_.pop(event.fault)
            found[index] = replace(found[index], end_s=time_s, lasting=False)
    return tuple(found)
