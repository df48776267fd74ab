"""A node as its program sees it.

A program is `async def main(node: Node)`. It uses asyncio's own `sleep`, `timeout`, `gather` and
`TaskGroup`, and the node for what only a device on a network has: messages, computations that take
the device's time, memory that is not endless, and a disk that survives a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from threading import get_ident
from typing import Any, Protocol, TypeVar

from broker.clock import NANOSECONDS, NodeLoop
from broker.disk import Disk
from broker.errors import BrokerError, DeviceMemoryError, FrameError
from broker.suspicion import INTERVAL_S, Detector
from broker.traffic import Said, Traffic
from broker.wire import (
    ANSWER,
    DATAGRAM,
    HEARTBEAT,
    NOBODY,
    PUBLISH,
    REQUEST,
    UNCOUNTED,
    Buffer,
    Frame,
    Kind,
    check,
    pack,
    unpack,
)
from topologies import Device
from topologies import Node as Place

T = TypeVar("T")
Header = dict[str, Any]
_HEARTBEATS = "heartbeats"
_BUFFERS = (bytes, bytearray, memoryview)


@dataclass(slots=True, eq=False)
class Message:
    """What arrived. `payload` parts are read-only.

    `sent_at` is by the sender's clock and `arrived_at` by the receiver's, in seconds since the run
    began: clocks can be wrong. `topic` is not empty where the message was published.
    """

    source: str
    header: Header
    payload: tuple[memoryview, ...]
    purpose: str
    sent_at: float
    arrived_at: float
    _node: Node = field(repr=False)
    _frame: Frame = field(repr=False)

    @property
    def topic(self) -> str:
        """The topic it was published under, or an empty string."""
        return self.purpose if self._frame.flags & PUBLISH else ""

    @property
    def asks(self) -> bool:
        """Whether it came by `request`, and so can be answered."""
        return bool(self._frame.flags & REQUEST)

    async def reply(
        self, header: Header, payload: Sequence[Buffer] = (), *, purpose: str | None = None
    ) -> None:
        """Answers a request. The purpose is the request's own unless another is given.

        An answer never waits for room: who asks has room for the answers. One that comes too late
        is nobody's. Raises BrokerError where the message was no request.
        """
        node, frame = self._node, self._frame
        if not self.asks:
            raise BrokerError(
                f"node {node.name} answers a message of {self.source} that asked for no answer: "
                "send it one, or let it come by `request`"
            )
        await node._send(
            self.source, header, payload, purpose or self.purpose, frame.sequence, ANSWER
        )


@dataclass(frozen=True, slots=True)
class Route:
    """What the way to a peer costs now when nobody else uses it.

    `loss` is the share of packets that get lost on the way.
    """

    bandwidth_bps: float
    delay_s: float
    loss: float = 0.0


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
    """What a node needs to know of the run it is in."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def seed(self) -> int: ...

    @property
    def send_buffer_bytes(self) -> int: ...

    def number(self, name: str) -> int: ...

    def interrupted(self) -> bool: ...

    def route(self, source: str, destination: str) -> Route | None: ...


class Body(Protocol):
    """What a node needs of the machine it runs on."""

    @property
    def surroundings(self) -> Surroundings: ...

    @property
    def memory_bytes(self) -> int: ...

    def next_sequence(self) -> int: ...

    def compute(self, work: Callable[[], T], flops: float) -> asyncio.Future[T]: ...

    def loop_back(self, frame: Frame) -> None: ...


class Node:
    """What a program holds: its place in the network and its device.

    `name`, `place` (role, attributes, device), `incarnation` (0, then one more after each crash),
    `random` (seeded by run, node and incarnation), `disk`.
    """

    def __init__(
        self, place: Place, incarnation: int, loop: NodeLoop, disk: Disk, body: Body
    ) -> None:
        self.place = place
        self.incarnation = incarnation
        self.disk = disk
        surroundings = body.surroundings
        self._random = Random(f"{surroundings.seed}:program:{place.name}:{incarnation}")
        self._loop = loop
        self._body = body
        self._surroundings = surroundings
        self._number = surroundings.number(place.name)
        self._inbox: deque[Message] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._requests: dict[int, asyncio.Future[Message]] = {}
        self._reserved = 0
        self._let_go: list[Callable[[], None]] = []
        self._on_memory: list[Callable[[], None]] = []
        self._dead = self._reads_no_more = False
        self._traffic = Traffic(loop, surroundings.send_buffer_bytes)
        self._watched: dict[str, Detector] = {}
        self._heartbeat: asyncio.Handle | None = None
        self.said = Said()

    def _lives(self) -> bool:
        """Whether the program lives. Raises BrokerError where it is not the program that asks."""
        if self._dead:
            return False
        if self._loop._thread != get_ident():
            raise self._loop.stranger()
        return True

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
        """Seconds since the run began, by this node's clock; a `skew` makes it wrong."""
        return self._loop.clock_ns() / NANOSECONDS

    @property
    def random(self) -> Random:
        """The node's own generator: by run, node and incarnation another one."""
        self._lives()
        return self._random

    def peers(self) -> tuple[str, ...]:
        """The other nodes that run a program, in the order of the run."""
        names = tuple(self._surroundings.names)
        return names[: self._number] + names[self._number + 1 :]

    def link(self, peer: str, *, back: bool = False) -> Route:
        """What the way to `peer` costs now, or from it with `back`: degraded links as they are.

        Whether the peer is there at all is not told: the way is that of the topology. Raises
        BrokerError where it has none.
        """
        ends = (peer, self.name) if back else (self.name, peer)
        route = self._surroundings.route(*ends)
        if route is None:
            raise BrokerError(f"the topology has no way from {ends[0]} to {ends[1]}")
        return route

    # Messages.

    async def send(
        self,
        to: str,
        header: Header,
        payload: Sequence[Buffer] = (),
        *,
        purpose: str = "",
        datagram: bool = False,
    ) -> None:
        """Sends one message. It arrives, or one of its ends died; the sender isn't told which.

        Waits while the peer has not taken up what was sent before, once that is more than the
        network's `send_buffer_bytes`. A `datagram` waits for nothing, and can get lost, be doubled
        or overtaken.
        """
        await self._send(to, header, payload, purpose, 0, DATAGRAM if datagram else 0)

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
        sequence = 0
        try:
            async with asyncio.timeout(timeout):
                sequence = await self._send(to, header, payload, purpose, 0, REQUEST)
                future: asyncio.Future[Message] = self._loop.create_future()
                self._requests[sequence] = future
                return await future
        finally:
            self._requests.pop(sequence, None)

    async def publish(self, topic: str, header: Header, payload: Sequence[Buffer] = ()) -> None:
        """Sends one message to each other node that subscribes to `topic` now.

        One who does not keep up with reading loses messages ("subscriber too slow"), as with
        ZeroMQ's PUB; the publisher never waits.
        """
        if not topic:
            raise BrokerError(f"node {self.name} publishes without a topic")
        if self._lives():
            self._hand_over(NOBODY, _packed(header), _owned(payload), topic, 0, PUBLISH)

    def subscribe(self, topic: str) -> None:
        """From now on messages published under `topic` come in by `receive`. A crash forgets it."""
        if self._lives():
            self.said.topics.append((self._loop._now_ns, topic, True))

    def unsubscribe(self, topic: str) -> None:
        """No more of that topic."""
        if self._lives():
            self.said.topics.append((self._loop._now_ns, topic, False))

    async def receive(self, timeout: float | None = None) -> Message:  # noqa: ASYNC109
        """The next message that answers no request. Raises TimeoutError after `timeout` seconds."""
        self._lives()
        if not self._inbox:
            if timeout is None:
                await self._wait_for_mail()
            else:
                async with asyncio.timeout(timeout):
                    await self._wait_for_mail()
        message = self._inbox.popleft()
        self._traffic.take_up(message._frame)
        return message

    async def _wait_for_mail(self) -> None:
        while not self._inbox:
            reader: asyncio.Future[None] = asyncio.Future(loop=self._loop)  # nobody sees it
            self._readers.append(reader)
            try:
                await reader
            except BaseException:
                if reader in self._readers:
                    self._readers.remove(reader)
                self._wake_reader()  # where this one was woken and cancelled before it ran
                raise

    def __aiter__(self) -> Node:
        return self

    def __anext__(self) -> Awaitable[Message]:
        return self.receive()

    def suspects(self, peer: str) -> bool:
        """Whether `peer` has been silent for longer than is like it.

        A failure detector (see `broker.suspicion`), not an oracle: it can be wrong both ways. The
        first question begins the watch: from then on the peer is asked for a sign of life every
        second, in messages that cost what messages do.
        """
        self._surroundings.number(peer)
        self._lives()
        detector = self._watched.get(peer)
        if detector is None:
            detector = self._watched[peer] = Detector(self._loop.time())
            if self._heartbeat is None:
                self._heartbeat = self._loop.call_soon(self._ask_for_life)
        return detector.suspects(self._loop.time())

    def _ask_for_life(self) -> None:
        for peer in self._watched:
            number, flags = self._surroundings.number(peer), HEARTBEAT | DATAGRAM
            self._hand_over(number, b"\x80", (), _HEARTBEATS, 0, flags)
        self._heartbeat = self._loop.call_later(INTERVAL_S, self._ask_for_life)

    async def _send(
        self,
        to: str,
        header: Header,
        payload: Sequence[Buffer],
        purpose: str,
        answers: int = 0,
        flags: int = 0,
    ) -> int:
        if not self._lives():
            await self._fall_silent()
            return 0
        number = self._surroundings.number(to)
        body, owned = _packed(header), _owned(payload)
        if number in self._traffic.full and not flags & UNCOUNTED and number != self._number:
            await self._traffic.room(number)
            try:
                return self._hand_over(number, body, owned, purpose, answers, flags)
            finally:
                self._traffic.next_turn(number)
        return self._hand_over(number, body, owned, purpose, answers, flags)

    async def _fall_silent(self) -> None:
        """A dead program that catches everything and tries again must not do so for ever."""
        if asyncio._get_running_loop() is self._loop:
            await self._loop.create_future()

    def _hand_over(
        self,
        number: int,
        body: bytes,
        payload: tuple[Buffer, ...],
        purpose: str,
        answers: int,
        flags: int,
    ) -> int:
        loop = self._loop
        frame = Frame(
            Kind.SEND,
            self._number,
            number,
            self._body.next_sequence(),
            answers,
            loop._now_ns,
            purpose,
            body,
            payload,
            flags,
            0,
            loop.ahead_ns(),
        )
        check(frame)
        self.said.frames.append(frame)
        if number == self._number:
            frame.due_ns = frame.instant_ns
            self._body.loop_back(frame)
        elif not flags & UNCOUNTED:
            self._traffic.sent(number, frame.size_bytes)
        return frame.sequence

    # The device.

    def compute(self, work: Callable[[], T], *, flops: float) -> Awaitable[T]:
        """Does `work` for real, in a thread, while the device's clock pays `flops` operations.

        The device computes one thing at a time, in the order asked. `work` must own its inputs and
        what it changes until it ends. Its result, or the exception it raised, is what awaiting
        gives.
        """
        return self._body.compute(work, flops) if self._lives() else self._loop.create_future()

    def reserve(self, size_bytes: int, purpose: str = "a reservation") -> Reservation:
        """Holds device memory out of what the device grants now. Raises DeviceMemoryError.

        What is held stays where a `squeeze` leaves less than that; more there is only once enough
        was released, or the squeeze is over.
        """
        if size_bytes < 0:
            raise BrokerError(f"node {self.name}: {purpose} of {size_bytes} bytes; 0 or more")
        capacity = self.memory_bytes
        if size_bytes and self._reserved + size_bytes > capacity:
            free = max(capacity - self._reserved, 0)
            raise DeviceMemoryError(self.name, purpose, size_bytes, free, capacity)
        self._reserved += size_bytes
        return Reservation(self._release, size_bytes)

    @property
    def memory_bytes(self) -> int:
        """What the device grants now: `device.grant_bytes`, or less in a `squeeze`. Raises
        BrokerError where the topology gives it no device.
        """
        return min(self.device.grant_bytes, self._body.memory_bytes)

    @property
    def reserved_bytes(self) -> int:
        """Device memory held now."""
        return self._reserved

    def _release(self, size_bytes: int) -> None:
        self._reserved -= size_bytes

    # What the experimenter sees.

    def note(self, event: str, **fields: Any) -> None:
        """Tells the experimenter something. It costs no network and no time."""
        if self._lives():
            self.said.notes.append((self._loop._now_ns, event, unpack(_packed(fields))))

    def declare(self, fact: str, nodes: Sequence[str]) -> None:
        """States what only a run can know, so that a scenario can name it: "host of client-3"."""
        if self._lives():
            self.said.facts.append((self._loop._now_ns, fact, list(nodes)))

    def on_crash(self, let_go: Callable[[], None]) -> None:
        """Calls `let_go` when the node dies, to drop large things that its memory held.

        The suspended tasks of a dead program are kept until the run ends, and all they refer to.
        It is not for cleaning up: nothing it does can be seen by any node. If it raises, the
        program has failed.
        """
        self._let_go.append(let_go)

    def on_memory(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever the device grants less or more memory than before (`squeeze`).

        A program that can give something back then does it by releasing reservations.
        """
        self._on_memory.append(changed)

    # What the machine calls.

    def _tell_memory(self) -> None:
        for changed in self._on_memory:
            self._loop.call_soon(changed)

    def _deliver(self, frame: Frame) -> None:
        if frame.kind == Kind.RECEIPT:
            if frame.source == NOBODY:
                self._traffic.restart({int(peer): n for peer, n in unpack(frame.body).items()})
            else:
                self._traffic.receipt(frame.source, frame.sequence or None)
            return
        if self._reads_no_more:
            self._traffic.take_up(frame)
            return
        if frame.flags & HEARTBEAT:
            self._feel(frame)
            return
        loop = self._loop
        body, payload = frame.contents()
        message = Message(
            self._surroundings.names[frame.source],
            unpack(body),
            tuple([_readonly(part) for part in payload]) if payload else (),
            frame.purpose,
            (frame.instant_ns + frame.clock_ns) / NANOSECONDS,
            loop.clock_ns() / NANOSECONDS,
            self,
            frame,
        )
        if self._watched and (detector := self._watched.get(message.source)) is not None:
            detector.alive(loop.time())
        if frame.answers:
            future = self._requests.get(frame.answers)
            if future is not None and not future.done():
                future.set_result(message)
            return
        self._inbox.append(message)
        self._wake_reader()

    def _feel(self, frame: Frame) -> None:
        """A heartbeat: a question is answered at once, an answer is a sign of life."""
        source = self._surroundings.names[frame.source]
        if not frame.answers:
            flags = HEARTBEAT | DATAGRAM
            self._hand_over(frame.source, b"\x80", (), _HEARTBEATS, frame.sequence, flags)
        elif (detector := self._watched.get(source)) is not None:
            detector.alive(self._loop.time())

    def _wake_reader(self) -> None:
        while self._inbox and self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
                break

    def _read_no_more(self) -> None:
        """The program has ended: what came in and will come in counts as taken up."""
        self._reads_no_more = True
        while self._inbox:
            self._traffic.take_up(self._inbox.popleft()._frame)

    def _die(self) -> Exception | None:
        """Says and hears nothing more; what a callback of `on_crash` raised, the first that did."""
        self._dead = True
        self._inbox.clear()
        failure = None
        for let_go in self._let_go:
            try:
                let_go()
            except Exception as error:
                failure = failure or error
        return failure


def _packed(header: Header) -> bytes:
    """A header as msgpack. Raises here, at the sender, for what no receiver could read."""
    try:
        packed = pack(header)
        unpack(packed)
    except (TypeError, FrameError) as error:
        raise TypeError(_unpackable(header, "header") or f"header: {error}") from error
    return packed


def _unpackable(value: object, where: str) -> str:
    """What in a header can't be sent, and where it stands; empty where it is nothing in it."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                return f"{where} has a key {key!r}; keys are text"
            if problem := _unpackable(each, f"{where}[{key!r}]"):
                return problem
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            if problem := _unpackable(each, f"{where}[{place}]"):
                return problem
    elif value is not None and not isinstance(value, (bool, int, float, str, *_BUFFERS)):
        return (
            f"{where} is a {type(value).__name__}; headers are of text, numbers, bytes, True, "
            "False, None, and lists and dicts of them"
        )
    return ""


def _readonly(part: Buffer) -> memoryview:
    return part if isinstance(part, memoryview) and part.readonly else memoryview(part).toreadonly()


def _owned(payload: Sequence[Buffer]) -> tuple[bytes, ...]:
    """The payload as the sender has it now, whatever it writes into its buffers later."""
    if not payload and isinstance(payload, tuple):
        return ()
    if isinstance(payload, _BUFFERS):
        raise TypeError("a payload is a sequence of buffers; put this one into a list")
    try:
        return tuple(
            [part if isinstance(part, bytes) else bytes(memoryview(part)) for part in payload]
        )
    except TypeError as error:
        for place, part in enumerate(payload):
            with contextlib.suppress(TypeError):
                memoryview(part)
                continue
            raise TypeError(
                f"payload[{place}] is a {type(part).__name__}; parts are bytes, or buffers of bytes"
            ) from error
        raise


Program = Callable[[Node], Awaitable[object]]
Programs = Mapping[str, Program]
