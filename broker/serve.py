"""The bus in wall time: a ROUTER, the network on the machine's clock, the faults' time line.

One blocking loop: read what has come, apply the faults whose time it is, move the network, send out
what is decided, and wait for a descriptor or the next instant, in microseconds. Every wait has an
end. Nodes learn of a fault before its time and suffer it at its time; see `broker.relay` for how
messages go.

It says when it can't keep up: `Account.late` messages went out after their time, by up to
`lag_s`; a warning is logged the first time that is more than `WARN_LAG_NS`, and then once a minute.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zmq

from broker import keys
from broker.account import Account, Observer, lateness
from broker.admission import Newcomer
from broker.books import Books
from broker.clock import NANOSECONDS, to_seconds
from broker.errors import BrokerError, LedgerError
from broker.network import Network
from broker.realtime import Waiter, sharpen
from broker.reception import Reception, plain
from broker.relay import EARLY_NS, Relay
from broker.shared import Custodian, machine
from broker.strikes import Strikes
from broker.troubles import Troubles
from broker.wire import Frame, Kind, pack
from faults import Event, Scenario
from topologies import Topology

T = TypeVar("T")

BEAT_NS = 1_000_000_000
_GATHER_NS = 150_000
LONGEST_WAIT_NS = 200_000_000
FAREWELL_S = 2.0
WARN_LAG_NS = 5_000_000
PATIENCE_NS = 5_000_000_000
"""How long a bus that was restarted waits for all who were there before."""
_WARN_EVERY_NS = 60_000_000_000
_HWM = 1_000
_IO_THREADS = 2  # so that one can take in while the other sends out
_LINGER_MS = 500
_HEARTBEAT_MS = 3_000
_SILENCE_MS = 15_000
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # sums with enums are slow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a bus has left a run: its name, when its clock started (by this machine's clock; None:
    it has not), the number that each node's next incarnation gets, what programs have declared, and
    who was there.
    """

    run: str
    started_ns: int | None
    incarnations: Mapping[str, int]
    facts: Mapping[str, Sequence[str]]
    here: Sequence[str]


class Bus:
    """The bus of one run, until `close`. `latest` is the account of its last beat.

    Args:
        topology: The network.
        names: The run's nodes in order; programs may live on them.
        faults: A scenario, or events as `faults.expand` gives them.
        words: The secret word by which each node's connection proves itself; without, none is
            asked for, and it is the file system that says who can reach an ``ipc`` address.
        folder: Of CURVE keys, which then decide instead of words.
        expected: The clock starts once so many nodes are there.
        resumed: Of a run that is taken up again where another bus has left it.
    """

    def __init__(
        self,
        topology: Topology,
        names: Sequence[str],
        faults: Scenario | Sequence[Event] = (),
        *,
        seed: int = 0,
        words: Mapping[str, bytes] | None = None,
        folder: Path | None = None,
        expected: int = 0,
        observer: Observer | None = None,
        books: Callable[[Custodian], Books] | None = None,
        resumed: Resumed | None = None,
    ) -> None:
        self.topology = topology
        self.names = tuple(names)
        self.run_name = resumed.run if resumed is not None else secrets.token_hex(8)
        self.seed = seed
        self._folder = folder
        self._expected = expected
        self._observer = observer or Observer()
        self._start_ns = resumed.started_ns if resumed is not None else None
        self._beat_ns = self._warned_ns = 0
        self._here: frozenset[int] = frozenset()
        self._missing: frozenset[str] = frozenset(resumed.here if resumed is not None else ())
        self._patient_ns = time.monotonic_ns() + PATIENCE_NS
        self._asked: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._over = self._busy = False
        with contextlib.ExitStack() as opened:
            self._custodian = Custodian()
            opened.callback(self._custodian.close)
            self._waiter = Waiter()
            opened.callback(self._waiter.close)
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(_IO_THREADS)
            opened.callback(self._context.term)
            self._doorkeeper = None
            if folder is not None:
                self._doorkeeper = keys.Doorkeeper(self._context, keys.holders(folder))
                opened.callback(self._doorkeeper.close)
            self._socket = self._context.socket(zmq.ROUTER)
            opened.callback(self._socket.close, _LINGER_MS)
            for option, value in _OPTIONS:
                self._socket.setsockopt(option, value)
            if folder is not None:
                keys.guard(self._socket, keys.of_bus(folder))
            network = Network(topology, seed)
            self.relay = Relay(
                self._socket,
                network,
                self.names,
                topology.transport.send_buffer_bytes,
                self._custodian,
                books(self._custodian) if books is not None else None,
            )
            self.network = network
            self.strikes = Strikes(
                Troubles(faults, topology, seed, self.names),
                self.relay,
                network,
                self.names,
                self._observer,
            )
            if resumed is not None and resumed.started_ns is not None:
                self.strikes.resume(self.now_ns, resumed.incarnations, resumed.facts)
            self._reception = Reception(
                self._socket,
                self.relay,
                network,
                self.strikes,
                self._observer,
                self.names,
                words or dict.fromkeys(names, b""),
                keyed=folder is not None,
                welcome={
                    "run": self.run_name,
                    "names": list(self.names),
                    "seed": seed,
                    "topology": plain(topology),
                    "machine": machine(),
                    "shared": str(self._custodian.folder or ""),
                },
                time=self._time,
            )
            self.latest = self.account()
            self._opened = opened.pop_all()

    def bind(self, endpoint: str) -> str:
        """Binds to `endpoint`, and gives it as it is then (`tcp://127.0.0.1:*` has a port).

        Raises BrokerError where others could reach it and there are no keys, or it is taken.
        """
        keys.demand(endpoint, self._folder)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise BrokerError(f"can't bind to {endpoint}: {error}") from error
        bound = str(self._socket.get_string(zmq.LAST_ENDPOINT))
        if endpoint.startswith("ipc://") and not endpoint.startswith("ipc://@"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.chmod(0o600)
            self._opened.callback(path.unlink, missing_ok=True)
        self._waiter.watch(int(self._socket.getsockopt(zmq.FD)))
        return bound

    # Its life.

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the clock started; 0 before."""
        return 0 if self._start_ns is None else time.monotonic_ns() - self._start_ns

    @property
    def started_ns(self) -> int | None:
        """When the clock started, by this machine's; None before."""
        return self._start_ns

    def stop(self) -> None:
        """Ends `run`; may be called from a signal handler or another thread."""
        self._over = True
        self._waiter.wake()

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """Has the bus's own thread answer, between two turns; any thread may ask. Once the bus has
        stopped nobody answers any more, and the future is cancelled.
        """
        answer: Future[T] = Future()
        if self._over:
            answer.cancel()
            return answer
        self._asked.append((question, answer))  # type: ignore[arg-type]  # each with its own
        self._waiter.wake()
        return answer

    def run(self, alive: Callable[[], None] | None = None) -> None:
        """Serves until `stop`. `alive` is asked every second, and may raise."""
        sharpen()
        with _no_collection():
            while not self._over:
                done = self._step()
                now_ns = time.monotonic_ns()
                if now_ns - self._beat_ns > BEAT_NS:
                    self._beat(now_ns)
                    if alive is not None:
                        alive()
                if done and not self._over:
                    self._wait()
        while self._asked:
            self._asked.popleft()[1].cancel()

    def close(self, *, back: bool = False) -> Account:
        """Tells everybody that it is over, or that the bus will be `back`, and gives the final
        account.

        Raises LedgerError where the books don't balance.
        """
        farewell = Frame(Kind.CLOSE, body=pack({"back": True} if back else {}))
        with self._opened:
            account = self.account()
            wrong = self.relay.check()
            for connection in self.relay.connections():
                self.relay.tell(connection, farewell)
            self.relay.flush()
            if not back:
                self._see_off()
        if wrong:
            raise LedgerError(wrong)
        if account.late:
            _log.warning("%s", lateness(account))
        return account

    def _see_off(self) -> None:
        """Gives those who are there a moment to read that it is over."""
        until = time.monotonic() + FAREWELL_S
        while self.relay.connections() and time.monotonic() < until:
            self._waiter.wait(0.05)
            for other in self.relay.read()[1]:
                self._reception.hear(other)

    def account(self) -> Account:
        """What became of everything so far."""
        relay = self.relay
        return Account(
            relay.sent,
            relay.sent_bytes,
            self.network.duplicated,
            relay.delivered,
            relay.delivered_bytes,
            dict(sorted(relay.dropped.items())),
            relay.in_flight(),
            dict(sorted(relay.malformed.items())),
            relay.late,
            to_seconds(relay.lag_ns),
            relay.blocked(),
            sum(one.backlog_bytes for one in relay.connections()),
            len(relay.connections()),
            self._doorkeeper.turned_away if self._doorkeeper is not None else 0,
        )

    def to_come(self) -> tuple[Event, ...]:
        """The faults that have not been applied yet."""
        return self.strikes.to_come()

    # One turn of the loop.

    def _step(self) -> bool:
        sent = self.relay.sent
        done, others = self.relay.read()
        for other in others:
            newcomer = self._reception.hear(other)
            if newcomer is not None:
                self._receive(newcomer)
        while self._asked:
            _answer(*self._asked.popleft())
        if self._start_ns is not None and not self._is_waiting():
            self._move(self.now_ns)
        self.relay.flush()
        self._busy = self.relay.sent > sent + 1
        return done

    def _move(self, now_ns: int) -> None:
        relay, strikes = self.relay, self.strikes
        strikes.foretell(now_ns)
        to_ns = now_ns - relay.settle_ns
        while (at_ns := strikes.told_ns) <= to_ns:
            relay.move(at_ns, now_ns, at_ns)
            strikes.strike()
            self._reception.routes_have_changed()
        relay.move(to_ns, now_ns, min(now_ns + EARLY_NS, strikes.next_ns))

    def _wait(self) -> None:
        if self._busy:
            # More is on its way: to read it together costs everybody less. Nothing is late for it.
            time.sleep(min(self.relay.settle_ns // 2, _GATHER_NS) / NANOSECONDS)
        if int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
            return  # it came while we sent: the descriptor is edge-triggered, and won't tell again
        now_ns = self.now_ns
        due = now_ns + LONGEST_WAIT_NS
        if self._start_ns is not None and not self._missing:
            if (next_ns := self.relay.next_ns()) is not None:
                due = min(due, next_ns)
            due = min(due, self.strikes.told_ns + self.relay.settle_ns, self.strikes.near_ns)
        self._waiter.wait((due - now_ns) / NANOSECONDS)

    def _beat(self, now_ns: int) -> None:
        """A sign of life to all, by which it also shows who is gone."""
        self._beat_ns = now_ns
        self.latest = self.account()
        if not self.latest.in_flight:
            gc.collect(1)
        for connection in self.relay.connections():
            if not connection.backlog:
                self.relay.tell(connection, self._time())
        self._custodian.remove_leaving(self.relay.arenas_in_flight())
        self._see_who_is_here()
        if self.relay.lag_ns > WARN_LAG_NS and now_ns - self._warned_ns > _WARN_EVERY_NS:
            self._warned_ns = now_ns
            _log.warning("%s", lateness(self.latest))

    def _time(self) -> Frame:
        """When the clock started (0: not yet), and what time it is, by this machine's clock."""
        return Frame(Kind.ADVANCE, instant_ns=self._start_ns or 0, due_ns=time.monotonic_ns())

    # Who is here.

    @property
    def here(self) -> list[str]:
        """The nodes that a process has joined with."""
        return [self.names[number] for number in sorted(self._here)]

    def _is_waiting(self) -> bool:
        """Whether somebody is not back yet after a restart: what is sent meanwhile waits for them,
        for a while.
        """
        if not self._missing:
            return False
        if self._missing.issubset(self.here) or time.monotonic_ns() > self._patient_ns:
            self._missing = frozenset()
            self.relay.skip(self.now_ns)
        return bool(self._missing)

    def _receive(self, newcomer: Newcomer) -> None:
        """Somebody has come: the clock starts with the last who was expected."""
        self._see_who_is_here()
        if self._start_ns is not None:
            self.strikes.boot(sorted(newcomer.nodes), self.now_ns, newcomer.lives)
        elif len(self._here) >= self._expected:
            self._start_ns = time.monotonic_ns()
            for connection in self.relay.connections():
                self.relay.tell(connection, self._time())
            self.strikes.foretell(0)
            self.strikes.boot(sorted(self._here), self.now_ns)

    def _see_who_is_here(self) -> None:
        here = frozenset(number for one in self.relay.connections() for number in one.nodes)
        for numbers, tell in ((here - self._here, self._observer.came),
                              (self._here - here, self._observer.went)):  # fmt: skip
            if numbers:
                tell(self.now_ns, [self.names[number] for number in sorted(numbers)])
        self._here = here


_OPTIONS = (
    (zmq.ROUTER_MANDATORY, 1),
    (zmq.SNDHWM, _HWM),
    (zmq.RCVHWM, _HWM),
    (zmq.MAXMSGSIZE, 512 * 2**20),
    (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
    (zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS),
)


def _answer(question: Callable[[], object], answer: Future[object]) -> None:
    if answer.set_running_or_notify_cancel():
        try:
            answer.set_result(question())
        except Exception as error:
            answer.set_exception(error)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collector, which would look at all that is held again and again: nothing on the
    hot path makes cycles, and a beat with nothing under way collects what else did.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
