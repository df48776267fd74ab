"""A client's side of one span: a host that works, whatever happens to hosts.

The client keeps what it sent in this round, the hidden state and the gradient of each step. When
the host is gone, late or has forgotten, the next candidate begins where the round began and replays
the steps that were committed; then the request is asked again. Candidates are the host of the plan,
its stand-ins in the neighborhood, and then hosts of other neighborhoods, the nearest first. A
host's state is a function of what was sent to it, so the one that comes out is the one that would
have been.

Deadlines come from measured times: a multiple of the longest that this kind of request has taken,
and of the planned time until there is a measurement. While an answer takes long, the host is asked
whether it still has the session: one that died is known within seconds, however long it might have
computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np
import torch

from atlas.models import AdapterState, ProtocolError, Range
from atlas.models.tensors import pack, unpack
from atlas.protocol import (
    ACTIVATIONS,
    ADAPTERS,
    CONTROL,
    GRADIENTS,
    PATIENCE_S,
    SIGNATURES,
    Alive,
    AskRoom,
    Backward,
    Close,
    Collect,
    Commit,
    Forward,
    HostRequest,
    Open,
    Refused,
    Replay,
    Sketch,
    Tensors,
    UnansweredError,
    parse,
)
from broker import Message, Node

PAUSE_S = 15.0
"""How long it waits before it goes through all candidates again."""
SHUN_S = 30.0
"""How long a host that was late or gone is tried only after all others."""

PULSE_S = 5.0
"""How often a host that has not answered yet is asked whether it is alive."""

FACTOR = 6.0
"""How many times what is expected a host may take. Twice would do; false alarms cost replays."""

Where = Literal["plan", "neighborhood", "elsewhere"]
T = TypeVar("T")


@dataclass
class Pace:
    """Deadlines by kind of request: a second, and `FACTOR` times what it is expected to take.

    That is the longest that one has taken; what `planned_s` says before there is one, and at least
    that for those whose time depends on what else the host or the way is busy with (`open`,
    `alive?`, which comes behind what was sent before it). As a retransmission timer does, it
    doubles with each deadline missed until an answer comes that says something of the time a step
    takes: the way may have become slow.
    """

    planned_s: Mapping[str, float]
    longest_s: dict[str, float] = field(default_factory=dict)
    missed: int = 0

    def deadline_s(self, kind: str) -> float:
        """How long to wait for an answer to a request of this kind."""
        planned_s = self.planned_s[kind]
        expected_s = self.longest_s.get(kind, planned_s)
        if kind in ("open", "alive?"):
            expected_s = max(expected_s, planned_s)
        return 1.0 + FACTOR * expected_s * 2.0 ** min(self.missed, 6)

    def measured(self, kind: str, seconds: float) -> None:
        """An answer came after `seconds`."""
        self.longest_s[kind] = max(self.longest_s.get(kind, 0.0), seconds)
        if kind not in ("room?", "alive?", "open"):
            self.missed = 0

    def late(self, kind: str) -> None:
        """No answer came in time. To be asked for room is no measure: it is only a few bytes."""
        if kind != "room?":
            self.missed += 1


class Shunned:
    """Hosts that were late or gone lately, shared by all of a client's spans."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def add(self, host: str, now_s: float) -> None:
        """Tries `host` after all others for a while."""
        self._until_s[host] = now_s + SHUN_S

    def __call__(self, host: str, now_s: float) -> bool:
        return self._until_s.get(host, 0.0) > now_s


class State(TypedDict):
    """Which session a request means, and how many steps are committed there."""

    attempt: int
    first: int
    last: int
    step: int


@dataclass
class _Sent:
    """What a host was sent of one step, micro-batch by micro-batch, and how it was committed."""

    hidden: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    scale: float = 1.0


class _LostHostError(Exception):
    """The host does not do it: `reason` in plain words, and whether it was only that it has no
    room.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        self.reason, self.refused, self.waited_s = reason, refused, 0.0


class SpanCaller:
    """Calls whoever hosts layers `span` for this client.

    Args:
        candidates: (where, host) in the order in which they are tried.
        pace: How long to wait for them.
        shunned: Whom to try last.
        attempts: Gives a greater number each time, over all of the client's lives.
        changed: Told whenever another host has taken the span on.
    """

    def __init__(
        self,
        node: Node,
        span: Range,
        candidates: Sequence[tuple[Where, str]],
        *,
        pace: Pace,
        shunned: Shunned,
        attempts: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        self._node = node
        self.span = span
        self._candidates = list(candidates)
        self._pace = pace
        self._shunned = shunned
        self._attempts = attempts
        self._changed = changed
        self.host: str | None = None
        self._before: str | None = None
        self._lost: str | None = None
        self._attempt = 0
        self._round = 0
        self._version = 0
        self._adapter: AdapterState | None = None
        self._committed: list[_Sent] = []
        self._sent = _Sent()
        self.norms: list[float] | None = None

    # A round, as the client sees it.

    async def begin(self, round_: int, adapter: AdapterState | None) -> None:
        """Starts a round from this adapter (None: the one that all start from), at home at best."""
        self._round, self._version, self._adapter = round_, 0, adapter
        self._committed, self._sent = [], _Sent()
        await self._insist(_nothing)

    async def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden state in, hidden state out, [b, t, h]: the next micro-batch of the step."""
        self._sent.hidden.append(hidden)
        return await self._insist(self._forward)

    async def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient in, gradient out, [b, t, h].

        Where the step is to be clipped, `norms` of its gradients are known after its last one.
        """
        self._sent.gradients.append(gradient)
        return await self._insist(self._backward, redo=(self._forward,))

    async def sketch(self, dimensions: int) -> np.ndarray:
        """The sketch, float32 [dimensions], of the gradients held; the host drops them, and so does
        this.
        """

        async def ask() -> np.ndarray:
            request = Sketch(**self._state(), dimensions=dimensions)
            reply = await self._request(request, (), SIGNATURES)
            raw = b"".join(reply.payload)
            if len(raw) != 4 * dimensions:
                raise ProtocolError(f"{self.host} sent a sketch of {len(raw)} bytes")
            return np.frombuffer(raw, dtype=np.float32)

        values = await self._insist(ask, redo=(self._forward, self._backward))
        self._sent = _Sent()
        return values

    async def commit(self, scale: float) -> None:
        """Lets the host apply the step, times `scale`. What comes next says whether it did."""
        if self.host is not None:
            await self._send(Commit(**self._state(), scale=scale))
        self._sent.scale = scale
        self._committed.append(self._sent)
        self._sent = _Sent()
        self._version += 1

    async def collect(self) -> AdapterState:
        """The span's adapter after the steps committed; the session is closed."""

        async def ask() -> AdapterState:
            reply = await self._request(Collect(**self._state()), (), ADAPTERS)
            return {name: tensor.clone() for name, tensor in _tensors(reply).items()}

        adapter = await self._insist(ask)
        await self.close()
        return adapter

    async def close(self) -> None:
        """Lets the host forget the session."""
        if self.host is not None:
            await self._send(Close(**self._state()))
            self._before, self.host = self.host, None

    # Hosts that come and go.

    async def _insist(
        self,
        call: Callable[[], Awaitable[T]],
        redo: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> T:
        """The answer to `call`, from whichever host gives it.

        `redo` is what a new host has to be asked again first, beside the steps committed.
        """
        until = self._node.now + PATIENCE_S
        while True:
            try:
                if self.host is None:
                    await self._find(until)
                    for again in redo:
                        await again()
                return await call()
            except _LostHostError as lost:
                await self._lose(lost)

    async def _find(self, until_s: float) -> None:
        """Opens a session at the first candidate that takes it, and brings it up to date."""
        while self._node.now < until_s:
            now = self._node.now
            for where, host in sorted(
                self._candidates, key=lambda candidate: self._shunned(candidate[1], now)
            ):
                self.host, self._attempt = host, self._attempts()
                try:
                    await self._request(AskRoom(**self._state(version=0)), (), CONTROL)
                    await self._open()
                    await self._replay()
                except _LostHostError as lost:
                    await self._lose(lost)
                    continue
                self._tell(where, host)
                return
            await asyncio.sleep(PAUSE_S)
        raise UnansweredError(
            f"{self._node.name} found no host for layers {self.span.first}-{self.span.last - 1} in "
            f"{PATIENCE_S:,.0f} s; it asked {', '.join(host for _, host in self._candidates)}"
        )

    async def _open(self) -> None:
        manifest, buffers = (None, []) if self._adapter is None else pack(self._adapter)
        request = Open(**self._state(version=0), round=self._round, manifest=manifest)
        await self._request(request, buffers, ADAPTERS)

    async def _replay(self) -> None:
        """Lets the new host do again what was done: the same inputs, so the same state.

        That is what was committed, and of the step begun all micro-batches but the one at hand.
        """
        for step, sent in enumerate(self._committed):
            for micro in range(len(sent.hidden)):
                last = micro == len(sent.hidden) - 1
                await self._repeat(sent, step, micro, sent.scale if last else None)
        for micro in range(len(self._sent.hidden) - 1):
            await self._repeat(self._sent, self._version, micro, None)

    async def _repeat(self, sent: _Sent, step: int, micro: int, scale: float | None) -> None:
        tensors = {"hidden": sent.hidden[micro], "gradient": sent.gradients[micro]}
        manifest, buffers = pack(tensors)
        request = Replay(**self._state(version=step), micro=micro, scale=scale, manifest=manifest)
        await self._request(request, buffers, ACTIVATIONS)

    async def _lose(self, lost: _LostHostError) -> None:
        """Gives the host up, and tells it so. Late ones are asked last for a while."""
        assert self.host is not None
        host, self.host = self.host, None
        self._lost = self._lost or host
        if not lost.refused:
            self._shunned.add(host, self._node.now)
        event = "refused" if lost.refused else "suspected"
        fields: dict[str, Any] = {
            "client": self._node.name,
            "host": host,
            "reason": lost.reason,
        }
        if not lost.refused:
            fields["waited_s"] = lost.waited_s
        self._node.note(event, **fields)
        close = Close(**self._state())
        await self._node.send(host, close.header(), purpose=CONTROL)

    def _tell(self, where: Where, host: str) -> None:
        place = {"first": self.span.first, "last": self.span.last, "host": host}
        common = {"client": self._node.name, "round": self._round, **place}
        if self._lost is not None:
            self._node.note(
                "repaired",
                **common,
                step=self._version,
                lost=self._lost,
                replayed=self._version,
                fallback=where == "elsewhere",
            )
        elif self._before not in (None, host):
            self._node.note("moved", **common)
        self._lost = None
        self._changed()

    # Requests.

    def _state(self, version: int | None = None) -> State:
        return {
            "attempt": self._attempt,
            "first": self.span.first,
            "last": self.span.last,
            "step": self._version if version is None else version,
        }

    async def _forward(self) -> torch.Tensor:
        micro = len(self._sent.hidden) - 1
        manifest, buffers = pack({"hidden": self._sent.hidden[micro]})
        request = Forward(**self._state(), micro=micro, manifest=manifest)
        return _only(await self._request(request, buffers, ACTIVATIONS))

    async def _backward(self) -> torch.Tensor:
        micro = len(self._sent.gradients) - 1
        manifest, buffers = pack({"gradient": self._sent.gradients[micro]})
        request = Backward(**self._state(), micro=micro, manifest=manifest)
        reply = await self._request(request, buffers, GRADIENTS)
        body = parse(reply)
        self.norms = body.norms if isinstance(body, Tensors) else None
        return _only(reply)

    async def _send(self, request: HostRequest) -> None:
        assert self.host is not None
        await self._node.send(self.host, request.header(), purpose=CONTROL)

    async def _request(
        self, request: HostRequest, payload: Sequence[memoryview], purpose: str
    ) -> Message:
        """One request to the host of now. Raises _LostHostError when it is late or refuses."""
        asked_s = self._node.now
        try:
            if isinstance(request, AskRoom):
                return await self._ask(request, payload, purpose)
            return await self._ask_and_feel_pulse(request, payload, purpose)
        except _LostHostError as lost:
            lost.waited_s = self._node.now - asked_s
            raise

    async def _ask_and_feel_pulse(
        self, request: HostRequest, payload: Sequence[memoryview], purpose: str
    ) -> Message:
        """The answer, or _LostHostError as soon as the host is known to be dead or to have
        forgotten.
        """
        loop = asyncio.get_running_loop()
        answer = loop.create_task(self._ask(request, payload, purpose))
        pulse: asyncio.Task[Message] | None = None
        try:
            while not (await asyncio.wait([answer], timeout=PULSE_S))[0]:
                pulse = loop.create_task(self._ask(Alive(**self._state(request.step)), (), CONTROL))
                await asyncio.wait([answer, pulse], return_when=asyncio.FIRST_COMPLETED)
                if not answer.done():
                    pulse.result()
            return answer.result()
        finally:
            ending = [task for task in (answer, pulse) if task is not None]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _ask(
        self, request: HostRequest, payload: Sequence[memoryview], purpose: str
    ) -> Message:
        assert self.host is not None
        asked_s = self._node.now
        deadline_s = self._pace.deadline_s(request.kind)
        try:
            reply = await self._node.request(
                self.host, request.header(), payload, purpose=purpose, timeout=deadline_s
            )
        except TimeoutError:
            self._pace.late(request.kind)
            raise _LostHostError("no answer") from None
        body = parse(reply)
        if isinstance(body, Refused):
            raise _LostHostError(body.reason, refused=not body.missing)
        self._pace.measured(request.kind, self._node.now - asked_s)
        return reply


async def _nothing() -> None:
    """What a round's beginning asks for beyond a host that has opened a session."""


def _tensors(reply: Message) -> dict[str, torch.Tensor]:
    body = parse(reply)
    if not isinstance(body, Tensors):
        raise ProtocolError(f"{reply.source} answered {body.kind!r} where tensors belong")
    return unpack(body.manifest, reply.payload)


def _only(reply: Message) -> torch.Tensor:
    tensors = _tensors(reply)
    if len(tensors) != 1:
        raise ProtocolError(f"{reply.source} sent {len(tensors)} tensors where one belongs")
    return next(iter(tensors.values()))
