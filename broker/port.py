"""A process's connection to a bus in wall time: joins, sends, and gives what has come.

A port brings one node or several. Frames that are sent together go as few packets as they fit into;
large payloads go through shared memory where the bus is on this machine and its folder is open to
this user. All times are nanoseconds since the run's clock started, on every machine: elsewhere than
on the bus's own machine the port measures how far the two clocks are apart, with half of the
shortest round trip as its error.

A port outlives its bus. When the bus says that it will be back, or has been silent for a few beats,
or does not know the port any more, what is to be sent waits here until the port has joined again
(`broker.absence` remembers what it has to say then). What was under way when the bus went is lost.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import zmq

from broker import keys
from broker.absence import Absence, under_way
from broker.admission import proof_of
from broker.errors import BrokerError, FrameError, WorkerError
from broker.shared import Arena, Reader, machine
from broker.wire import (
    SHARED,
    Buffer,
    Frame,
    Kind,
    collect,
    decode,
    encode,
    pack,
    send_parts,
    unpack,
)
from topologies import Link, Node, Topology, Transport

JOIN_S = 30.0
SILENCE_S = 20.0
RETURN_S = 300.0
"""How long to wait for a bus that has said that it will be back."""
_DOUBT_S = 3.0
"""Three beats: who has heard nothing for so long asks whether anybody is there."""
FRAMES_AT_ONCE = 512
_ASK_AGAIN_S = 0.5
_ANSWER_S = 2.0
"""How long a hello may be unanswered at first."""
_LINGER_MS = 500
_HWM = 1_000
_ASKED_TIMES = 8
_NOBLOCK = int(zmq.NOBLOCK)


class Port:
    """A connection that has joined. Raises BrokerError where the bus does not let it in.

    Attributes: `names` (all nodes of the run), `nodes` (those behind this port), `seed`, `topology`
    as the bus has them; `start_ns` is None until the run's clock starts, `closed` true once the bus
    has said that the run is over; `malformed` counts what could not be read. With `patience_s` the
    bus may be silent for so long; else for `SILENCE_S`, or `RETURN_S` if it has said so.
    """

    def __init__(
        self,
        endpoint: str,
        nodes: Sequence[str],
        *,
        word: bytes = b"",
        folder: Path | None = None,
        deadline_s: float = JOIN_S,
        patience_s: float | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        self.start_ns: int | None = None
        self.closed = False
        self.malformed: dict[str, int] = {}
        self._endpoint = endpoint
        self._offset_ns = 0
        self._heard_s = self._asked_s = time.monotonic()
        self._early: list[Frame] = []
        self._patience_s = patience_s
        self._absence = Absence()
        self._secret = word
        self._run: str | None = None
        self._word = 0
        self._linger_ms = 0  # who was not let in has nothing to say
        self._arena: Arena | None = None
        self._reader: Reader | None = None
        if folder is not None and len(self.nodes) != 1:
            raise BrokerError("a key stands for one node: join with a connection for each")
        with contextlib.ExitStack() as opened:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            opened.callback(context.term)
            self.socket = self._socket = context.socket(zmq.DEALER)
            opened.callback(lambda: self._socket.close(self._linger_ms))
            self._socket.set_hwm(_HWM)
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, 3_000)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
            if folder is not None:
                keys.show(self._socket, folder, self.nodes[0])
            self._socket.connect(endpoint)
            self._join(deadline_s)
            opened.callback(self._drop_memory)
            self._linger_ms = _LINGER_MS
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Leaves, and says so."""
        with contextlib.suppress(WorkerError, zmq.ZMQError):
            self.report({"bye": True})
        self._opened.close()

    @property
    def descriptor(self) -> int:
        """Becomes readable when something may have come; then `read` until nothing is left."""
        return int(self._socket.getsockopt(zmq.FD))

    def has_mail(self) -> bool:
        """Whether something can be read now. To be asked before waiting for the descriptor: that
        tells of what comes only once, and sending can swallow it.
        """
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def now_ns(self) -> int:
        """Nanoseconds since the run's clock started; negative before."""
        return time.monotonic_ns() + self._offset_ns - (self.start_ns or 0)

    # Frames.

    def send(self, frames: Sequence[Frame]) -> None:
        """Sends frames, the first of which is no reused one; waits while the bus does not read, and
        keeps them while it is not there.
        """
        if self._absence.begun:
            self._absence.hold(frames)
            return
        if self._arena is not None:
            arena = self._arena
            frames = [arena.share(frame) if frame.payload else frame for frame in frames]
        for begin in range(0, len(frames), FRAMES_AT_ONCE):
            some = list(frames[begin : begin + FRAMES_AT_ONCE])
            some[0] = replace(some[0], due_ns=self._word)
            self.send_packet(encode(some))

    def send_packet(self, parts: Sequence[Buffer]) -> None:
        """Sends a packet as it is; it is lost where the bus has gone meanwhile."""
        deadline = time.monotonic() + SILENCE_S
        while True:
            try:
                send_parts(self._socket, parts, _NOBLOCK)
            except zmq.Again:
                if self._is_in_doubt() and not self.has_mail():
                    self._absence.begin()
                    return
                if time.monotonic() > deadline:
                    raise WorkerError(f"the bus at {self._endpoint} does not read") from None
                self._socket.poll(100, zmq.POLLOUT)
            else:
                return

    def report(self, body: dict[str, Any]) -> None:
        """Says something about the nodes here."""
        self._absence.said(body)
        self.send([Frame(Kind.QUIET, body=pack(body))])

    def read(self, most: int = 256) -> list[Frame]:
        """What has come, up to so many packets. Raises WorkerError when the bus is gone."""
        frames = self._heard_early()
        for _ in range(most):
            try:
                parts = collect(self._socket, _NOBLOCK)
            except zmq.Again:
                break
            self._heard_s = time.monotonic()
            try:
                for frame in decode(parts):
                    frames += self._hear(frame)
            except FrameError as error:
                self.malformed[str(error)] = self.malformed.get(str(error), 0) + 1
        else:
            return frames
        if self._absence.begun or self._is_in_doubt():
            self._call()
        return frames

    def _hear(self, frame: Frame) -> list[Frame]:
        """What of a frame is for the nodes."""
        if frame.kind == Kind.ADVANCE:
            self.start_ns = frame.instant_ns or None
        elif frame.kind == Kind.CLOSE:
            if unpack(frame.body).get("back"):
                self._absence.begin(announced=True)
            else:
                self.closed = True
        elif frame.kind == Kind.HELLO:
            if unpack(frame.body).get("again"):
                return self._come_back()
        elif frame.flags & SHARED:
            return [self._restored(frame)]
        else:
            if frame.kind == Kind.ORDERS:
                self._absence.ordered(unpack(frame.body))
            return [frame]
        return []

    # A bus that is away.

    def _is_in_doubt(self) -> bool:
        return time.monotonic() - self._heard_s > min(_DOUBT_S, SILENCE_S)

    def _call(self) -> None:
        """Asks, now and then, whether anybody is there. Raises WorkerError when it has been too
        long.
        """
        now_s = time.monotonic()
        patience_s = self._patience_s
        if patience_s is None:
            patience_s = RETURN_S if self._absence.announced else SILENCE_S
        if now_s - self._heard_s > patience_s:
            raise WorkerError(f"the bus at {self._endpoint} has fallen silent")
        if now_s - self._asked_s > _ASK_AGAIN_S:
            self._asked_s = now_s
            asking = Frame(Kind.QUIET, body=pack({"time": True}), due_ns=self._word)
            with contextlib.suppress(zmq.Again):
                send_parts(self._socket, encode([asking]), _NOBLOCK)

    def _come_back(self) -> list[Frame]:
        """Joins again, and sends what has been waiting; gives what the nodes have to know of it.

        Raises BrokerError where the bus is there but serves another run now.
        """
        self._absence.begin()
        self._drop_memory()
        self._arena = self._reader = None
        self._join(JOIN_S)
        numbers = [self.names.index(name) for name in self.nodes]
        held = self._absence.end()
        self.report(self._absence.again(max(self.now_ns(), 0)))
        for kind, some in groupby(held, lambda frame: frame.kind):
            for frames in [list(some)] if kind == Kind.SEND else [[one] for one in some]:
                self.send(frames)
        news = under_way(numbers, held, self.now_ns())
        return [*news, *self._heard_early()]

    def _heard_early(self) -> list[Frame]:
        """What came while this was joining."""
        early, self._early = self._early, []
        return [kept for frame in early for kept in self._hear(frame)]

    def _restored(self, frame: Frame) -> Frame:
        if self._reader is None:
            raise FrameError("shared memory, which this process does not see")
        return self._reader.restore(frame)

    # Joining.

    def _join(self, deadline_s: float) -> None:
        """Says hello, and again where nobody answers: the bus may be just being restarted."""
        until_s, patience_s = time.monotonic() + deadline_s, _ANSWER_S
        while (welcome := self._introduce(min(until_s, time.monotonic() + patience_s))) is None:
            patience_s *= 2
            if time.monotonic() >= until_s:
                raise BrokerError(
                    f"the bus at {self._endpoint} did not let {', '.join(self.nodes)} in: nobody "
                    "is there, the secret word or the key is wrong, or the node is there already"
                )
        self._settle_in(welcome, until_s)
        self._heard_s = time.monotonic()

    def _introduce(self, until_s: float) -> dict[str, Any] | None:
        """The steps of a hello; the welcome, or None where it has not come."""
        self._hello({})
        asked = self._answer("question", until_s)
        if asked is None:
            return None
        if self._run not in (None, asked["run"]):
            raise BrokerError(f"the bus at {self._endpoint} serves another run now")
        proof = proof_of(self._secret, asked["question"], self.nodes)
        hello: dict[str, object] = {"nodes": list(self.nodes), "proof": proof}
        if self._absence.lives:
            hello["lives"] = {self.names[one]: life for one, life in self._absence.lives.items()}
        self._hello(hello)
        return self._answer("names", until_s)

    def _hello(self, body: dict[str, object]) -> None:
        with contextlib.suppress(zmq.Again):  # a key that nobody knows: there is nobody to talk to
            send_parts(self._socket, encode([Frame(Kind.HELLO, body=pack(body))]), _NOBLOCK)

    def _answer(self, key: str, until_s: float) -> dict[str, Any] | None:
        """The bus's next hello that has this in it, if it comes."""
        while (left := until_s - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(left * 1e3))):
                break
            frames = decode(collect(self._socket))
            for place, frame in enumerate(frames):
                if frame.kind == Kind.HELLO and key in (body := unpack(frame.body)):
                    self._early += frames[place + 1 :]
                    return body
        return None

    def _settle_in(self, welcome: dict[str, Any], until_s: float) -> None:
        self._run = welcome["run"]
        self.number = int(welcome["number"])
        self.names = tuple(welcome["names"])
        self.seed = int(welcome["seed"])
        self.topology = topology_of(welcome["topology"])
        self._word = int(welcome["word"])
        if welcome["machine"] != machine():
            self._compare_clocks(until_s)
        elif welcome["shared"]:
            folder = Path(welcome["shared"])
            with contextlib.suppress(OSError):
                self._arena = Arena(folder, self.number)
                self._reader = Reader(folder)
                self._tell({"shares": True})

    def _compare_clocks(self, until_s: float) -> None:
        best_ns: int | None = None
        for _ in range(_ASKED_TIMES):
            asked_ns = time.monotonic_ns()
            self._tell({"time": True})
            while True:
                if not self._socket.poll(max(1, int((until_s - time.monotonic()) * 1e3))):
                    raise BrokerError(f"the bus at {self._endpoint} does not say what time it is")
                frames = decode(collect(self._socket))
                told = [frame for frame in frames if frame.kind == Kind.ADVANCE]
                self._early += [frame for frame in frames if frame.kind != Kind.ADVANCE]
                if told:
                    break
            now_ns = time.monotonic_ns()
            self.start_ns = told[-1].instant_ns or None
            if best_ns is None or now_ns - asked_ns < best_ns:
                best_ns = now_ns - asked_ns
                self._offset_ns = told[-1].due_ns - (now_ns + asked_ns) // 2

    def _tell(self, body: dict[str, Any]) -> None:
        """Reports something that is about this connection alone."""
        said = Frame(Kind.QUIET, body=pack(body), due_ns=self._word)
        self.send_packet(encode([said]))

    def _drop_memory(self) -> None:
        if self._arena is not None:
            self._arena.close()


def topology_of(plain: dict[str, Any]) -> Topology:
    """A topology as the bus's welcome carries it."""
    return Topology.of(
        plain["name"],
        [Node.model_validate(node) for node in plain["nodes"]],
        [Link.model_validate(link) for link in plain["links"]],
        Transport.model_validate(plain["transport"]),
    )


def a_word() -> bytes:
    """A secret word that nobody guesses."""
    return os.urandom(16)
