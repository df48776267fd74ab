"""Searches: a client that looks for a host, told in one sentence.

A client in need asks one host after the other; a large failure makes dozens of suspicions and
refusals. `Searches` gathers those of each client until it has found a host, so that they can be
told as one: "client-8 has no answer from host-0 and is refused by 5 hosts".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atlas.results.display import show_list
from atlas.results.events import Event, Finished, Refused, Repaired, Resumed, Step, Suspected
from atlas.results.telling import Sentence, tell

MOST_NAMES = 3
"""Hosts that are named in a sentence; more are counted."""


@dataclass
class Search:
    """The suspicions and refusals of one client in need, in order."""

    client: str
    begin_s: float
    events: list[Suspected | Refused] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """The hosts that were silent or refused."""
        return {event.host for event in self.events}

    def sentence(self) -> Sentence:
        """All of it in one sentence; alone, an event is told as ever."""
        silent = list(dict.fromkeys(e.host for e in self.events if isinstance(e, Suspected)))
        refusing = list(dict.fromkeys(e.host for e in self.events if isinstance(e, Refused)))
        alone = tell(self.events[0]) if len(silent) + len(refusing) == 1 else None
        if alone is not None:
            return alone
        told = [f"has no answer from {_hosts(silent)}"] if silent else []
        told += [f"is refused by {_hosts(refusing)}"] if refusing else []
        return Sentence(f"{self.client} {' and '.join(told)}", "doubt")


class Searches:
    """The searches that go on."""

    def __init__(self) -> None:
        self._open: dict[str, Search] = {}

    def add(self, time_s: float, event: Event | None) -> list[Search]:
        """Take an event, and return the searches that it ends, in order of their beginning.

        A search ends when its client is repaired, does a step or comes back, and all end with the
        training.
        """
        match event:
            case Suspected() | Refused():
                search = self._open.setdefault(event.client, Search(event.client, time_s))
                search.events.append(event)
                return []
            case Repaired() | Step() | Resumed():
                search_of_client = self._open.pop(event.client, None)
                return [] if search_of_client is None else [search_of_client]
            case Finished():
                return self.end()
            case _:
                return []

    def end(self) -> list[Search]:
        """End all searches that go on, and return them."""
        ended, self._open = list(self._open.values()), {}
        return ended


def _hosts(names: list[str]) -> str:
    return show_list(names) if len(names) <= MOST_NAMES else f"{len(names)} hosts"
