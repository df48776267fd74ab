"""The running count of a run: steps, deaths and repairs, from its notes alone.

One `Tally` is fed note after note. The live view reads it while the run goes on, the summary when
it is over, so both count alike.

What counts as what:

* A *step* is one (client, round, step). It is done once its note has come.
* A client that *resumed* goes on from its disk at the beginning of a round (or at a step of it):
  its steps from there on no longer stand and have to be done again. Done again, they count in
  `steps_rerun`; not done again, they are missing from `steps`.
* A step whose note comes again although it still stands was *applied twice*. That must never
  happen.
* A *death* is a node that goes down, however many crashes hold it down at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from atlas.results.events import (
    Drifted,
    Evaluated,
    Event,
    Fault,
    Finished,
    NeighborhoodsFound,
    Placed,
    Registered,
    Repaired,
    Resumed,
    SatOut,
    Step,
    read,
)
from atlas.results.notes import Note

StepKey = tuple[str, int, int]


class Tally:
    """Counts what notes tell.

    Attributes:
        devices: what registered, by node, in order of arrival.
        neighborhoods: the division in force, or None before there is one.
        losses: the training loss of each step that stands, by (client, round, step).
        evaluations: the last score of each (task, phase, neighborhood).
        repairings: how often a stand-in took over; `fallbacks` of them from another neighborhood.
        replayed: step computations that stand-ins repeated.
        steps_rerun: steps that clients did again after they had resumed.
        steps_twice: steps that were applied although they stood already.
        deaths: nodes that went down.
        sat_out: clients that take no part, with what the whole model takes there.
        time_s, bytes_total: those of the last note.
        finished: the rounds and steps that the run reports at its end, or None.
    """

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self.devices: dict[str, Registered] = {}
        self.neighborhoods: NeighborhoodsFound | None = None
        self.losses: dict[StepKey, float] = {}
        self.evaluations: dict[tuple[str, str, str | None], Evaluated] = {}
        self.repairings = 0
        self.fallbacks = 0
        self.replayed = 0
        self.steps_rerun = 0
        self.steps_twice = 0
        self.deaths = 0
        self.sat_out: dict[str, SatOut] = {}
        self.time_s = 0.0
        self.bytes_total = 0
        self.finished: Finished | None = None
        self._undone: set[StepKey] = set()
        self._crashes_of: dict[str, set[str]] = {}
        for note in notes:
            self.add(note)

    @property
    def steps(self) -> int:
        """Steps that are done and stand."""
        return len(self.losses)

    def add(self, note: Note) -> Event | None:
        """Count one note, and return the event that it tells, if it is one that is known."""
        self.time_s = max(self.time_s, note.time_s)
        self.bytes_total = max(self.bytes_total, note.bytes_total)
        event = read(note)
        match event:
            case Registered():
                self.devices[note.node] = event
            case NeighborhoodsFound():
                self.neighborhoods = event
            case Placed() | Drifted():
                self._settled(event)
            case Step():
                self._step(event)
            case Resumed():
                self._resumed(event)
            case Repaired():
                self.repairings += 1
                self.fallbacks += event.fallback
                self.replayed += event.replayed
            case Fault(kind="crash"):
                self._crash(event)
            case Evaluated():
                self.evaluations[event.task, event.phase, event.neighborhood] = event
            case SatOut():
                self.sat_out[event.client] = event
            case Finished():
                self.finished = event
            case _:
                pass
        return event

    def _settled(self, event: Placed | Drifted) -> None:
        """A client that belongs elsewhere from now on."""
        if self.neighborhoods is not None:
            members = {
                name: tuple(client for client in clients if client != event.client)
                for name, clients in self.neighborhoods.members.items()
            }
            here = members.get(event.neighborhood, ())
            members[event.neighborhood] = (*here, event.client)
            self.neighborhoods = self.neighborhoods.model_copy(update={"members": members})

    def _step(self, event: Step) -> None:
        key = (event.client, event.round, event.step)
        if key in self.losses:
            self.steps_twice += 1
        elif key in self._undone:
            self._undone.remove(key)
            self.steps_rerun += 1
        self.losses[key] = event.loss

    def _resumed(self, event: Resumed) -> None:
        start = (event.round, -1 if event.step is None else event.step)
        for key in [key for key in self.losses if key[0] == event.client and key[1:] >= start]:
            del self.losses[key]
            self._undone.add(key)

    def _crash(self, event: Fault) -> None:
        for node in event.nodes:
            crashes = self._crashes_of.setdefault(node, set())
            if event.phase == "begin":
                self.deaths += not crashes
                crashes.add(event.fault)
            else:
                crashes.discard(event.fault)
