"""The processes that `benchmarks/bus.py` measures: senders, brokers, receivers, programs.

Sender, broker and receiver are separate processes. The ends do as little as they can, for
zmq.proxy's peers as for ours: what is measured is the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import zmq
import zmq.backend

from broker import Node
from broker.clock import NodeLoop, driving
from broker.port import Port
from broker.realtime import EXACT_S, Waiter, sharpen
from broker.serve import Bus
from broker.wire import Frame, Kind, encode
from topologies import Link, Topology, Transport
from topologies import Node as Place

WORD = b"benchmark"
WINDOW = 4 * 2**20
LARGE_WINDOW = 32 * 2**20
DEADLINE_S = 120.0
_PREFIX_BYTES = 57
_STAMP, _STAMP_AT = struct.Struct("!q"), 28
_DELIVERS = int(Kind.DELIVER)
_processes = multiprocessing.get_context("fork")


def chain(hops: int, delay_s: float, bandwidth_bps: float) -> Topology:
    """a → … → b over so many links, `delay_s` in all."""
    names = ["a", *(f"router-{i}" for i in range(1, hops)), "b"]
    links = [
        Link(source=source, target=target, bandwidth_bps=bandwidth_bps, delay_s=delay_s / hops)
        for x, y in pairwise(names)
        for source, target in ((x, y), (y, x))
    ]
    # Without slow start, which the peers don't have either.
    transport = Transport(send_buffer_bytes=2 * LARGE_WINDOW, initial_window=1_000_000)
    return Topology.of("chain", [Place(name=name) for name in names], links, transport)


@contextlib.contextmanager
def process(work: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """A process that runs `work` and talks over a pipe; it is ended in any case."""
    ours, theirs = _processes.Pipe()
    child = _processes.Process(target=work, args=(theirs, *args), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join(5)
        if child.is_alive():
            child.kill()
            child.join()


def answer(pipe: Connection) -> Any:
    """What a process says next. Raises TimeoutError when that takes too long."""
    if not pipe.poll(DEADLINE_S):
        raise TimeoutError("a process of the benchmark has fallen silent")
    return pipe.recv()


# The peer: zmq.proxy, ROUTER to ROUTER.


def proxy(pipe: Connection, transport: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = [context.socket(zmq.ROUTER) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        for number, socket in enumerate(sockets):
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # waits where it would drop
            place = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}/{number}"
            socket.bind(place)
        pipe.send([socket.get_string(zmq.LAST_ENDPOINT) for socket in sockets])
        zmq.proxy(*sockets)


def _peer(endpoint: str) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = -1
    socket.setsockopt(zmq.ROUTING_ID, b"end")  # so that one ROUTER's sender is the other's receiver
    socket.connect(endpoint)
    return socket


def proxy_sender(pipe: Connection, endpoint: str, count: int, size: int) -> None:
    socket = _peer(endpoint)
    payload = b"x" * size
    send = zmq.backend.Socket.send
    pipe.recv()
    if size >= 65_536:
        for _ in range(count):
            send(socket, payload, 0, copy=False)
    else:
        for _ in range(count):
            send(socket, payload)
    pipe.recv()


def proxy_receiver(pipe: Connection, endpoint: str, count: int, size: int) -> None:
    socket = _peer(endpoint)
    receive = zmq.backend.Socket.recv
    copy = size < 65_536
    pipe.send("ready")
    receive(socket, 0, copy=copy)
    begin = time.perf_counter()
    for _ in range(count - 1):
        receive(socket, 0, copy=copy)
    pipe.send((count - 1) / (time.perf_counter() - begin))


def proxy_rate(count: int, size: int, transport: str = "tcp") -> float:
    """Messages a second through zmq.proxy."""
    with process(proxy, transport) as middle:
        front, back = answer(middle)
        with (
            process(proxy_receiver, back, count, size) as receiver,
            process(proxy_sender, front, count, size) as sender,
        ):
            answer(receiver)
            time.sleep(0.3)
            sender.send("go")
            rate: float = answer(receiver)
            sender.send("end")
    return rate


# Ours.


def bus(pipe: Connection, topology: Topology, transport: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        built = Bus(topology, ("a", "b"), (), seed=1, words={"a": WORD, "b": WORD}, expected=2)
        place = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}/bus"
        pipe.send(built.bind(place))

        def wait() -> None:
            with contextlib.suppress(EOFError):
                pipe.recv()
            built.stop()

        threading.Thread(target=wait, daemon=True).start()
        cpu = time.thread_time()
        built.run()
        cpu = time.thread_time() - cpu
        account = built.close()
        with contextlib.suppress(OSError):
            pipe.send((cpu, account))


def _joined(endpoint: str, name: str, *, share: bool) -> Port:
    port = Port(endpoint, [name], word=WORD)
    if not share:
        port._arena = None
    while port.start_ns is None:
        port.read()
        port.socket.poll(10)
    return port


class Credit:
    """What a sender may have under way, as a node's runtime counts it: `left` is what is left."""

    def __init__(self, port: Port, window: int) -> None:
        self._port = port
        self.left = window

    def wait(self) -> None:
        """Waits until there is room."""
        while self.left <= 0:
            self.hear()
            if self.left <= 0:
                self._port.socket.poll(50)

    def hear(self) -> None:
        for frame in self._port.read():
            if frame.kind == Kind.RECEIPT:
                self.left += frame.sequence


def small_sender(pipe: Connection, endpoint: str, count: int, size: int, packed: int) -> None:
    """Sends small messages, `packed` in a packet, which differ in their stamps alone."""
    port = _joined(endpoint, "a", share=False)
    send, put, now_ns = zmq.backend.Socket.send, _STAMP.pack_into, time.monotonic_ns
    frame = Frame(Kind.SEND, 0, 1, payload=(b"x" * size,), due_ns=port._word)
    (packet,) = map(bytearray, encode([frame] * packed))
    stamps = [4 + frame.size_bytes * place + _STAMP_AT for place in range(packed)]
    credit, start_ns, socket = Credit(port, WINDOW), port.start_ns or 0, port.socket
    bytes_each = packed * frame.size_bytes
    pipe.recv()
    for _ in range(0, count, packed):
        if credit.left <= 0:
            credit.wait()
        stamp = now_ns() - start_ns
        for place in stamps:
            put(packet, place, stamp)
        send(socket, packet)
        credit.left -= bytes_each
    while not port.closed:
        credit.hear()
        socket.poll(50)
    port.close()


def small_receiver(pipe: Connection, endpoint: str, count: int, size: int) -> None:
    port = _joined(endpoint, "b", share=False)
    receive = zmq.backend.Socket.recv
    frame_bytes = _PREFIX_BYTES + 5 + size
    got = taken = 0
    begin = first = None
    pipe.send("ready")
    while got < count:
        packet = receive(port.socket)
        if packet[4] != _DELIVERS:
            continue
        several = (len(packet) - 4) // frame_bytes
        got += several
        if begin is None:
            begin, first = time.perf_counter(), several
        taken += several * frame_bytes
        if taken >= WINDOW // 8:
            port.report({"receipts": [[0, 1, 0, taken, False]]})
            taken = 0
    assert begin is not None
    assert first is not None
    pipe.send((got - first) / (time.perf_counter() - begin))
    _wait_for_end(port)


def large_sender(
    pipe: Connection, endpoint: str, count: int, size: int, share: bool, pause_s: float
) -> None:
    port = _joined(endpoint, "a", share=share)
    payload = b"x" * size
    credit = Credit(port, LARGE_WINDOW)
    pipe.recv()
    for number in range(count):
        if pause_s:
            time.sleep(pause_s)
        credit.wait()
        frame = Frame(Kind.SEND, 0, 1, number, 0, port.now_ns(), "", b"\x80", (payload,))
        port.send([frame])
        credit.left -= frame.size_bytes
    while not port.closed:
        credit.hear()
        port.socket.poll(50)
    port.close()


def large_receiver(pipe: Connection, endpoint: str, count: int, share: bool) -> None:
    """Takes messages up at their time, as a node's driver does; gives (stamp, when, size) each."""
    sharpen()
    port = _joined(endpoint, "b", share=share)
    waiter = Waiter(EXACT_S)  # as a driver does
    waiter.watch(port.descriptor)
    held: list[Frame] = []
    seen: list[tuple[int, int, int]] = []
    taken = 0
    pipe.send("ready")
    while len(seen) < count:
        held += [frame for frame in port.read() if frame.kind == Kind.DELIVER]
        now_ns = port.now_ns()
        due = [frame for frame in held if frame.due_ns <= now_ns]
        if due:
            held = held[len(due) :]
            for frame in due:
                size = frame.size_bytes
                taken += size
                seen.append((frame.instant_ns, now_ns, size))
            del due, frame
            if taken >= LARGE_WINDOW // 8:
                port.report({"receipts": [[0, 1, 0, taken, False]]})
                taken = 0
            continue
        if port.has_mail():
            continue
        waiter.wait(((held[0].due_ns if held else now_ns + 50_000_000) - now_ns) / 1e9)
    pipe.send(seen)
    _wait_for_end(port)


def _wait_for_end(port: Port) -> None:
    while not port.closed:
        port.read()
        port.socket.poll(50)
    port.close()


def through(
    topology: Topology,
    transport: str,
    sender: tuple[Callable[..., None], *tuple[Any, ...]],
    receiver: tuple[Callable[..., None], *tuple[Any, ...]],
) -> tuple[Any, float, Any]:
    """Lets a sender and a receiver meet over our bus; gives what the receiver says, the processor
    time of the bus's own thread in seconds, and its final account.
    """
    with process(bus, topology, transport) as middle:
        endpoint = answer(middle)
        with (
            process(receiver[0], endpoint, *receiver[1:]) as taker,
            process(sender[0], endpoint, *sender[1:]) as giver,
        ):
            answer(taker)
            giver.send("go")
            said = answer(taker)
            middle.send("end")
            cpu, account = answer(middle)
    return said, cpu, account


# Virtual time: programs, in a module so that other processes find them.


async def chat(node: Node) -> int:
    """Sends a hundred bytes to the next node so many times, and reads what comes."""
    rate, seconds = node.place.attributes["rate"], node.place.attributes["seconds"]
    peers = node.peers()
    to = peers[(node._number + 1) % len(peers)]
    heard = 0

    async def listen() -> None:
        nonlocal heard
        async for _ in node:
            heard += 1

    listening = asyncio.create_task(listen())
    for i in range(int(float(rate) * float(seconds))):
        await node.send(to, {"i": i}, [b"x" * 100])
        await asyncio.sleep(1 / float(rate))
    await asyncio.sleep(0.2)
    listening.cancel()
    return heard


async def gossip(node: Node) -> None:
    """Reads what comes, and tells somebody something every ten seconds or so."""
    peers = node.peers()
    until_s = float(node.place.attributes["seconds"])

    async def listen() -> None:
        async for _ in node:
            pass

    asyncio.create_task(listen())  # noqa: RUF006 - the node's loop keeps it
    while node.now < until_s:
        await asyncio.sleep(20 * node.random.random())
        await node.send(node.random.choice(peers), {"news": 1}, [b"x" * 80])


class Bare:
    """As much of a node as `chat` wants, with nothing between it and its peers."""

    def __init__(self, place: Place, number: int, others: Sequence[Bare]) -> None:
        self.place, self._number, self._others = place, number, others
        self._inbox: deque[object] = deque()
        self._reader: asyncio.Future[None] | None = None

    def peers(self) -> tuple[str, ...]:
        return tuple(other.place.name for other in self._others if other is not self)

    async def send(self, to: str, header: dict[str, Any], payload: Sequence[bytes]) -> None:
        other = self._others[int(to.removeprefix("n"))]
        other._inbox.append((header, payload))
        if other._reader is not None and not other._reader.done():
            other._reader.set_result(None)

    def __aiter__(self) -> Bare:
        return self

    async def __anext__(self) -> object:
        while not self._inbox:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._inbox.popleft()


def bare(topology: Topology, nodes: int) -> int:
    """`chat` on all nodes in one loop in virtual time, and nothing else: what asyncio and the
    programs take by themselves. Returns how many messages were read.
    """
    loop = NodeLoop("all", "1")  # type: ignore[abstract]  # as a machine makes it
    others: list[Bare] = []
    others += [Bare(topology.nodes[f"n{i}"], i, others) for i in range(nodes)]
    with driving():
        loop.take_over()
        tasks = [loop.create_task(chat(other)) for other in others]  # type: ignore[arg-type]
        while (next_ns := loop.next_ns()) is not None:
            loop.run_until_quiet(next_ns)
    return sum(task.result() for task in tasks)


def star(nodes: int, rate: float, seconds: float) -> Topology:
    """So many nodes around a switch, each of which sends `rate` messages a second."""
    attributes: dict[str, str | int | float] = {"rate": rate, "seconds": seconds}
    places = [Place(name=f"n{i}", attributes=attributes) for i in range(nodes)]
    links = [
        Link(source=source, target=target, bandwidth_bps=1e8, delay_s=0.0025)
        for place in places
        for source, target in ((place.name, "switch"), ("switch", place.name))
    ]
    return Topology.of("star", [*places, Place(name="switch")], links)


def mutated(count: int, word: int) -> Iterator[list[bytes]]:
    """Packets of an admitted node, with something wrong with most of them."""
    chance = random.Random(1)

    def frame(parts: int) -> Frame:
        payload = (b"x" * 40,) * parts
        return Frame(Kind.SEND, 0, 1, parts, 0, 0, "p" * parts, b"\x80", payload, 0, word)

    good = [bytes(encode([frame(parts)] * (parts + 1))[0]) for parts in range(4)]
    for _ in range(count):
        packet = bytearray(chance.choice(good))
        what = chance.randrange(5)
        if what == 0:
            packet[chance.randrange(len(packet))] = chance.randrange(256)
        elif what == 1:
            del packet[chance.randrange(len(packet)) :]
        elif what == 2:
            packet += chance.randbytes(chance.randrange(1, 90))
        elif what == 3:
            place = chance.randrange(len(packet) - 4)
            packet[place : place + 4] = chance.randbytes(4)
        yield [bytes(packet), *(chance.randbytes(5) for _ in range(what == 4))]
