"""What only a run can know, for scenarios that name it: "host of client-3", "busiest host".

A program declares facts (`Node.declare`). Beside them a run knows who is busy: "busiest host" is,
of the nodes with the role host, the one whose program has asked for most of its device's time since
it was started; "busiest node" is that of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from topologies import Topology

_BUSIEST = "busiest "
_ANYBODY = "node"


class Facts(Mapping[str, tuple[str, ...]]):
    """What is known now, by the words of a scenario. Nobody (an empty tuple) is an answer, too."""

    def __init__(self, names: Sequence[str], topology: Topology) -> None:
        self._declared: dict[str, tuple[str, ...]] = {}
        self._of_role: dict[str, list[str]] = {}
        self._topology = topology
        running = frozenset(names)
        for name in topology.nodes:
            if name in running:
                self.enroll(name)
        self._worked_s: dict[str, float] = {}

    def enroll(self, name: str) -> None:
        """This node runs a program, too."""
        for role in dict.fromkeys((self._topology.nodes[name].role, _ANYBODY)):
            self._of_role.setdefault(role, []).append(name)

    def declare(self, fact: str, nodes: Sequence[str]) -> None:
        """A program says so; what it said before under these words is no longer so."""
        self._declared[fact] = tuple(nodes)

    @property
    def declared(self) -> dict[str, tuple[str, ...]]:
        """What programs have declared."""
        return dict(self._declared)

    def worked(self, name: str, seconds: float) -> None:
        """A node's program has asked for so much more of its device's time."""
        self._worked_s[name] = self._worked_s.get(name, 0.0) + seconds

    def forget(self, name: str) -> None:
        """A node's program is gone, and what it was busy with."""
        self._worked_s.pop(name, None)

    def __getitem__(self, words: str) -> tuple[str, ...]:
        if words in self._declared:
            return self._declared[words]
        role = words.removeprefix(_BUSIEST)
        if role == words:
            raise KeyError(words)
        busy = [name for name in self._of_role[role] if name in self._worked_s]
        return (max(busy, key=self._worked_s.__getitem__),) if busy else ()

    def __iter__(self) -> Iterator[str]:
        yield from self._declared
        for role in self._of_role:
            if (words := _BUSIEST + role) not in self._declared:
                yield words

    def __len__(self) -> int:
        return sum(1 for _ in self)
