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
import math
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import zmq

from broker import keys
from broker.account import Account, Observer, lateness
from broker.admission import Admission, Newcomer
from broker.books import Books, LedgerBooks
from broker.clock import NANOSECONDS, to_seconds
from broker.connection import Connection
from broker.errors import BrokerError, FrameError, LedgerError
from broker.intake import Other
from broker.ledger import Ledger
from broker.network import Network
from broker.realtime import Waiter, sharpen
from broker.relay import EARLY_NS, Relay, hello
from broker.shared import Custodian, machine
from broker.strikes import Strikes
from broker.troubles import Troubles
from broker.wire import Frame, Kind, decode, pack, unpack
from faults import Event, Scenario
from topologies import Topology

BEAT_NS = 1_000_000_000
_GATHER_NS = 150_000
LONGEST_WAIT_NS = 200_000_000
FAREWELL_S = 2.0
WARN_LAG_NS = 5_000_000
_WARN_EVERY_NS = 60_000_000_000
_HWM = 1_000
_IO_THREADS = 2  # so that one can take in while the other sends out
_LINGER_MS = 500
_HEARTBEAT_MS = 3_000
_SILENCE_MS = 15_000
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # sums with enums are slow

_log = logging.getLogger(__name__)


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
                self._names,
                topology.transport.send_buffer_bytes,
                self._custodian,
                books(self._custodian) if books is not None else None,
            )
            self._network = network
            self._strikes = Strikes(
                Troubles(faults, topology, seed, self._names),
                self.relay,
                network,
                self._names,
                self._observer,
            )
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
        return self._strikes.to_come()

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
        relay, strikes = self.relay, self._strikes
        strikes.foretell(now_ns)
        to_ns = now_ns - relay.settle_ns
        while (at_ns := strikes.told_ns) <= to_ns:
            relay.move(at_ns, now_ns, at_ns)
            strikes.strike()
            self._way_ns.clear()
        relay.move(to_ns, now_ns, min(now_ns + EARLY_NS, strikes.next_ns))

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
            due = min(due, self._strikes.told_ns + self.relay.settle_ns, self._strikes.near_ns)
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
            self._strikes.boot(sorted(newcomer.nodes), self.now_ns)
        elif len(here) >= self._expected:
            self._start(sorted(here))

    def _start(self, here: Sequence[int]) -> None:
        self._start_ns = time.monotonic_ns()
        for connection in self.relay.connections():
            self.relay.tell(connection, self._time())
        self._strikes.foretell(0)
        self._strikes.boot(here, self.now_ns)

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
            self._strikes.facts.declare(str(fact), nodes)
        for number, seconds in body.get("worked", ()):
            name = self._names[self._own(connection, number)]
            self._strikes.facts.worked(name, float(seconds))
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
