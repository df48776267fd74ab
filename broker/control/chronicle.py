"""The latest of what has happened on a bus, and how often each node has died."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from broker.account import Observer
from broker.clock import to_seconds
from broker.control.models import Happening
from faults import Event

KEPT = 500
_DEADLY = ("crash", "stop", "leave")


class Chronicle(Observer):
    """Follows a bus. `latest` has the last `KEPT` happenings, the latest first."""

    def __init__(self) -> None:
        self.latest: deque[Happening] = deque(maxlen=KEPT)
        self.deaths: dict[str, int] = {}

    def fault(self, event: Event) -> None:
        if event.phase == "begin" and event.kind in _DEADLY:
            for name in event.nodes:
                self.deaths[name] = self.deaths.get(name, 0) + 1
            self._note(event.at_ns, "death", event.nodes, event.text)
        else:
            self._note(event.at_ns, "fault", event.nodes, event.text)

    def ended(self, at_ns: int, node: str, returned: bool) -> None:
        how = "has returned" if returned else "has ended"
        self._note(at_ns, "ended", [node], f"the program of {node} {how}")

    def failed(self, at_ns: int, node: str, text: str, problem: str) -> None:
        said = problem or text.strip().rpartition("\n")[2]
        self._note(at_ns, "failed", [node], f"the program of {node} failed: {said}")

    def came(self, at_ns: int, nodes: Sequence[str]) -> None:
        self._note(at_ns, "came", nodes, f"{_listed(nodes)} joined")

    def went(self, at_ns: int, nodes: Sequence[str]) -> None:
        self._note(at_ns, "went", nodes, f"the process of {_listed(nodes)} is gone")

    def _note(self, at_ns: int, what: str, nodes: Sequence[str], text: str) -> None:
        entry = {"at_s": to_seconds(at_ns), "what": what, "nodes": list(nodes), "text": text}
        self.latest.appendleft(Happening.model_validate(entry))


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
