"""A bus in wall time, in a thread of the test's own process, and whoever connects to it."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq

from broker.account import Account
from broker.port import Port
from broker.serve import Bus
from broker.wire import Frame, Kind, pack
from faults import Event
from tests.broker.worlds import network
from topologies import Topology

WORD = b"a word that the test knows"
PAIR = network("a-b", bandwidth_bps=1e9, delay_s=0.002)
DEADLINE_S = 20.0


class Harbor:
    """A running bus. `account` is its final account once the harbor is closed."""

    def __init__(self, bus: Bus, endpoint: str) -> None:
        self.bus = bus
        self.endpoint = endpoint
        self.account: Account | None = None
        self.failure: BaseException | None = None
        self._ports: list[Port] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.bus.run()
        except BaseException as error:
            self.failure = error

    def port(self, *nodes: str, folder: Path | None = None) -> Port:
        """A connection for these nodes, which is closed with the harbor."""
        port = Port(self.endpoint, nodes, word=WORD, folder=folder)
        self._ports.append(port)
        return port

    def close(self) -> Account:
        for port in self._ports:
            port.close()
        until = time.monotonic() + 2.0
        while self._ports and self.bus.relay.connections() and time.monotonic() < until:
            time.sleep(0.002)
        self.bus.stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        account = self.account = self.bus.close()
        if self.failure is not None:
            raise self.failure
        return account

    def refused(self) -> dict[str, int]:
        return dict(self.bus.relay.malformed)

    def until(self, holds: Callable[[], object]) -> None:
        """Waits until something has come to hold, and fails where it does not."""
        until = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < until, "it has not come to hold"
            assert self.failure is None, self.failure
            time.sleep(0.002)


@contextlib.contextmanager
def harbor(
    topology: Topology = PAIR,
    *,
    names: Sequence[str] | None = None,
    faults: Sequence[Event] = (),
    expected: int = 0,
    transport: str = "ipc",
    folder: Path | None = None,
    **options: Any,
) -> Iterator[Harbor]:
    names = names or tuple(topology.nodes)
    with tempfile.TemporaryDirectory(prefix="h-") as place:
        bus = Bus(
            topology,
            names,
            faults,
            seed=1,
            words=dict.fromkeys(names, WORD),
            folder=folder,
            expected=expected,
            **options,
        )
        try:
            endpoint = bus.bind(f"ipc://{place}/bus" if transport == "ipc" else "tcp://127.0.0.1:*")
        except BaseException:
            bus.close()
            raise
        built = Harbor(bus, endpoint)
        try:
            yield built
        finally:
            if built.account is None:
                built.close()


def started(port: Port) -> Port:
    """Waits until the run's clock has started for this port; what came meanwhile stays there."""
    until = time.monotonic() + DEADLINE_S
    while port.start_ns is None:
        assert time.monotonic() < until, "the clock has not started"
        port._early = port.read()
        time.sleep(0.001)
    return port


def both(here: Harbor) -> tuple[Port, Port]:
    """Connections for nodes a and b, once the clock has started for both."""
    a, b = here.port("a"), here.port("b")
    return started(a), started(b)


def messages(port: Port, count: int) -> list[Frame]:
    """The next messages that come to a port, held until their time as a driver would."""
    found: list[Frame] = []
    until = time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert time.monotonic() < until, f"{len(found)} of {count} messages have come"
        found += [frame for frame in port.read() if frame.kind == Kind.DELIVER]
        port.socket.poll(20)
    return found


def receipts(port: Port) -> list[Frame]:
    """What receipts are there now."""
    return [frame for frame in port.read() if frame.kind == Kind.RECEIPT]


def letter(
    port: Port, source: int, destination: int, sequence: int = 1, payload: Sequence[bytes] = ()
) -> Frame:
    """A message as a node would send it now."""
    return Frame(
        Kind.SEND,
        source,
        destination,
        sequence,
        0,
        port.now_ns(),
        "test",
        pack({"i": sequence}),
        tuple(payload),
    )


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """A socket that knows nothing of the protocol."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(endpoint)
    return socket


__all__ = [
    "DEADLINE_S",
    "PAIR",
    "WORD",
    "Harbor",
    "both",
    "dealer",
    "harbor",
    "letter",
    "messages",
    "receipts",
    "started",
]
