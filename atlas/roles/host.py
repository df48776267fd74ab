"""A device as host: layers it runs for clients, and nothing it decides by itself.

A session is one client's LoRA on one span. It computes what it is asked and keeps gradients until
the client commits the step; every request says how many steps it believes committed, and one that
is wrong, or comes from an attempt that the client has given up, is refused. So a step happens here
once or not at all, and a host that lost its memory can't pretend otherwise.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from atlas.models import ProtocolError, Range, Session, Stage, costs
from atlas.models.tensors import pack, unpack
from atlas.protocol import (
    ACTIVATIONS,
    ADAPTERS,
    CONTROL,
    GRADIENTS,
    SIGNATURES,
    Accepted,
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
)
from atlas.roles.settings import RunSettings
from atlas.schedule import rate
from atlas.semantics import sketch
from broker import DeviceMemoryError, Message, Node, Reservation
from broker.disk import READ_BYTES_PER_SECOND

Key = tuple[str, int, int]
Phase = Literal["idle", "gone forward", "gone back"]
ADAM_FLOPS = 12.0
"""Operations of AdamW per parameter."""
NORM_FLOPS = 2.0
"""Operations of a norm per gradient."""
SKETCH_FLOPS = 2.0
"""Operations of a sketch per gradient."""
IDLE_S = 900.0
"""A session unused for so long makes room for a newcomer."""


@dataclass
class _Hosted:
    """One client's session on one span, and what it holds.

    `version` counts the steps committed, `micro` the micro-batches of the next whose gradients are
    held.
    """

    client: str
    round: int
    attempt: int
    session: Session
    memory: Reservation
    used_s: float
    version: int = 0
    micro: int = 0
    phase: Phase = "idle"
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class _Base:
    """The frozen layers of one span, shared by all sessions on it, on their way from the disk.

    `users` counts the sessions on it, those that are being opened among them.
    """

    stage: asyncio.Task[Stage]
    memory: Reservation
    users: int = 0


class Host:
    """Serves clients' requests on this node."""

    def __init__(self, node: Node, settings: RunSettings) -> None:
        self._node = node
        self._settings = settings
        self._hosted: dict[Key, _Hosted] = {}
        self._opening: set[tuple[Key, int]] = set()
        self._bases: dict[Range, _Base] = {}
        self._given_up: dict[Key, int] = {}
        node.on_crash(self._let_go)

    async def serve(self, message: Message, request: HostRequest) -> None:
        """Does what a client asks. Requests of one session are served in the order they came."""
        key = (message.source, request.first, request.last)
        try:
            match request:
                case AskRoom():
                    await self._tell_room(message, key)
                case Alive():
                    await self._tell_alive(message, key, request.attempt)
                case Open():
                    self._opening.add((key, request.attempt))
                    try:
                        await self._open(message, key, request)
                    finally:
                        self._opening.discard((key, request.attempt))
                case Close():
                    await self._close(key, request.attempt)
                case _:
                    await self._step(message, key, request)
        except _RefusalError as no:
            await self._refuse(message, request, no.reason, missing=no.missing)
        except (DeviceMemoryError, ProtocolError) as error:
            await self._refuse(message, request, str(error))

    async def _refuse(
        self, message: Message, request: HostRequest, reason: str, *, missing: bool = False
    ) -> None:
        if not isinstance(request, Commit | Close):
            refusal = Refused(reason=reason, missing=missing)
            await message.reply(refusal.header(), purpose=CONTROL)

    # Sessions that come and go.

    async def _open(self, message: Message, key: Key, request: Open) -> None:
        """Takes a session on; all its memory is reserved before anything is read from the disk."""
        known = self._hosted.get(key)
        if known is not None and known.attempt < request.attempt:
            await self._close(key, known.attempt)
        self._refuse_given_up(key, request.attempt)
        cost = self._settings.span_cost(Range(*key[1:]))
        memory = self._reserve(cost.session_bytes, f"a session of {message.source}")
        try:
            base = self._take_base(Range(*key[1:]), cost.base_bytes)
            try:
                session = await self._begin(base, message, request)
                self._refuse_given_up(key, request.attempt)
            except BaseException:
                base.users -= 1
                raise
        except BaseException:
            memory.release()
            raise
        self._hosted[key] = _Hosted(
            message.source, request.round, request.attempt, session, memory, self._node.now
        )
        await message.reply(Accepted().header(), purpose=CONTROL)

    async def _tell_alive(self, message: Message, key: Key, attempt: int) -> None:
        """Whether that session is here, or on its way."""
        hosted = self._hosted.get(key)
        if (key, attempt) not in self._opening and (hosted is None or hosted.attempt != attempt):
            raise _RefusalError("no such session here", missing=True)
        await message.reply(Accepted().header(), purpose=CONTROL)

    async def _begin(self, base: _Base, message: Message, request: Open) -> Session:
        stage = await base.stage
        adapter = (
            self._settings.initial_adapter()
            if request.manifest is None
            else unpack(request.manifest, message.payload)
        )
        training = self._settings.training
        return await self._node.compute(
            lambda: Session(
                stage,
                adapter,
                learning_rate=training.learning_rate,
                weight_decay=training.weight_decay,
            ),
            flops=0,
        )

    async def _close(self, key: Key, attempt: int) -> None:
        """Forgets this attempt and all before it, also one that is still being opened."""
        self._given_up[key] = max(self._given_up.get(key, -1), attempt)
        hosted = self._hosted.get(key)
        if hosted is not None and hosted.attempt <= attempt:
            async with hosted.turn:
                if self._hosted.get(key) is hosted:
                    self._forget(key)

    def _refuse_given_up(self, key: Key, attempt: int) -> None:
        if self._given_up.get(key, -1) >= attempt:
            raise _RefusalError("a later attempt was made", missing=True)

    def _forget(self, key: Key) -> None:
        self._hosted.pop(key).memory.release()
        self._bases[Range(*key[1:])].users -= 1

    def _let_go(self) -> None:
        """What a crash takes, at once: the tasks that hold it are kept until the run ends."""
        self._hosted.clear()
        self._opening.clear()
        self._bases.clear()

    # Memory.

    async def _tell_room(self, message: Message, key: Key) -> None:
        """Whether the span would fit, with all that would make room for it gone."""
        span = Range(*key[1:])
        cost = self._settings.span_cost(span)
        needed = cost.session_bytes + (0 if span in self._bases else cost.base_bytes)
        leaving = [other for other in self._hosted if other == key or other in self._stale()]
        free = self._node.memory_bytes - self._node.reserved_bytes
        free += sum(self._hosted[other].memory.size_bytes for other in leaving)
        for held, base in self._bases.items():
            staying = base.users - sum(Range(*other[1:]) == held for other in leaving)
            free += base.memory.size_bytes if staying == 0 and held != span else 0
        if needed > free:
            layers = f"layers {span.first}-{span.last - 1}"
            raise _RefusalError(f"{layers} need {needed:,} bytes and {free:,} are free")
        await message.reply(Accepted().header(), purpose=CONTROL)

    def _take_base(self, span: Range, size_bytes: int) -> _Base:
        """The span's frozen layers, on their way from the disk unless they are here."""
        base = self._bases.get(span)
        if base is None:
            memory = self._reserve(size_bytes, f"layers {span.first}-{span.last - 1}")
            loading = asyncio.get_running_loop().create_task(self._load(span, size_bytes))
            base = self._bases[span] = _Base(loading, memory)
        base.users += 1
        return base

    async def _load(self, span: Range, size_bytes: int) -> Stage:
        await asyncio.sleep(size_bytes / READ_BYTES_PER_SECOND)
        settings = self._settings
        return await self._node.compute(
            lambda: Stage.load(settings.spec, span, lora=settings.lora), flops=0
        )

    def _reserve(self, size_bytes: int, purpose: str) -> Reservation:
        """Memory for a newcomer. Layers that nobody uses make room at need, then stale sessions."""
        while True:
            try:
                return self._node.reserve(size_bytes, purpose)
            except DeviceMemoryError:
                unused = [span for span, base in self._bases.items() if base.users == 0]
                if unused:
                    self._bases.pop(unused[0]).memory.release()
                elif stale := self._stale():
                    self._forget(stale[0])
                else:
                    raise

    def _stale(self) -> list[Key]:
        """Sessions that were not used for long, the longest first."""
        unused = [
            (hosted.used_s, key)
            for key, hosted in self._hosted.items()
            if self._node.now - hosted.used_s > IDLE_S and not hosted.turn.locked()
        ]
        return [key for _, key in sorted(unused)]

    # Steps.

    async def _step(self, message: Message, key: Key, request: HostRequest) -> None:
        hosted = self._hosted.get(key)
        if hosted is None or hosted.attempt != request.attempt:
            raise _RefusalError("no such session here", missing=True)
        async with hosted.turn:
            if self._hosted.get(key) is not hosted:
                raise _RefusalError("the session was closed", missing=True)
            if hosted.version != request.step:
                raise _RefusalError(
                    f"{hosted.version} steps are committed here, not {request.step}", missing=True
                )
            hosted.used_s = self._node.now
            await self._answer(message, hosted, request)

    async def _answer(self, message: Message, hosted: _Hosted, request: HostRequest) -> None:
        session = hosted.session
        match request:
            case Forward():
                hidden = self._tensor(message, request)
                output = await self._forward(hosted, request.micro, hidden)
                await self._send(message, {"hidden": output}, ACTIVATIONS)
            case Backward():
                gradient = self._tensor(message, request)
                back = await self._backward(hosted, request.micro, gradient)
                held = await self._norms(hosted)
                await self._send(message, {"gradient": back}, GRADIENTS, norms=held)
            case Replay():
                tensors = unpack(request.manifest, message.payload)
                if set(tensors) != {"hidden", "gradient"}:
                    raise ProtocolError(f"{message.source} replays without hidden and gradient")
                await self._forward(hosted, request.micro, tensors["hidden"])
                await self._backward(hosted, request.micro, tensors["gradient"])
                if request.scale is not None:
                    await self._commit(hosted, request.scale)
                await message.reply(Accepted().header(), purpose=CONTROL)
            case Commit():
                await self._commit(hosted, request.scale)
            case Sketch():
                self._expect(hosted, "gone back")
                spec, lora = self._settings.spec, self._settings.lora
                size = costs.lora_parameters(spec, lora, session.stage.range)
                values = await self._node.compute(
                    lambda: sketch(
                        session.gradients(),
                        dimensions=request.dimensions,
                        seed=self._settings.seed,
                    ),
                    flops=SKETCH_FLOPS * size,
                )
                session.discard()
                hosted.micro, hosted.phase = 0, "idle"
                payload = [np.ascontiguousarray(values, dtype=np.float32).tobytes()]
                await message.reply(Accepted().header(), payload, purpose=SIGNATURES)
            case Collect():
                await self._send(message, session.adapter(), ADAPTERS)

    async def _forward(self, hosted: _Hosted, micro: int, hidden: torch.Tensor) -> torch.Tensor:
        """Runs a micro-batch; the first of a step begins the step again."""
        session = hosted.session
        if micro == 0:
            session.discard()
            hosted.micro, hosted.phase = 0, "idle"
        else:
            self._expect(hosted, "gone back")
        self._expect_micro(hosted, micro)
        shape = (hidden.shape[0], hidden.shape[1])
        spec, lora = self._settings.spec, self._settings.lora
        flops = costs.forward_flops(spec, lora, session.stage.range, *shape)
        draws = self._settings.draws(hosted.client, hosted.round, hosted.version, micro)
        output = await self._node.compute(lambda: session.forward(hidden, draws), flops=flops)
        hosted.phase = "gone forward"
        return output

    async def _backward(self, hosted: _Hosted, micro: int, gradient: torch.Tensor) -> torch.Tensor:
        self._expect(hosted, "gone forward")
        self._expect_micro(hosted, micro)
        session = hosted.session
        shape = (gradient.shape[0], gradient.shape[1])
        spec, lora = self._settings.spec, self._settings.lora
        flops = costs.backward_flops(spec, lora, session.stage.range, *shape)
        back = await self._node.compute(lambda: session.backward(gradient), flops=flops)
        hosted.micro += 1
        hosted.phase = "gone back"
        assert back is not None, "only the client's own part has nothing in front of it"
        return back

    async def _norms(self, hosted: _Hosted) -> list[float] | None:
        """Norms of the gradients held, where the client needs them to clip the step."""
        training, session = self._settings.training, hosted.session
        if training.clip is None or hosted.micro < training.accumulate:
            return None
        size = costs.lora_parameters(self._settings.spec, self._settings.lora, session.stage.range)
        held = await self._node.compute(session.norms, flops=NORM_FLOPS * size)
        return list(held.values())

    async def _commit(self, hosted: _Hosted, scale: float) -> None:
        self._expect(hosted, "gone back")
        spec, lora, training = self._settings.spec, self._settings.lora, self._settings.training
        session, now = hosted.session, rate(training, hosted.round, hosted.version)
        size = costs.lora_parameters(spec, lora, session.stage.range)
        await self._node.compute(lambda: session.commit(scale, now), flops=ADAM_FLOPS * size)
        hosted.version += 1
        hosted.micro, hosted.phase = 0, "idle"

    def _expect(self, hosted: _Hosted, phase: Phase) -> None:
        if hosted.phase != phase:
            raise _RefusalError(f"the step has not {phase} here")

    def _expect_micro(self, hosted: _Hosted, micro: int) -> None:
        if hosted.micro != micro:
            raise _RefusalError(
                f"{hosted.micro} micro-batches of the step are held here, not {micro}", missing=True
            )

    def _tensor(self, message: Message, request: Forward | Backward) -> torch.Tensor:
        tensors = unpack(request.manifest, message.payload)
        if len(tensors) != 1:
            raise ProtocolError(f"{message.source} sent {len(tensors)} tensors where one belongs")
        return next(iter(tensors.values()))

    async def _send(
        self,
        message: Message,
        tensors: dict[str, torch.Tensor],
        purpose: str,
        *,
        norms: list[float] | None = None,
    ) -> None:
        manifest, buffers = pack(tensors)
        body = Tensors(manifest=manifest, norms=norms)
        await message.reply(body.header(), buffers, purpose=purpose)


class _RefusalError(Exception):
    """A request that can't be served."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        self.reason, self.missing = reason, missing
