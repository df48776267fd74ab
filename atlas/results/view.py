"""What a person sees of a run while it goes on: the interface, and what every view shows alike.

A view is a context manager. Before and after the emulated part it is told phases (`say`), during
it every note (`note`); `expect` tells it what to compare with, once that is known. It asks nothing
and changes nothing, so a run without one is the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from atlas.results.notes import Note
from atlas.results.tally import Tally


class View(Protocol):
    """Shows a run while it goes on."""

    def expect(self, *, steps: int, truth: Mapping[str, str]) -> None:
        """Say how many steps are to come in all, and which task each client has."""

    def say(self, text: str) -> None:
        """Say in words what is being done now, outside of the emulated part."""

    def note(self, note: Note) -> None:
        """Take a note of the run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def losses_by_group(
    tally: Tally, groups: Mapping[str, str]
) -> dict[str, dict[tuple[int, int], float]]:
    """Mean training loss of each group's clients by (round, step)."""
    sums: dict[str, dict[tuple[int, int], list[float]]] = {}
    for (client, round_, step), loss in tally.losses.items():
        if client in groups:
            sums.setdefault(groups[client], {}).setdefault((round_, step), []).append(loss)
    return {
        group: {moment: sum(losses) / len(losses) for moment, losses in sorted(sums[group].items())}
        for group in sorted(sums)
    }


def groups_of(tally: Tally, truth: Mapping[str, str]) -> dict[str, str]:
    """What losses are shown by: each client's task, or its neighborhood where tasks are unknown."""
    if truth:
        return dict(truth)
    members = tally.neighborhoods.members if tally.neighborhoods else {}
    return {client: name for name, clients in members.items() for client in clients}
