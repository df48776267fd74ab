"""One session of a client at one host, as the client calls it.

A seat is taken under an attempt number of its own and is never taken again: a host that was given
up gets a later number, or none. It asks, waits for as long as there is hope, and checks what comes
back. Hope ends when the host says no, says that it has forgotten, does not answer whether it is
alive, or takes so long that another host could have done it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch

from atlas.aggregation import joined
from atlas.models import AdapterState, ProtocolError, Range
from atlas.models.tensors import Buffer, Packed, pack, unpack
from atlas.protocol import (
    ACTIVATIONS,
    ADAPTERS,
    CONTROL,
    GRADIENTS,
    RECOVERY,
    SIGNATURES,
    Alive,
    AskRoom,
    AskSnapshot,
    Backward,
    Close,
    Collect,
    Commit,
    Forward,
    HostRequest,
    Learn,
    Open,
    Refused,
    Replay,
    Sketch,
    Tensors,
    parse,
)
from atlas.roles.candidates import Candidate
from atlas.roles.pace import MOST_DOUBLINGS, Pace
from atlas.roles.patience import monotonic_s
from broker import Message, Node
from topologies import InputError


class State(TypedDict):
    """Which session a request means, and how many steps are committed there."""

    attempt: int
    first: int
    last: int
    step: int


class LostHostError(Exception):
    """The host does not do it: `reason` in plain words.

    `refused`: it has no room. `forgot`: it is there and knows nothing of the session.
    """

    def __init__(self, reason: str, *, refused: bool = False, forgot: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.refused, self.forgot, self.waited_s = reason, refused, forgot, 0.0


class Backed(NamedTuple):
    """What comes of going back: the gradient of what went in, packed, those of the parameters where
    the client keeps them, and norms of all of them where the step is to be clipped.
    """

    gradient: Packed
    parameters: AdapterState
    norms: list[float] | None


class Seat:
    """A session on layers `span` at a candidate.

    Args:
        moving_s: How long it would take to have another host where this one is: so much longer
            than a late answer is waited for, so that waiting costs at most what leaving would.
        sharing: Who shares the trunk. Then an answer may have to wait for others, and no other host
            has it: so it is waited for while the host lives.
    """

    def __init__(
        self,
        node: Node,
        pace: Pace,
        span: Range,
        candidate: Candidate,
        attempt: int,
        moving_s: Callable[[str], float],
        sharing: Sequence[str] = (),
    ) -> None:
        self._node = node
        self._pace = pace
        self._span = span
        self.where, self.host = candidate
        self._attempt = attempt
        self._moving_s = moving_s
        self.mending = True
        """Whether what is sent now is sent because of a fault, and counted so."""
        self._sharing = list(sharing)
        self.raced = bool(sharing)
        """Whether another is asked when this one is late: then it is waited for while it lives."""

    async def ask_room(self) -> None:
        """Whether the host would take the session on; who is dead does not say so."""
        await self._request(AskRoom(**self._state(0)), (), CONTROL)

    async def open(
        self, round_: int, step: int, state: AdapterState | None, frozen: AdapterState
    ) -> None:
        """Begins the session at this step of a round, from an adapter or a snapshot, on a base that
        has taken over these pairs.
        """
        given = joined(state or {}, frozen)
        manifest, buffers = pack(given) if given else (None, [])
        request = Open(**self._state(step), round=round_, manifest=manifest, sharing=self._sharing)
        await self._request(request, buffers, ADAPTERS)

    async def forward(
        self, step: int, micro: int, hidden: Packed, parameters: Mapping[str, torch.Tensor]
    ) -> Packed:
        """Hidden state in, hidden state out, packed alike; with parameters where the client keeps
        them.
        """
        manifest, buffers = hidden.with_(pack(parameters))
        request = Forward(**self._state(step), micro=micro, manifest=manifest)
        _, output, _ = await self._passed(request, buffers, ACTIVATIONS, hidden, {})
        return output

    async def backward(
        self, step: int, micro: int, gradient: Packed, parameters: AdapterState, norms: int
    ) -> Backed:
        """Gradient in, gradient out, packed alike; those of these parameters, if there are any; and
        so many norms.
        """
        manifest, buffers = gradient
        request = Backward(
            **self._state(step), micro=micro, manifest=manifest, gradients=bool(parameters)
        )
        body, back, gradients = await self._passed(
            request, buffers, GRADIENTS, gradient, parameters
        )
        if norms and len(body.norms or ()) != norms:
            raise self._nonsense(f"other than {norms} norms")
        return Backed(back, dict(zip(parameters, gradients, strict=True)), body.norms)

    async def learn(
        self, step: int, micro: int, hidden: Packed, targets: Packed, labels: int, norms: int
    ) -> tuple[float, Backed]:
        """Hidden state and targets in; the loss, and what `backward` gives."""
        manifest, buffers = hidden.with_(targets)
        request = Learn(**self._state(step), micro=micro, positions=labels, manifest=manifest)
        body, back = await self._packed(request, buffers, ACTIVATIONS)
        (sent,) = unpack(*hidden).values()
        self._unpacked(back, {"gradient": sent})
        if body.loss is None:
            raise self._nonsense("no loss")
        if norms and len(body.norms or ()) != norms:
            raise self._nonsense(f"other than {norms} norms")
        return body.loss, Backed(back, {}, body.norms)

    async def replay(
        self,
        step: int,
        micro: int,
        hidden: Packed,
        gradient: Packed,
        scale: float | None,
        labels: int | None = None,
    ) -> None:
        """Lets the host do again what another had done; `scale` is that of the commit, if it is
        time for one. With `labels` the gradient is to be found from targets.
        """
        manifest, buffers = hidden.with_(gradient)
        request = Replay(
            **self._state(step), micro=micro, scale=scale, manifest=manifest, positions=labels
        )
        await self._request(request, buffers, ACTIVATIONS)

    async def sketch(self, step: int, dimensions: int, steepness: int) -> np.ndarray:
        """The sketch, float64 [dimensions], of the gradients held; the host drops them."""
        request = Sketch(**self._state(step), dimensions=dimensions, steepness=steepness)
        reply = await self._request(request, (), SIGNATURES)
        raw = b"".join(reply.payload)
        if len(raw) != 8 * dimensions:
            raise self._nonsense(f"a sketch of {len(raw)} bytes")
        return np.frombuffer(raw, dtype=np.float64)

    async def snapshot(self, step: int, like: AdapterState) -> AdapterState:
        """The session's state after `step` steps, from which any host can go on."""
        expected = dict(like)
        for name, tensor in like.items():
            expected[f"{name}.exp_avg"] = expected[f"{name}.exp_avg_sq"] = tensor
        expected["step"] = torch.zeros(())
        request = AskSnapshot(**self._state(step))
        tensors = await self._tensors(request, (), RECOVERY, expected)
        return {name: tensor.clone() for name, tensor in zip(expected, tensors, strict=True)}

    async def collect(self, step: int, like: AdapterState) -> AdapterState:
        """The adapter after `step` steps."""
        tensors = await self._tensors(Collect(**self._state(step)), (), ADAPTERS, like)
        return {name: tensor.clone() for name, tensor in zip(like, tensors, strict=True)}

    async def commit(self, step: int, scale: float) -> None:
        """Lets the host apply a step. What comes next says whether it did.

        Raises LostHostError when it could not even be sent: a cut way is full before long.
        """
        deadline_s = self._pace.deadline_s(self.host, "alive?") + self._moving_s(self.host)
        try:
            async with asyncio.timeout(deadline_s):
                header = Commit(**self._state(step), scale=scale).header()
                await self._node.send(self.host, header, purpose=CONTROL)
        except TimeoutError:
            raise self._late("commit", deadline_s) from None

    async def close(self) -> None:
        """Lets the host forget the session. May take as long as the way is cut."""
        await self._node.send(self.host, Close(**self._state(0)).header(), purpose=CONTROL)

    # Asking.

    def _state(self, step: int) -> State:
        return {
            "attempt": self._attempt,
            "first": self._span.first,
            "last": self._span.last,
            "step": step,
        }

    async def _tensors(
        self,
        request: HostRequest,
        payload: Sequence[Buffer],
        purpose: str,
        like: Mapping[str, torch.Tensor],
    ) -> list[torch.Tensor]:
        """The answer's tensors, in the order of `like`, of its names, shapes and dtypes."""
        _, packed = await self._packed(request, payload, purpose)
        return self._unpacked(packed, like)

    async def _passed(
        self,
        request: HostRequest,
        payload: Sequence[Buffer],
        purpose: str,
        sent: Packed,
        like: Mapping[str, torch.Tensor],
    ) -> tuple[Tensors, Packed, list[torch.Tensor]]:
        """The answer; what comes of the tensor sent, packed alike, to go on as it is; and tensors
        as `_tensors` gives them.
        """
        body, packed = await self._packed(request, payload, purpose)
        passed, others = packed.parted(1)
        if passed.manifest != sent.manifest:
            raise self._nonsense(f"{passed.manifest} where {sent.manifest} belongs")
        self._checked(passed)
        return body, passed, self._unpacked(others, like)

    async def _packed(
        self, request: HostRequest, payload: Sequence[Buffer], purpose: str
    ) -> tuple[Tensors, Packed]:
        reply = await self._request(request, payload, purpose)
        body = parse(reply)
        if not isinstance(body, Tensors):
            raise self._nonsense(f"{body.kind!r} where tensors belong")
        return body, Packed(body.manifest, reply.payload)

    def _checked(self, packed: Packed) -> AdapterState:
        try:
            return unpack(*packed)
        except ProtocolError as error:
            raise self._nonsense(str(error)) from None

    def _unpacked(self, packed: Packed, like: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        tensors = self._checked(packed)
        if tensors.keys() != like.keys():
            raise self._nonsense("other tensors than it was asked for")
        for name, tensor in tensors.items():
            if tensor.shape != like[name].shape or tensor.dtype != like[name].dtype:
                raise self._nonsense(f"{name} in another shape")
        return [tensors[name] for name in like]

    async def _request(
        self, request: HostRequest, payload: Sequence[Buffer], purpose: str
    ) -> Message:
        """The answer, or LostHostError as soon as hope ends."""
        size = sum(len(part) for part in payload)
        purpose = RECOVERY if self.mending and purpose not in (CONTROL, SIGNATURES) else purpose
        asked_s = monotonic_s()
        try:
            if isinstance(request, AskRoom):
                return await self._ask(request, payload, purpose, size)
            return await self._ask_and_feel_pulse(request, payload, purpose, size)
        except LostHostError as lost:
            lost.waited_s = monotonic_s() - asked_s
            raise

    async def _ask_and_feel_pulse(
        self, request: HostRequest, payload: Sequence[Buffer], purpose: str, size: int
    ) -> Message:
        loop = asyncio.get_running_loop()
        pulse_s = self._pace.pulse_s(self.host, request.kind, size)
        answer = loop.create_task(self._ask(request, payload, purpose, size))
        pulse: asyncio.Task[Message] | None = None
        try:
            while not (await asyncio.wait([answer], timeout=pulse_s))[0]:
                alive = Alive(**self._state(request.step))
                pulse = loop.create_task(self._ask(alive, (), CONTROL, size))
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
        self, request: HostRequest, payload: Sequence[Buffer], purpose: str, size: int
    ) -> Message:
        """One question. `size`: the bytes that go with it, or that are on the way before it."""
        asked_s = monotonic_s()
        deadline_s = self._pace.deadline_s(self.host, request.kind, size)
        if not isinstance(request, AskRoom | Alive):
            deadline_s += self._moving_s(self.host)
            deadline_s *= 2.0**MOST_DOUBLINGS if self.raced else 1.0
        try:
            reply = await self._node.request(
                self.host, request.header(), payload, purpose=purpose, timeout=deadline_s
            )
        except TimeoutError:
            raise self._late(request.kind, deadline_s) from None
        try:
            body = parse(reply)
        except InputError as error:
            raise self._nonsense(str(error)) from None
        if isinstance(body, Refused):
            raise LostHostError(body.reason, refused=not body.missing, forgot=body.missing)
        self._pace.measured(self.host, request.kind, size, monotonic_s() - asked_s)
        return reply

    def _late(self, kind: str, waited_s: float) -> LostHostError:
        self._pace.missed(kind)
        lost = LostHostError("no answer")
        lost.waited_s = waited_s
        return lost

    def _nonsense(self, what: str) -> LostHostError:
        """What it sent is not what the protocol allows: told, and the host is given up."""
        self._node.note("malformed", source=self.host, problem=what)
        return LostHostError(f"it sent {what}")
