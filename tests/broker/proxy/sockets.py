"""Plain programs on plain sockets for tests of the proxy: a server in a thread, a network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import topologies
from broker import proxy
from broker.proxy import Address, ProxySettings, Route, Running
from faults import Event, Scenario
from topologies import Topology

PATIENCE_S = 30.0
Serve = Callable[[socket.socket], None]

PAIR = topologies.parse("""
name: pair
nodes: {phone: {}, shop: {}}
links: [{between: [phone, shop], bandwidth: 100 Mbit/s, delay: 10 ms}]
""")


def echo(connection: socket.socket) -> None:
    """Sends back what it gets, and ends when its client does."""
    while data := connection.recv(65_536):
        connection.sendall(data)


def swallow(connection: socket.socket) -> None:
    """Reads everything, and says how many bytes that were."""
    count = 0
    while data := connection.recv(65_536):
        count += len(data)
    connection.sendall(str(count).encode())


class Server:
    """A real server: `serve` is called in a thread with each connection. `errors` are what its
    sockets raised, by their class.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._socket.getsockname())
        self.accepted = 0
        self.errors: list[type[OSError]] = []
        self.ended = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        with connection:
            try:
                self._serve(connection)
            except OSError as error:
                self.errors.append(type(error))
        self.ended.release()


@contextlib.contextmanager
def serving(serve: Serve = echo) -> Iterator[Server]:
    """A server for the block."""
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def between(
    server: Server | Address,
    topology: Topology | None = PAIR,
    faults: Scenario | Sequence[Event] | str | None = None,
    nodes: tuple[str, str] = ("phone", "shop"),
    **settings: object,
) -> Iterator[Running]:
    """A proxy with one route, "shop", from a phone to the server."""
    forward = server if isinstance(server, Address) else server.address
    ends = nodes if topology is not None else (None, None)
    route = Route("shop", Address("127.0.0.1", 0), forward, *ends)
    with proxy.running(ProxySettings((route,), topology, scenario(faults), **settings)) as running:
        yield running
        tally = running.tally()
        held = tally.taken - tally.handed - tally.lost
        assert held >= 0, tally
        if not running.call(lambda: running.proxy.gates["shop"].connections):
            assert held == 0, tally


def scenario(said: Scenario | Sequence[Event] | str | None) -> Scenario | None:
    """The faults of a text, a timeline in YAML."""
    if isinstance(said, str):
        import faults

        return faults.parse(f"name: trouble\ntimeline:\n{said}")
    return said  # type: ignore[return-value]


def call(running: Running, name: str = "shop", timeout: float = PATIENCE_S) -> socket.socket:
    """A client's connection."""
    return socket.create_connection(running.addresses[name], timeout=timeout)


def everything(connection: socket.socket, count: int | None = None) -> bytes:
    """What comes until the end, or so many bytes."""
    found = bytearray()
    while count is None or len(found) < count:
        data = connection.recv(65_536)
        if not data:
            break
        found += data
    return bytes(found)
