"""The programs of `proxy.py`: a server that echoes or swallows, clients, relays to compare with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

PATIENCE_S = 60
_BLOCK = bytes(2**18)
Address = tuple[str, int]


# The server.


def _serve(tell: Connection) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    tell.send(listening.getsockname())
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_one, args=(connection,), daemon=True).start()


def _one(connection: socket.socket) -> None:
    """Echoes after an "e". After an "s" and a size swallows so much, and tells when how much was
    there; it does not wait for the end, for Toxiproxy knows no half-close.
    """
    buffer = bytearray(2**20)
    with connection, contextlib.suppress(OSError):
        if connection.recv(1) == b"e":
            connection.sendall(b"e")
            while count := connection.recv_into(buffer):
                connection.sendall(memoryview(buffer)[:count])
            return
        connection.sendall(b"s")
        wanted = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
        seen, total = [], 0
        while total < wanted:
            count = connection.recv_into(buffer)
            total += count
            if not count:
                return
            now = time.monotonic()
            if not seen or now - seen[-1][0] > 0.002:
                seen.append((now, total))
        seen.append((time.monotonic(), total))
        connection.sendall(json.dumps(seen).encode())


@contextlib.contextmanager
def server() -> Iterator[Address]:
    """The server, in a process of its own."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


# Clients.


def connect(where: Address, what: bytes) -> socket.socket:
    """A connection to the server that echoes ("e") or swallows ("s"), once it has answered."""
    connection = socket.create_connection(where, timeout=PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(what)
    assert connection.recv(1) == what
    return connection


def round_trips(where: Address, count: int) -> list[float]:
    """Seconds that 64 bytes take there and back, one after the other."""
    took = []
    with connect(where, b"e") as connection:
        for _ in range(count):
            begun = time.perf_counter()
            connection.sendall(bytes(64))
            left = 64
            while left:
                left -= len(connection.recv(left))
            took.append(time.perf_counter() - begun)
    return took


def upload(where: Address, size: int) -> list[tuple[float, int]]:
    """Sends so many bytes; when (seconds) how many were there."""
    with connect(where, b"s") as connection:
        connection.sendall(size.to_bytes(8, "big"))
        left = size
        while left:
            left -= connection.send(_BLOCK[: min(left, len(_BLOCK))])
        answer = bytearray()
        while data := connection.recv(2**16):
            answer += data
    return [(at, total) for at, total in json.loads(answer)]


def rate(seen: list[tuple[float, int]]) -> float:
    """Bytes a second over the second half of the bytes, when windows are open."""
    half = next(place for place, (_, total) in enumerate(seen) if total >= seen[-1][1] / 2)
    (begun, before), (ended, after) = seen[half], seen[-1]
    return (after - before) / (ended - begun)


# Relays.


class _Side(asyncio.Protocol):
    """One socket of a bare relay."""

    def __init__(self) -> None:
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Front(_Side):
    def __init__(self, upstream: Address) -> None:
        super().__init__()
        self._upstream = upstream
        self._early = b""

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        else:
            super().data_received(data)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        back = _Side()
        await loop.create_connection(lambda: back, *self._upstream)
        back.other = self
        back.transport.write(self._early)
        self.other = back


def bare(upstream: Address) -> None:
    """A relay that does nothing else, on the event loop that is installed."""

    async def live() -> None:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: _Front(upstream), "127.0.0.1", 0)
        print(listening.sockets[0].getsockname()[1], flush=True)
        await listening.serve_forever()

    asyncio.run(live())


@contextlib.contextmanager
def relay(upstream: Address, loop: str) -> Iterator[Address]:
    """A bare relay on `asyncio`'s loop or on `uvloop`'s, in a process of its own."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r});"
        + ("import uvloop; uvloop.install();" if loop == "uvloop" else "")
        + f"from benchmarks.proxy_ends import bare; bare({upstream!r})"
    )
    with _process([sys.executable, "-W", "ignore", "-c", code]) as process:
        yield "127.0.0.1", int(process.stdout.readline())


@contextlib.contextmanager
def ours(upstream: Address, topology: Path | None) -> Iterator[Address]:
    """`python -m broker proxy`, with the nodes "phone" and "shop" where there is a topology."""
    command = [sys.executable, "-m", "broker", "proxy", "--route"]
    if topology is None:
        command.append(f"0={upstream[0]}:{upstream[1]}")
    else:
        command.append(f"phone@127.0.0.1:0=shop@{upstream[0]}:{upstream[1]}")
        command += ["--topology", str(topology)]
    with _process(command) as process:
        line = process.stdout.readline()
        assert process.stdout.readline() == "ready\n"
        yield "127.0.0.1", int(line.split(" → ")[0].rpartition(":")[2])


@contextlib.contextmanager
def toxiproxy(
    upstream: Address, program: Path, toxics: list[dict[str, object]]
) -> Iterator[Address]:
    """A real Toxiproxy with these toxics on its one proxy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with _process([str(program), "-port", str(port), "-host", "127.0.0.1"]):
        base = f"http://127.0.0.1:{port}/proxies"
        until = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(base, timeout=1).close()
                break
            assert time.monotonic() < until
            time.sleep(0.05)
        body = {"name": "shop", "upstream": f"{upstream[0]}:{upstream[1]}", "listen": "127.0.0.1:0"}
        made = _post(base, body)
        for toxic in toxics:
            _post(f"{base}/shop/toxics", toxic)
        yield "127.0.0.1", int(str(made["listen"]).rpartition(":")[2])


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return dict(json.loads(answer.read()))


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
