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
import itertools
import logging
import math
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from broker import keys
from broker.admission import Admission, Newcomer
from broker.clock import NANOSECONDS, to_seconds
from broker.connection import Connection
from broker.errors import BrokerError, FrameError, LedgerError
from broker.intake import Other, Sent
from broker.ledger import Ledger
from broker.network import Fate, Network
from broker.realtime import Waiter, sharpen
from broker.relay import EARLY_NS, Books, Relay, frame_of, hello
from broker.shared import Custodian, inline, machine
from broker.troubles import Strike, Troubles
from broker.wire import Frame, Kind, decode, pack, unpack
from faults import Conditions, Event, Scenario
from topologies import Topology

BEAT_NS = 1_000_000_000
_GATHER_NS = 150_000
LONGEST_WAIT_NS = 200_000_000
FAREWELL_S = 2.0
WARN_LAG_NS = 5_000_000
_WARN_EVERY_NS = 60_000_000_000
_HWM = 1_000
_LINGER_MS = 500
_HEARTBEAT_MS = 3_000
_SILENCE_MS = 15_000
_NEVER_NS = 2**62
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # sums with enums are slow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """What became of everything, when the bus has closed or is asked."""

    sent: int
    sent_bytes: int
    duplicated: int
    delivered: int
    delivered_bytes: int
    dropped: dict[str, int]
    in_flight: int
    malformed: dict[str, int]
    late: int
    lag_s: float
    blocked: int
    waiting_bytes: int
    connections: int
    turned_away: int


@dataclass(frozen=True, slots=True)
class Told:
    """Faults of one instant that nodes know of, and what holds from then on."""

    at_ns: int
    strike: Strike
    conditions: Conditions


class Observer:
    """What a bus tells whoever runs it. All methods may be left as they are."""

    def fault(self, event: Event) -> None:
        """A fault has been applied."""

    def note(self, at_ns: int, node: str, event: str, fields: dict[str, Any]) -> None:
        """A program noted something."""

    def ended(self, at_ns: int, node: str, returned: bool) -> None:
        """A program has returned, or was stopped."""

    def failed(self, at_ns: int, node: str, text: str, problem: str) -> None:
        """A program has failed, with this traceback."""

    def restarted(self, node: str) -> None:
        """A node crashed, or starts again: its program has not ended."""


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
    ) -> None:
        self._topology = topology
        self._names = tuple(names)
        self._seed = seed
        self._folder = folder
        self._expected = expected
        self._observer = observer or Observer()
        self._troubles = Troubles(faults, topology, seed, self._names)
        self._near_ns = self._nearest_ns()
        self._told: deque[Told] = deque()
        self._conditions = Conditions()
        self._facts: dict[str, tuple[str, ...]] = {}
        self._incarnation = dict.fromkeys(self._names, 0)
        self._way_ns: dict[tuple[int, int], int] = {}
        self._start_ns: int | None = None
        self._beat_ns = self._warned_ns = 0
        self._joined = 0
        self._over = self._busy = False
        with contextlib.ExitStack() as opened:
            self._custodian = Custodian()
            opened.callback(self._custodian.close)
            self._waiter = Waiter()
            opened.callback(self._waiter.close)
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
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
                self._names,
                topology.transport.send_buffer_bytes,
                self._custodian,
                books(self._custodian) if books is not None else None,
            )
            self._network = network
            self._admission = Admission(
                self._names,
                words or dict.fromkeys(names, b""),
                keyed=folder is not None,
                is_here=self._is_here,
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

    def stop(self) -> None:
        """Ends `run`; may be called from a signal handler or another thread."""
        self._over = True
        self._waiter.wake()

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

    def close(self) -> Account:
        """Tells everybody that it is over, and gives the final account.

        Raises LedgerError where the books don't balance.
        """
        with self._opened:
            account = self.account()
            wrong = self.relay.check()
            for connection in self.relay.connections():
                self.relay.tell(connection, Frame(Kind.CLOSE))
            self.relay.flush()
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
                self._hear(other)

    def account(self) -> Account:
        """What became of everything so far."""
        relay = self.relay
        return Account(
            relay.sent,
            relay.sent_bytes,
            self._network.duplicated,
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
        told = [event for told in self._told for event in told.strike.events]
        return (*told, *self._troubles.pending)

    # One turn of the loop.

    def _step(self) -> bool:
        sent = self.relay.sent
        done, others = self.relay.read()
        for other in others:
            self._hear(other)
        if self._start_ns is not None:
            self._move(self.now_ns)
        self.relay.flush()
        self._busy = self.relay.sent > sent + 1
        return done

    def _move(self, now_ns: int) -> None:
        relay = self.relay
        self._foretell(now_ns)
        to_ns = now_ns - relay.settle_ns
        while self._told and self._told[0].at_ns <= to_ns:
            told = self._told.popleft()
            relay.move(told.at_ns, now_ns, told.at_ns)
            self._apply(told)
        until_ns = self._told[0].at_ns if self._told else self._troubles.next_ns() or _NEVER_NS
        relay.move(to_ns, now_ns, min(now_ns + EARLY_NS, until_ns))

    def _wait(self) -> None:
        if self._busy:
            # More is on its way: to read it together costs everybody less. Nothing is late for it.
            time.sleep(min(self.relay.settle_ns // 2, _GATHER_NS) / NANOSECONDS)
        if int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
            return  # it came while we sent: the descriptor is edge-triggered, and won't tell again
        now_ns = self.now_ns
        due = now_ns + LONGEST_WAIT_NS
        if self._start_ns is not None:
            if (next_ns := self.relay.next_ns()) is not None:
                due = min(due, next_ns)
            if self._told:
                due = min(due, self._told[0].at_ns + self.relay.settle_ns)
            due = min(due, self._near_ns)
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
        if self.relay.lag_ns > WARN_LAG_NS and now_ns - self._warned_ns > _WARN_EVERY_NS:
            self._warned_ns = now_ns
            _log.warning("%s", lateness(self.latest))

    def _time(self) -> Frame:
        """When the clock started (0: not yet), and what time it is, by this machine's clock."""
        return Frame(Kind.ADVANCE, instant_ns=self._start_ns or 0, due_ns=time.monotonic_ns())

    # Who comes and what they say.

    def _hear(self, other: Other) -> None:
        try:
            (frame,) = decode([other.packet])
            body = unpack(frame.body)
            if other.connection is not None:
                self._report(other.connection, body)
            elif frame.kind is Kind.HELLO:
                answer = self._admission.hear(other.identity, other.user, body)
                if isinstance(answer, Newcomer):
                    self._admit(answer)
                else:
                    self._socket.send_multipart([other.identity, *hello(answer)])
            else:
                self.relay.refuse("before hello")
        except FrameError as error:
            self.relay.refuse(str(error))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            self.relay.refuse("a report that makes no sense")
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def _is_here(self, number: int) -> bool:
        """Whether a node's connection is there; one that was cut is found out by asking."""
        connection = self.relay.home(number)
        if connection is None:
            return False
        self.relay.tell(connection, self._time())
        return not connection.gone

    def _admit(self, newcomer: Newcomer) -> None:
        self._joined += 1
        connection = Connection(
            self._joined, newcomer.identity, newcomer.nodes, secrets.token_bytes(8)
        )
        self.relay.admit(connection)
        welcome = {
            "number": connection.number,
            "word": int.from_bytes(connection.word, "big", signed=True),
            "names": list(self._names),
            "seed": self._seed,
            "topology": _plain(self._topology),
            "machine": machine(),
            "shared": str(self._custodian.folder or ""),
        }
        self.relay.tell(connection, Frame(Kind.HELLO, body=pack(welcome)))
        self.relay.tell(connection, self._time())
        here = [number for one in self.relay.connections() for number in one.nodes]
        if self._start_ns is not None:
            self._boot(sorted(newcomer.nodes))
        elif len(here) >= self._expected:
            self._start(sorted(here))

    def _start(self, here: Sequence[int]) -> None:
        self._start_ns = time.monotonic_ns()
        for connection in self.relay.connections():
            self.relay.tell(connection, self._time())
        self._foretell(0)
        self._boot(here)

    def _boot(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            name = self._names[number]
            actions: list[list[Any]] = []
            conditions = self._conditions
            if (skew := conditions.skew(name)) != (0, 0.0):
                actions.append(["skew", number, *skew])
            if (factor := conditions.compute_factor(name)) != 1.0:
                actions.append(["speed", number, factor])
            if conditions.is_up(name) and not conditions.is_stopped(name):
                actions.append(["boot", number, self._next_incarnation(number)])
            if conditions.is_paused(name):
                actions.append(["pause", number, True])
            self._order(number, self.now_ns, actions)

    def _next_incarnation(self, number: int) -> int:
        name = self._names[number]
        self._incarnation[name] += 1
        return self._incarnation[name] - 1

    def _order(self, number: int, at_ns: int, actions: list[list[Any]]) -> None:
        connection = self.relay.home(number)
        if connection is not None and actions:
            body = pack({"actions": actions})
            self.relay.tell(connection, Frame(Kind.ORDERS, instant_ns=at_ns, body=body))

    def _report(self, connection: Connection, body: Mapping[str, Any]) -> None:
        """What a process says of its nodes, in the order in which it happened."""
        if "time" in body:
            self.relay.tell(connection, self._time())
        if "bye" in body:
            self.relay.dismiss(connection)
        if "shares" in body:
            connection.shares = bool(body["shares"])
        for at_ns, receiver, source, size, published in body.get("receipts", ()):
            if receiver in connection.nodes:
                way_ns = self._way_back_ns(receiver, source)
                self.relay.receipt(at_ns, receiver, source, size, published, way_ns)
        for _, number, topic, wanted in body.get("topics", ()):
            self.relay.subscribe(self._own(connection, number), str(topic), bool(wanted))
        for _, number, fact, nodes in body.get("facts", ()):
            self._own(connection, number)
            self._facts[str(fact)] = tuple(nodes)
        for at_ns, number, event, fields in body.get("notes", ()):
            self._observer.note(at_ns, self._names[self._own(connection, number)], event, fields)
        for at_ns, number, returned in body.get("ended", ()):
            self._observer.ended(at_ns, self._names[self._own(connection, number)], returned)
        for at_ns, number, text, problem in body.get("failed", ()):
            name = self._names[self._own(connection, number)]
            _log.error("the program of node %s failed:\n%s", name, text)
            self._observer.failed(at_ns, name, text, problem)

    def _own(self, connection: Connection, number: int) -> int:
        if number not in connection.nodes:
            raise FrameError("speaks for another node")
        return number

    def _way_back_ns(self, receiver: int, source: int) -> int:
        """How long a receipt takes back to its sender."""
        pair = (receiver, source)
        known = self._way_ns.get(pair)
        if known is None:
            links = self._network.route(self._names[receiver], self._names[source]) or ()
            known = round(math.fsum(link.delay_s for link in links) * NANOSECONDS)
            known = self._way_ns[pair] = max(known, self.relay.lookahead_ns, 1)
        return known

    # Faults.

    def _nearest_ns(self) -> int:
        """When the nodes have to learn of the next fault; what only a run can know is known when
        the fault strikes.
        """
        at_ns = self._troubles.next_ns()
        if at_ns is None:
            return _NEVER_NS
        next_ones = itertools.takewhile(lambda one: one.at_ns == at_ns, self._troubles.pending)
        unknown = any(event.selector is not None for event in next_ones)
        return at_ns if unknown else at_ns - EARLY_NS

    def _foretell(self, now_ns: int) -> None:
        """Tells the nodes of faults that are near: each knows in time what happens to it."""
        while self._near_ns <= now_ns:
            at_ns = self._troubles.next_ns()
            strike = None if at_ns is None else self._troubles.strike(at_ns, self._facts)
            self._near_ns = self._nearest_ns()
            if at_ns is None or strike is None:
                return
            self._told.append(Told(at_ns, strike, self._troubles.conditions))
            for action, number, *values in strike.orders:
                again = [self._next_incarnation(number)] if action == "boot" else values
                self._order(number, at_ns, [[action, number, *again]])
            if strike.links is not None:
                body = pack({"actions": [], "links": strike.links})
                for connection in self.relay.connections():
                    self.relay.tell(connection, Frame(Kind.ORDERS, instant_ns=at_ns, body=body))

    def _apply(self, told: Told) -> None:
        self._conditions = told.conditions
        self._network.apply(told.at_ns, told.conditions)
        self._way_ns.clear()
        self.relay.look_ahead()
        for action, number, *_ in told.strike.orders:
            if action == "crash":
                self.relay.forget(number)
            if action in ("crash", "stop", "boot"):
                self._observer.restarted(self._names[number])
        for event in told.strike.events:
            self._observer.fault(event)


_OPTIONS = (
    (zmq.ROUTER_MANDATORY, 1),
    (zmq.SNDHWM, _HWM),
    (zmq.RCVHWM, _HWM),
    (zmq.MAXMSGSIZE, 512 * 2**20),
    (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
    (zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS),
)


def _plain(topology: Topology) -> dict[str, Any]:
    """A topology as msgpack can carry it; `topology_of` reads it."""
    return {
        "name": topology.name,
        "nodes": [node.model_dump(mode="json") for node in topology.nodes.values()],
        "links": [link.model_dump(mode="json") for link in topology.links.values()],
        "transport": topology.transport.model_dump(mode="json"),
    }


def lateness(account: Account) -> str:
    """How far a bus could not keep up, in words."""
    share = account.late / max(account.delivered, 1)
    return (
        f"the bus can't keep up: {account.late:,} messages ({share:.2%}) went out after their "
        f"time, by up to {account.lag_s * 1e3:.1f} ms"
    )


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
    ready: Callable[[str, Bus], AbstractContextManager[object] | None] | None = None,
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
        ready: Called with the endpoint and the bus once it is bound; what it returns is kept open
            as long as the bus serves.

    Raises BrokerError where it can't be started safely.
    """
    keys.demand(bind, folder)
    if bind.startswith("tcp://") and folder is None and not word:
        raise BrokerError(
            f"any user of this machine could join {bind}: give a secret word with `--word FILE` "
            "(made where there is none), or keys with `--keys DIR`, or bind to ipc://PATH"
        )
    names = tuple(topology.nodes)
    ledger = Ledger()
    bus = Bus(
        topology,
        names,
        faults,
        seed=seed,
        words=dict.fromkeys(names, word),
        folder=folder,
        expected=expected,
        books=None if trace is None else lambda custodian: LedgerBooks(ledger, names, custodian),
    )
    try:
        with _stopped_by_signals(bus), contextlib.ExitStack() as opened:
            endpoint = bus.bind(bind)
            if ready is not None and (held := ready(endpoint, bus)) is not None:
                opened.enter_context(held)
            bus.run()
    finally:
        account = bus.close()
        if trace is not None:
            ledger.write_parquet(trace)
    return account


class LedgerBooks:
    """Writes every message into a ledger. `tap` is told of each that is sent."""

    def __init__(
        self,
        ledger: Ledger,
        names: Sequence[str],
        custodian: Custodian,
        tap: Callable[[str, str, Frame], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._names = names
        self._custodian = custodian
        self._tap = tap

    def sent(self, number: int, sent: Sent) -> None:
        """A message was handed to the network under this number."""
        frame = frame_of(sent)
        if sent[1].places:
            parts = [self._custodian.read(entry) for entry in sent[1].places]
            frame = inline(frame, parts)
        source, destination = self._names[sent[1].source], self._names[sent[1].destination]
        entry = self._ledger.sent(source, destination, frame)
        assert entry.number == number
        if self._tap is not None:
            self._tap(source, destination, frame)

    def ended(self, fate: Fate) -> None:
        """A copy of a message has ended."""
        self._ledger.ended(fate)


@contextlib.contextmanager
def _stopped_by_signals(bus: Bus) -> Iterator[None]:
    before = {
        number: signal.signal(number, lambda *_: bus.stop())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
