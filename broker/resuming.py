"""What a bus in wall time keeps in a file, so that it can be restarted without losing its run.

The file has what can't be found out again: the run's name, when its clock started, which
incarnation comes next, what programs have declared, and what was done by hand to its faults. The
faults of the scenario follow from scenario and seed, so they are not in it; that these are the same
is checked. A file is replaced as a whole, so that a bus that is killed leaves a whole one.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

import faults as fault_language
from broker.reception import plain
from broker.serve import Bus, Resumed
from broker.shared import machine
from broker.troubles import is_meant
from broker.wire import pack
from faults import Event
from topologies import InputError, Topology

_log = logging.getLogger(__name__)


class Edit(BaseModel):
    """What was done by hand: further faults, as a scenario, or one (or all) that ended then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_ns: int
    add: str = ""
    drop: str | None = None


class _Kept(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    what: str  # fingerprint of topology, faults and seed
    machine: str
    started_ns: int | None  # by the machine's monotonic clock; null: it has not started
    started_s: float  # by the calendar
    incarnations: dict[str, int]
    facts: dict[str, tuple[str, ...]]
    here: tuple[str, ...]
    edits: tuple[Edit, ...]


class Journal:
    """The file of one run. `events` are the run's faults as they were left.

    Raises InputError where the file is none, or is another network's.
    """

    def __init__(self, path: Path, topology: Topology, events: Sequence[Event], seed: int) -> None:
        self._path = path
        self._what = _fingerprint(topology, events, seed)
        self._edits: tuple[Edit, ...] = ()
        self._written: _Kept | None = None
        self.events = tuple(events)
        self.resumed: Resumed | None = None
        if path.exists():
            kept = self._read()
            self._edits = kept.edits
            self.events = replay(events, kept.edits, topology, seed)
            self.resumed = Resumed(
                kept.run, _started_ns(kept), kept.incarnations, kept.facts, kept.here
            )

    def _read(self) -> _Kept:
        try:
            kept = _Kept.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(
                "is no file of a bus's run",
                file=str(self._path),
                remedy="Name another file, or remove this one to begin a new run",
            ) from error
        if kept.what != self._what:
            raise InputError(
                "is of a run with another topology, other faults or another seed",
                file=str(self._path),
                remedy="Start with what it was, or remove the file to begin a new run",
            )
        return kept

    @property
    def added(self) -> list[str]:
        """The faults that were added by hand."""
        scenarios = [fault_language.parse(edit.add) for edit in self._edits if edit.add]
        return [scenario.name for scenario in scenarios]

    def edit(self, edit: Edit, bus: Bus) -> None:
        """Keeps what was done by hand, at once."""
        self._edits += (edit,)
        self.keep(bus)

    def keep(self, bus: Bus) -> None:
        """Writes down where the run is, if anything is new."""
        before = self._written
        if before is not None and before.started_ns == bus.started_ns:
            started_s = before.started_s
        else:
            started_s = time.time() - bus.now_ns / 1e9
        kept = _Kept(
            run=bus.run_name,
            what=self._what,
            machine=machine(),
            started_ns=bus.started_ns,
            started_s=started_s,
            incarnations=bus.strikes.incarnations(),
            facts=bus.strikes.facts.declared,
            here=tuple(bus.here),
            edits=self._edits,
        )
        if kept == before:
            return
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            beside.write_text(kept.model_dump_json(), encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:  # a full disk is no reason to end; it is tried again
            _log.error("the run could not be kept in %s: %s", self._path, error.strerror)
        else:
            self._written = kept

    def forget(self) -> None:
        """The run is over."""
        self._path.unlink(missing_ok=True)


def replay(
    events: Sequence[Event], edits: Sequence[Edit], topology: Topology, seed: int
) -> tuple[Event, ...]:
    """The faults of a run after what was done by hand."""
    left = list(events)
    for edit in edits:
        if edit.add:
            left += fault_language.expand(fault_language.parse(edit.add), topology, seed)
        if edit.drop is not None:
            left = _ended(left, edit.drop, edit.at_ns)
    return tuple(sorted(left, key=lambda event: event.at_ns))


def _ended(events: Sequence[Event], fault: str, at_ns: int) -> list[Event]:
    """Without a fault where it had not begun by then, else with its end then."""
    kept = [event for event in events if not is_meant(event.fault, fault) or event.at_ns <= at_ns]
    over = {event.fault for event in kept if event.phase == "end"}
    return kept + [
        replace(event, at_ns=at_ns, phase="end")
        for event in kept
        if is_meant(event.fault, fault) and event.phase == "begin" and event.fault not in over
    ]


def _fingerprint(topology: Topology, events: Sequence[Event], seed: int) -> str:
    said = hashlib.sha256(pack({"topology": plain(topology), "seed": seed}))
    for event in events:
        said.update(repr(event).encode())
    return said.hexdigest()


def _started_ns(kept: _Kept) -> int | None:
    """When the clock started, by this machine's: where it was started anew since, or is another,
    the calendar has to tell.
    """
    if kept.started_ns is None or kept.machine == machine():
        return kept.started_ns
    return time.monotonic_ns() - round((time.time() - kept.started_s) * 1e9)
