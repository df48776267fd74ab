"""A node as its program sees it.

A program is `async def main(node: Node)`. It uses asyncio's own `sleep`, `timeout`, `gather` and
`TaskGroup`, and the node for what only a device on a network has: messages, computations that take
the device's time, memory that is not endless, and a disk that survives a crash.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from broker.clock import NodeLoop, to_seconds
from broker.disk import Disk
from broker.errors import BrokerError, DeviceMemoryError
from broker.wire import Buffer, Frame, Kind, encode, pack, unpack
from topologies import Device
from topologies import Node as Place

T = TypeVar("T")
Header = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """What arrived. `payload` parts are read-only; times are virtual seconds."""

    source: str
    header: Header
    payload: tuple[memoryview, ...]
    purpose: str
    sent_at: float
    arrived_at: float
    _node: Node = field(repr=False)
    _sequence: int = field(repr=False)

    async def reply(
        self, header: Header, payload: Sequence[Buffer] = (), *, purpose: str | None = None
    ) -> None:
        """Answers a request. The purpose is the request's own unless another is given."""
        await self._node._send(
            self.source, header, payload, purpose or self.purpose, answers=self._sequence
        )


@dataclass(frozen=True, slots=True)
class Route:
    """What the way to a peer costs when nothing is broken and nobody else uses it."""

    bandwidth_bps: float
    delay_s: float


class Reservation:
    """Device memory held by a program until `release`, or as a context manager."""

    def __init__(self, release: Callable[[int], None], size_bytes: int) -> None:
        self._release = release
        self.size_bytes = size_bytes

    def release(self) -> None:
        """Gives the memory back; once is enough."""
        size, self.size_bytes = self.size_bytes, 0
        self._release(size)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Surroundings(Protocol):
    """What a node needs from the worker it lives in."""

    @property
    def names(self) -> Sequence[str]: ...

    def number(self, name: str) -> int: ...

    def next_sequence(self, name: str) -> int: ...

    def route(self, source: str, destination: str) -> Route | None: ...

    def compute(self, name: str, work: Callable[[], T], flops: float) -> asyncio.Future[T]: ...


class Node:
    """What a program holds: its place in the network and its device.

    `name`, `place` (role, attributes, device), `incarnation` (0, then one more after each crash),
    `random` (seeded by run, node and incarnation), `disk`.
    """

    def __init__(
        self,
        place: Place,
        incarnation: int,
        loop: NodeLoop,
        disk: Disk,
        surroundings: Surroundings,
        seed: int,
    ) -> None:
        self.place = place
        self.incarnation = incarnation
        self.disk = disk
        self.random = random.Random(f"{seed}:program:{place.name}:{incarnation}")
        self._loop = loop
        self._surroundings = surroundings
        self._outbox: list[Frame] = []
        self._notes: list[dict[str, Any]] = []
        self._facts: dict[str, list[str]] = {}
        self._inbox: deque[Message] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._requests: dict[int, asyncio.Future[Message]] = {}
        self._reserved = 0
        self._let_go: list[Callable[[], None]] = []
        self._dead = False

    # Where and when.

    @property
    def name(self) -> str:
        """The node's name in the topology."""
        return self.place.name

    @property
    def device(self) -> Device:
        """The node's device. Raises BrokerError where the topology gives it none."""
        if self.place.device is None:
            raise BrokerError(f"node {self.name} has no device; give it one in the topology")
        return self.place.device

    @property
    def now(self) -> float:
        """Virtual seconds since the run began."""
        return self._loop.time()

    def peers(self) -> tuple[str, ...]:
        """The other nodes that run a program, in the order of the run."""
        return tuple(name for name in self._surroundings.names if name != self.name)

    def link(self, peer: str, *, back: bool = False) -> Route:
        """What the undisturbed way to `peer` costs, or from it with `back`.

        Raises BrokerError where the topology has no such way.
        """
        ends = (peer, self.name) if back else (self.name, peer)
        route = self._surroundings.route(*ends)
        if route is None:
            raise BrokerError(f"the topology has no way from {ends[0]} to {ends[1]}")
        return route

    # Messages.

    async def send(
        self, to: str, header: Header, payload: Sequence[Buffer] = (), *, purpose: str = ""
    ) -> None:
        """Sends one message. It arrives, or one of its ends died; the sender isn't told which."""
        await self._send(to, header, payload, purpose)

    async def request(
        self,
        to: str,
        header: Header,
        payload: Sequence[Buffer] = (),
        *,
        purpose: str = "",
        timeout: float,  # noqa: ASYNC109 - the deadline is part of a request's meaning
    ) -> Message:
        """Sends a message and waits for its reply. Raises TimeoutError after `timeout` seconds."""
        sequence = await self._send(to, header, payload, purpose)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._requests[sequence] = future
        try:
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._requests.pop(sequence, None)

    async def receive(self, timeout: float | None = None) -> Message:  # noqa: ASYNC109
        """The next message that answers no request. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not self._inbox:
                reader: asyncio.Future[None] = self._loop.create_future()
                self._readers.append(reader)
                try:
                    await reader
                except BaseException:
                    if reader in self._readers:
                        self._readers.remove(reader)
                    self._wake_reader()  # where this one was woken and cancelled before it ran
                    raise
        return self._inbox.popleft()

    def __aiter__(self) -> Node:
        return self

    async def __anext__(self) -> Message:
        return await self.receive()

    async def _send(
        self, to: str, header: Header, payload: Sequence[Buffer], purpose: str, answers: int = 0
    ) -> int:
        if self._dead:
            return 0
        frame = Frame(
            Kind.SEND,
            self._surroundings.number(self.name),
            self._surroundings.number(to),
            self._surroundings.next_sequence(self.name),
            answers,
            self._loop._now_ns,
            purpose,
            _packed(header),
            _owned(payload),
        )
        encode(frame)
        self._outbox.append(frame)
        return frame.sequence

    # The device.

    def compute(self, work: Callable[[], T], *, flops: float) -> Awaitable[T]:
        """Does `work` for real, in a thread, while the device's clock pays `flops` operations.

        The device computes one thing at a time, in the order asked. `work` must own its inputs and
        what it changes until it ends. Its result, or the exception it raised, is what awaiting
        gives.
        """
        return self._surroundings.compute(self.name, work, flops)

    def reserve(self, size_bytes: int, purpose: str = "a reservation") -> Reservation:
        """Holds device memory out of what the device grants. Raises DeviceMemoryError."""
        if size_bytes < 0:
            raise BrokerError(f"node {self.name}: {purpose} of {size_bytes} bytes; 0 or more")
        capacity = self.device.grant_bytes
        if self._reserved + size_bytes > capacity:
            free = capacity - self._reserved
            raise DeviceMemoryError(self.name, purpose, size_bytes, free, capacity)
        self._reserved += size_bytes
        return Reservation(self._release, size_bytes)

    @property
    def reserved_bytes(self) -> int:
        """Device memory held now."""
        return self._reserved

    def _release(self, size_bytes: int) -> None:
        self._reserved -= size_bytes

    # What the experimenter sees.

    def note(self, event: str, **fields: Any) -> None:
        """Tells the experimenter something. It costs no network and no time."""
        if not self._dead:
            self._notes.append({"event": event, "fields": unpack(_packed(fields))})

    def declare(self, fact: str, nodes: Sequence[str]) -> None:
        """States what only a run can know, so that a scenario can name it: "host of client-3"."""
        if not self._dead:
            self._facts[fact] = list(nodes)

    def on_crash(self, let_go: Callable[[], None]) -> None:
        """Calls `let_go` when the node dies, to drop large things that its memory held.

        The suspended tasks of a dead program are kept until the run ends, and all they refer to.
        It is not for cleaning up: nothing it does can be seen by any node.
        """
        self._let_go.append(let_go)

    # What the worker calls.

    def _deliver(self, source: str, frame: Frame, sent_ns: int) -> None:
        message = Message(
            source,
            unpack(frame.body),
            tuple(memoryview(part).toreadonly() for part in frame.payload),
            frame.purpose,
            to_seconds(sent_ns),
            self._loop.time(),
            self,
            frame.sequence,
        )
        if frame.answers:
            future = self._requests.get(frame.answers)
            if future is not None and not future.done():
                future.set_result(message)
            return
        self._inbox.append(message)
        self._wake_reader()

    def _wake_reader(self) -> None:
        while self._inbox and self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
                break

    def _die(self) -> None:
        self._dead = True
        self._outbox.clear()
        self._inbox.clear()
        for let_go in self._let_go:
            let_go()


def _packed(header: Header) -> bytes:
    """A header as msgpack. Raises here, at the sender, for what no receiver could read."""
    packed = pack(header)
    unpack(packed)
    return packed


def _owned(payload: Sequence[Buffer]) -> tuple[bytes, ...]:
    """The payload as the sender has it now, whatever it writes into its buffers later."""
    if isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError("a payload is a sequence of buffers; put this one into a list")
    return tuple(part if isinstance(part, bytes) else bytes(memoryview(part)) for part in payload)


Program = Callable[[Node], Awaitable[object]]
Programs = Mapping[str, Program]
