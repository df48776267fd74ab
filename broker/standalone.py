"""A bus by itself: for programs in other processes, until it is asked to stop.

SIGTERM, and Ctrl-C, end it cleanly: nodes are told, the books are closed. Where it keeps a file of
its run, SIGTERM means that it will be back: nodes wait for it, and another bus with the same file,
at the same endpoint, goes on with the run. Ctrl-C ends the run, and removes the file.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import faults as fault_language
from broker import keys
from broker.account import Account, Observer
from broker.books import LedgerBooks
from broker.errors import BrokerError
from broker.ledger import Ledger
from broker.resuming import Edit, Journal
from broker.serve import Bus
from broker.service_manager import notify
from faults import Event, Scenario
from topologies import Topology


@dataclass
class Standing:
    """A bus that serves, at an endpoint, with the file of its run if it keeps one."""

    bus: Bus
    endpoint: str
    journal: Journal | None = None
    back: bool = field(default=False, init=False)
    """Whether it will be back after it has stopped."""

    def edit(self, edit: Edit) -> None:
        """Keeps what was done by hand to its faults, where it keeps anything."""
        if self.journal is not None:
            self.journal.edit(edit, self.bus)


def serve(
    topology: Topology,
    faults: Scenario | Sequence[Event] = (),
    *,
    bind: str,
    seed: int = 0,
    folder: Path | None = None,
    word: bytes = b"",
    expected: int = 0,
    trace: Path | None = None,
    state: Path | None = None,
    observer: Observer | None = None,
    ready: Callable[[Standing], AbstractContextManager[object] | None] | None = None,
) -> Account:
    """Serves a topology at `bind` until SIGTERM or Ctrl-C; gives the final account.

    Args:
        faults: A scenario, or events as `faults.expand` gives them; they count from when the clock
            starts.
        folder: Of CURVE keys; a bus that other machines can reach does not start without.
        word: What connections prove that they know, where there are no keys. A tcp port of this
            machine takes one, for any user could come by; a Unix socket is for this user only.
        expected: The clock starts once so many nodes are there; 0 with the first.
        trace: Where to write every message's fate in the end (parquet). It costs memory and half
            of the speed.
        state: The file from which the run is taken up again after a restart.
        ready: Called once the bus is bound; what it returns is kept open as long as it serves.

    Raises BrokerError where it can't be started safely, InputError where `state` is another run's.
    """
    keys.demand(bind, folder)
    if bind.startswith("tcp://") and folder is None and not word:
        raise BrokerError(
            f"any user of this machine could join {bind}: give a secret word with `--word FILE` "
            "(made where there is none), or keys with `--keys DIR`, or bind to ipc://PATH"
        )
    if isinstance(faults, Scenario):
        faults = fault_language.expand(faults, topology, seed)
    journal = Journal(state, topology, faults, seed) if state is not None else None
    names = tuple(topology.nodes)
    ledger = Ledger()
    bus = Bus(
        topology,
        names,
        journal.events if journal is not None else faults,
        seed=seed,
        words=dict.fromkeys(names, word),
        folder=folder,
        expected=expected,
        observer=observer,
        books=None if trace is None else lambda custodian: LedgerBooks(ledger, names, custodian),
        resumed=journal.resumed if journal is not None else None,
    )
    standing = Standing(bus, bind, journal)

    def beat() -> None:
        notify("WATCHDOG=1")
        if journal is not None:
            journal.keep(bus)

    try:
        with _stopped_by_signals(standing), contextlib.ExitStack() as opened:
            standing.endpoint = bus.bind(bind)
            if ready is not None and (held := ready(standing)) is not None:
                opened.enter_context(held)
            notify(f"READY=1\nSTATUS=serving {topology.name} at {standing.endpoint}")
            bus.run(beat)
            notify("STOPPING=1")
        if journal is not None and not standing.back:
            journal.forget()
    except BaseException:
        standing.back = journal is not None  # whoever starts it again goes on
        raise
    finally:
        if journal is not None and standing.back:
            journal.keep(bus)
        account = bus.close(back=standing.back)
        if trace is not None:
            ledger.write_parquet(trace)
    return account


@contextlib.contextmanager
def _stopped_by_signals(standing: Standing) -> Iterator[None]:
    def stop(number: int, _: object) -> None:
        standing.back = number == signal.SIGTERM and standing.journal is not None
        standing.bus.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
