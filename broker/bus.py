"""The bus: the ROUTER end, where every worker's frames come in and out.

It knows which nodes live behind which socket. A frame that can't be read, that comes from a
stranger or speaks for a node that lives elsewhere is counted in the ledger and dropped, with its
reason.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import zmq

from broker.errors import FrameError, WorkerError
from broker.ledger import Ledger
from broker.wire import NOBODY, PUBLISH, Frame, Kind, collect, decode, post, unpack

_POLL_MS = 500
_PATIENT_POLLS = 120
_log = logging.getLogger(__name__)


class Bus:
    """A bound ROUTER socket and the workers that joined over it.

    `owners` gives, for each node's number, the worker it lives in; `tokens` each worker's secret.
    `alive` is asked while waiting and raises when a worker is gone. Who is waited for for long is
    named, with its nodes' `names`.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        owners: tuple[int, ...],
        tokens: tuple[bytes, ...],
        ledger: Ledger,
        alive: Callable[[], None],
        names: Sequence[str] = (),
    ) -> None:
        self._socket = socket
        self._owners = owners
        self._tokens = tokens
        self._ledger = ledger
        self._alive = alive
        self._worker_of: dict[bytes, int] = {}
        self._names = names
        self._identity_of: dict[int, bytes] = {}
        self._awaited = dict.fromkeys(range(len(tokens)))

    def send(self, worker: int, frames: Sequence[Frame]) -> None:
        """Sends frames to a worker, which is to answer. Raises WorkerError where it is gone."""
        self._awaited[worker] = None
        try:
            post(self._socket, frames, self._identity_of[worker])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._alive()
            raise WorkerError(f"worker {worker} has closed its connection") from error

    def wait_for_all(self, deadline_s: float) -> None:
        """Waits until every worker has said hello with its token."""
        until = time.monotonic() + deadline_s
        while len(self._identity_of) < len(self._tokens):
            identity, frames = self._next(until, "to join")
            for frame in frames:
                if frame.kind != Kind.HELLO:
                    self._ledger.malformed("before hello")
                    continue
                try:
                    self._admit(identity, unpack(frame.body))
                except FrameError as error:
                    self._ledger.malformed(str(error))

    def receive(self, deadline_s: float) -> tuple[int, list[Frame]]:
        """The next packet of a worker that joined, without what it may not say. Raises WorkerError
        when the deadline passes.
        """
        until = time.monotonic() + deadline_s
        while True:
            identity, frames = self._next(until, "to answer")
            worker = self._worker_of.get(identity)
            if worker is None:
                for _ in frames:
                    self._ledger.malformed("stranger")
                continue
            heard = [frame for frame in frames if self._may_say(worker, frame)]
            if heard:
                if heard[-1].kind is Kind.QUIET:
                    self._awaited.pop(worker, None)
                return worker, heard

    def _may_say(self, worker: int, frame: Frame) -> bool:
        if frame.kind is Kind.SEND:
            source, destination, owners = frame.source, frame.destination, self._owners
            nodes = len(owners)
            if (
                source < nodes
                and owners[source] == worker
                and (destination < nodes or (destination == NOBODY and frame.flags & PUBLISH))
            ):
                return True
            self._ledger.malformed("speaks for another node")
        elif frame.kind is Kind.QUIET:
            return True
        else:
            self._ledger.malformed(f"unexpected {frame.kind.name}")
        return False

    def _admit(self, identity: bytes, body: Mapping[str, object]) -> None:
        index, token = body.get("index"), body.get("token")
        if (
            not isinstance(index, int)
            or not isinstance(token, bytes)
            or not 0 <= index < len(self._tokens)
            or not hmac.compare_digest(self._tokens[index], token)
        ):
            self._ledger.malformed("wrong token")
            return
        if index in self._identity_of:
            self._ledger.malformed("second hello")
            return
        self._awaited.pop(index)
        self._identity_of[index] = identity
        self._worker_of[identity] = index

    def _next(self, until: float, what: str) -> tuple[bytes, list[Frame]]:
        silent_polls = 0
        while True:
            try:
                identity, *parts = collect(self._socket, zmq.NOBLOCK)
            except zmq.Again:
                if not self._socket.poll(_POLL_MS):
                    self._alive()
                    silent_polls += 1
                    if silent_polls == _PATIENT_POLLS:
                        silent_s = silent_polls * _POLL_MS / 1e3
                        _log.warning("%s: no answer for %.0f s", self._late(), silent_s)
                continue
            finally:
                if time.monotonic() > until:
                    raise WorkerError(f"{self._late()} took too long {what}")
            try:
                return bytes(identity), decode(parts)
            except FrameError as error:
                self._ledger.malformed(str(error))

    def _late(self) -> str:
        """The workers that have not answered, and what lives there."""
        late: list[str] = []
        for worker in self._awaited:
            here = zip(self._names, self._owners, strict=False)
            nodes = ", ".join(name for name, owner in here if owner == worker)
            late.append(f"worker {worker} ({nodes})" if nodes else f"worker {worker}")
        return " and ".join(late) or "a worker"
