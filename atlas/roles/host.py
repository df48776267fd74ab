"""A device as host: layers it runs for clients, and nothing it decides by itself.

A session is one client's LoRA on one span. It computes what it is asked and keeps gradients until
the client commits the step; every request says how many steps it believes committed, and one that
is wrong, or comes from an attempt that the client has given up, is refused. So a step happens here
once or not at all, and a host that lost its memory can't pretend otherwise. What is malformed is
noted and refused.

                 forward 0     backward 0     forward 1          backward m-1      commit
    step n, idle ─────────→ half 1 ─────→ half 2 ─────→ half 3 … ────────→ half 2m ─────→ step n+1

Forward of micro-batch 0 begins the step again from any half; a replay is a forward and a backward,
and a commit where it has a scale. All else is refused where it does not belong.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from atlas.aggregation import parted
from atlas.journal import begin, load
from atlas.models import AdapterState, ProtocolError, Range, Session, Stage, costs
from atlas.models.tensors import Packed, pack, touched, unpack, written
from atlas.pairing import SpanCost
from atlas.protocol import (
    CONTROL,
    Accepted,
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
    Manifest,
    Open,
    Refused,
    Replay,
    Sketch,
    Tensors,
)
from atlas.roles.memory import HostMemory, Key, span_of
from atlas.roles.patience import monotonic_s
from atlas.roles.settings import RunSettings
from atlas.roles.trunk import Trunk
from atlas.schedule import rate
from atlas.semantics import sketch
from broker import DeviceMemoryError, Message, Node, Reservation
from broker.disk import READ_BYTES_PER_SECOND

ADAM_FLOPS = 12.0
"""Operations of AdamW per parameter."""
NORM_FLOPS = 2.0
"""Operations of a norm per gradient."""
SKETCH_FLOPS = 2.0
"""Operations of a sketch per gradient."""


@dataclass
class _Hosted:
    """One client's session on one span, and what it holds.

    `version` counts the steps committed, `halves` the halves of the next that were computed:
    forward and backward of each micro-batch. A `bare` one waits for parameters. `frozen` is what
    the base has taken over.
    """

    client: str
    round: int
    attempt: int
    stage: Stage
    session: Session
    memory: Reservation
    used_s: float
    version: int = 0
    halves: int = 0
    bare: bool = False
    frozen: AdapterState = field(default_factory=dict)
    trunk: Trunk | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def busy(self) -> bool:
        """Whether a request of it is being served."""
        return self.turn.locked()


class Host:
    """Serves clients' requests on this node."""

    def __init__(self, node: Node, settings: RunSettings) -> None:
        self._node = node
        self._settings = settings
        self._hosted: dict[Key, _Hosted] = {}
        self._opening: dict[Key, int] = {}
        self._passed: dict[Key, int] = {}
        self._memory = HostMemory(node, self._hosted, self._give_up)
        self._trunks: dict[str, Trunk] = {}
        self._head: asyncio.Task[Session] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        node.on_crash(self._let_go)

    async def serve(self, message: Message, request: HostRequest) -> None:
        """Does what a client asks. Requests of one session are served in the order they came."""
        key = (message.source, request.first, request.last)
        try:
            if request.last > self._settings.spec.layers:
                raise ProtocolError(f"the model has no layer {request.last - 1}")
            match request:
                case AskRoom():
                    self._memory.require_room(key, self._settings.span_cost(span_of(key)))
                    await message.reply(Accepted().header(), purpose=CONTROL)
                case Alive():
                    await self._tell_alive(message, key, request.attempt)
                case Open():
                    await self._open(message, key, request)
                case Close():
                    await self._close(key, request.attempt)
                case _:
                    await self._step(message, key, request)
        except _RefusalError as no:
            await self._refuse(message, request, no.reason, missing=no.missing)
        except DeviceMemoryError as error:
            await self._refuse(message, request, str(error))
        except ProtocolError as error:
            self._node.note("malformed", source=message.source, problem=str(error))
            await self._refuse(message, request, str(error))

    async def _refuse(
        self, message: Message, request: HostRequest, reason: str, *, missing: bool = False
    ) -> None:
        if not isinstance(request, Commit | Close):
            refusal = Refused(reason=reason, missing=missing)
            await message.reply(refusal.header(), purpose=CONTROL)

    # Sessions that come and go.

    async def _open(self, message: Message, key: Key, request: Open) -> None:
        """Takes a session on; all its memory is reserved before anything is read from the disk.

        The newest attempt of a client counts, whichever is ready first; none is taken up twice.
        """
        if self._passed.get(key, -1) >= request.attempt:
            raise _RefusalError("a later attempt was made", missing=True)
        self._passed[key] = self._opening[key] = request.attempt
        try:
            if key in self._hosted:
                await self._end(key)
            await self._begin(message, key, request)
        finally:
            if self._opening.get(key) == request.attempt:
                del self._opening[key]
        await message.reply(Accepted().header(), purpose=CONTROL)

    async def _begin(self, message: Message, key: Key, request: Open) -> None:
        span, memory = span_of(key), self._memory
        trunk = self._trunk(message.source, span, request)
        cost = self._settings.span_cost(span)
        came = {} if request.manifest is None else unpack(request.manifest, message.payload)
        state, frozen = parted(came)
        held = memory.reserve(cost.session_bytes, f"a session of {message.source}")
        try:
            base = memory.take_base(span, cost.base_bytes, partial(self._load, span, cost))
        except BaseException:
            held.release()
            raise
        try:
            stage = await base.stage
            session = await self._session(stage, state, frozen, request)
            if self._opening.get(key) != request.attempt:
                raise _RefusalError("a later attempt was made", missing=True)
        except BaseException:
            memory.release(span, held)
            raise
        self._hosted[key] = _Hosted(
            message.source,
            request.round,
            request.attempt,
            stage,
            session,
            held,
            monotonic_s(),
            request.step,
            bare=request.step > 0 and not state,
            frozen=frozen,
            trunk=trunk,
        )
        memory.fit()  # the device may have taken memory back meanwhile
        if key not in self._hosted:
            raise _RefusalError("the device needs its memory itself", missing=True)

    def _trunk(self, client: str, span: Range, request: Open) -> Trunk | None:
        """The trunk that the session's steps are taken with, where it is shared. Raises
        ProtocolError where that is with others alone.
        """
        if not request.sharing:
            return None
        if client not in request.sharing:
            raise ProtocolError(f"{client} is none of those who share what it opens")
        sharers = hashlib.sha256("+".join(request.sharing).encode()).hexdigest()[:16]
        name = f"trunk-{span.first}-{span.last}-{sharers}"
        trunk = self._trunks.get(name)
        if trunk is None or trunk.round != request.round:
            trunk = self._trunks[name] = Trunk(self._node, name, request.round, request.sharing)
        return trunk

    async def _tell_alive(self, message: Message, key: Key, attempt: int) -> None:
        """Whether that session is here, or on its way."""
        hosted = self._hosted.get(key)
        here = hosted is not None and hosted.attempt == attempt
        if not here and self._opening.get(key) != attempt:
            raise _RefusalError("no such session here", missing=True)
        await message.reply(Accepted().header(), purpose=CONTROL)

    async def _session(
        self, stage: Stage, state: AdapterState, frozen: AdapterState, request: Open
    ) -> Session:
        if not state:
            return await self._start(stage, self._settings.initial_adapter(), frozen)
        return await self._start(stage, state, frozen, snapshot=request.step > 0)

    async def _start(
        self, stage: Stage, state: AdapterState, frozen: AdapterState, *, snapshot: bool = False
    ) -> Session:
        """A session that begins from an adapter, or goes on from a snapshot."""
        training = self._settings.training
        return await self._node.compute(
            lambda: begin(
                self._settings.journal,
                Session,
                stage,
                None if snapshot else state,
                learning_rate=training.learning_rate,
                weight_decay=training.weight_decay,
                state=state if snapshot else None,
                fixed_a=self._settings.fixed_a,
                frozen=frozen,
            ),
            flops=0,
        )

    async def _close(self, key: Key, attempt: int) -> None:
        """Forgets this attempt and all before it, also what is still being opened."""
        self._passed[key] = max(self._passed.get(key, -1), attempt)
        if self._opening.get(key, attempt + 1) <= attempt:
            del self._opening[key]
        hosted = self._hosted.get(key)
        if hosted is not None and hosted.attempt <= attempt:
            await self._end(key)

    async def _end(self, key: Key) -> None:
        """Forgets a session: what waits for its turn is refused, what it computes ends first."""
        await self._leave(key, self._hosted.pop(key))

    async def _leave(self, key: Key, hosted: _Hosted) -> None:
        async with hosted.turn:
            self._memory.release(span_of(key), hosted.memory)

    def _give_up(self, key: Key, why: str) -> None:
        """Forgets a session for the sake of its memory."""
        hosted = self._hosted.pop(key)
        client, first, last = key
        fields = {"steps": hosted.version, "bytes": hosted.memory.size_bytes, "why": why}
        host = self._node.name
        self._node.note("evicted", client=client, host=host, first=first, last=last, **fields)
        if hosted.busy:
            self._memory.expect(span_of(key), hosted.memory)
            leaving = asyncio.get_running_loop().create_task(self._leave(key, hosted))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        else:
            self._memory.release(span_of(key), hosted.memory)

    def _let_go(self) -> None:
        """What a crash takes, at once: the tasks that hold it are kept until the run ends."""
        self._hosted.clear()
        self._opening.clear()
        self._trunks.clear()
        self._head = None
        self._memory.let_go()

    async def _load(self, span: Range, cost: SpanCost) -> Stage:
        await asyncio.sleep(cost.base_bytes / READ_BYTES_PER_SECOND)
        settings = self._settings
        return await self._node.compute(
            lambda: load(settings.journal, Stage.load, settings.spec, span, lora=settings.lora),
            flops=0,
        )

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
            hosted.used_s = monotonic_s()
            await self._answer(message, hosted, request)

    async def _answer(self, message: Message, hosted: _Hosted, request: HostRequest) -> None:
        match request:
            case Forward():
                tensors = self._tensors(message, request.manifest)
                codec, rows = written(request.manifest, message.payload, "hidden")
                output = await self._forward(hosted, request.micro, tensors)
                await self._send(message, pack({"hidden": output}, codec, rows))
            case Backward():
                tensors = self._tensors(message, request.manifest)
                codec, rows = written(request.manifest, message.payload, "gradient")
                back = await self._backward(hosted, request.micro, tensors)
                norms = await self._norms(hosted)
                held = self._hand_out(hosted) if request.gradients else {}
                rows = None if rows is None else touched(back)
                packed = pack({"gradient": back}, codec, rows).with_(pack(held))
                await self._send(message, packed, norms=norms)
            case Learn():
                await self._learn(message, hosted, request)
            case Replay():
                await self._replay(message, hosted, request)
            case Commit():
                await self._commit(hosted, request.scale)
            case Sketch():
                self._expect(hosted, 2)
                spec, lora = self._settings.spec, self._settings.lora
                session = hosted.session
                size = costs.lora_parameters(spec, lora, session.stage.range)
                values = await self._node.compute(
                    lambda: sketch(
                        session.gradients(),
                        dimensions=request.dimensions,
                        seed=self._settings.seed,
                        steepness=request.steepness,
                    ),
                    flops=SKETCH_FLOPS * size,
                )
                session.discard()
                hosted.halves = 0
                payload = [np.ascontiguousarray(values, dtype=np.float64).tobytes()]
                await message.reply(Accepted().header(), payload)
            case AskSnapshot() | Collect() if hosted.bare:
                raise ProtocolError(f"{message.source} asks for parameters that it keeps itself")
            case AskSnapshot():
                await self._send(message, pack(hosted.session.snapshot()))
            case Collect():
                await self._send(message, pack(hosted.session.adapter()))

    async def _learn(self, message: Message, hosted: _Hosted, request: Learn) -> None:
        tensors = self._tensors(message, request.manifest)
        codec, rows = written(request.manifest, message.payload, "hidden")
        loss, gradient = await self._loss(hosted, request.micro, tensors, request.positions)
        back = await self._backward(hosted, request.micro, gradient)
        packed = pack({"gradient": back}, codec, None if rows is None else touched(back))
        await self._send(message, packed, norms=await self._norms(hosted), loss=loss)

    async def _replay(self, message: Message, hosted: _Hosted, request: Replay) -> None:
        tensors = self._tensors(message, request.manifest)
        if request.positions is None:
            gradient = {"gradient": tensors.pop("gradient", torch.empty(0))}
            await self._forward(hosted, request.micro, tensors)
        else:
            _, gradient = await self._loss(hosted, request.micro, tensors, request.positions)
        await self._backward(hosted, request.micro, gradient)
        if request.scale is not None:
            await self._commit(hosted, request.scale)
        await message.reply(Accepted().header(), purpose=CONTROL)

    async def _forward(self, hosted: _Hosted, micro: int, tensors: AdapterState) -> torch.Tensor:
        """Runs a micro-batch; the first of a step begins the step again, from parameters that came
        with it if there are any.
        """
        hidden = self._hidden(tensors, "hidden")
        if micro == 0:
            hosted.session.discard()
            hosted.halves = 0
            if tensors:
                hosted.session = await self._start(hosted.stage, tensors, hosted.frozen)
            elif hosted.bare:
                raise ProtocolError("no parameters came")
        self._expect(hosted, 2 * micro)
        session, settings = hosted.session, self._settings
        shape = (hidden.shape[0], hidden.shape[1])
        flops = costs.forward_flops(settings.spec, settings.lora, session.stage.range, *shape)
        draws = settings.draws(hosted.client, hosted.round, hosted.version, micro)
        output = await self._node.compute(lambda: session.forward(hidden, draws), flops=flops)
        hosted.halves += 1
        return output

    async def _backward(self, hosted: _Hosted, micro: int, tensors: AdapterState) -> torch.Tensor:
        gradient = self._hidden(tensors, "gradient")
        self._expect(hosted, 2 * micro + 1)
        session, settings = hosted.session, self._settings
        shape = (gradient.shape[0], gradient.shape[1])
        flops = costs.backward_flops(settings.spec, settings.lora, session.stage.range, *shape)
        back = await self._node.compute(lambda: session.backward(gradient), flops=flops)
        hosted.halves += 1
        assert back is not None, "only the client's own part has nothing in front of it"
        return back

    async def _loss(
        self, hosted: _Hosted, micro: int, tensors: AdapterState, labels: int
    ) -> tuple[float, AdapterState]:
        """Through the last layers, norm and head: the loss, and its gradient with respect to what
        came out of the layers, as `_backward` takes it. Raises ProtocolError unless this is the
        server, which has the head.
        """
        spec = self._settings.spec
        targets = tensors.pop("targets", None)
        last = hosted.session.stage.range.last
        if self._settings.split.labels != "server" or last != spec.layers or targets is None:
            raise ProtocolError("losses are for the server, of the last layers and with targets")
        output = await self._forward(hosted, micro, tensors)
        wanted = targets.long()
        if self._head is None:
            self._head = asyncio.get_running_loop().create_task(self._load_head())
        head = await self._head
        loss, gradient = await self._node.compute(
            lambda: head.loss(output, wanted, labels),
            flops=costs.head_flops(spec, int((wanted >= 0).sum())),
        )
        return loss, {"gradient": gradient}

    async def _load_head(self) -> Session:
        """Norm and head, which every client's labels meet."""
        settings, nothing = self._settings, Range(0, 0)
        size = costs.ends_bytes(settings.spec, settings.lora, nothing, 0, 0)
        await asyncio.sleep(size / READ_BYTES_PER_SECOND)
        return await self._node.compute(
            lambda: begin(
                settings.journal,
                Session,
                load(
                    settings.journal,
                    Stage.load,
                    settings.spec,
                    nothing,
                    ends=True,
                    lora=settings.lora,
                ),
                {},
                learning_rate=settings.training.learning_rate,
            ),
            flops=0,
        )

    async def _norms(self, hosted: _Hosted) -> list[float] | None:
        """Norms of the gradients held, where the client needs them to clip the step."""
        training, session = self._settings.training, hosted.session
        if training.clip is None or hosted.halves < 2 * training.accumulate:
            return None
        size = costs.lora_parameters(self._settings.spec, self._settings.lora, session.stage.range)
        held = await self._node.compute(session.norms, flops=NORM_FLOPS * size)
        return list(held.values())

    async def _commit(self, hosted: _Hosted, scale: float) -> None:
        spec, lora, training = self._settings.spec, self._settings.lora, self._settings.training
        self._expect(hosted, 2 * training.accumulate)
        session, now = hosted.session, rate(training, hosted.round, hosted.version)
        size = costs.lora_parameters(spec, lora, session.stage.range)
        if hosted.trunk is None:
            await self._node.compute(lambda: session.commit(scale, now), flops=ADAM_FLOPS * size)
        else:
            own = {name: scale * held for name, held in session.gradients().items()}
            mean = await hosted.trunk.step(hosted.version, hosted.client, own)
            work = partial(session.commit, 1.0, now, mean)
            await self._node.compute(work, flops=ADAM_FLOPS * size)
        hosted.version += 1
        hosted.halves = 0

    def _hand_out(self, hosted: _Hosted) -> AdapterState:
        """The gradients of a step, for a client that keeps the parameters: it is over here."""
        self._expect(hosted, 2 * self._settings.training.accumulate)
        gradients = hosted.session.gradients()
        hosted.session.discard()
        hosted.version += 1
        hosted.halves, hosted.bare = 0, True
        return gradients

    def _expect(self, hosted: _Hosted, halves: int) -> None:
        if hosted.halves != halves:
            raise _RefusalError(
                f"{hosted.halves} halves of the step are done here, not {halves}", missing=True
            )

    def _tensors(self, message: Message, manifest: Manifest) -> AdapterState:
        """What came; no tensor is made larger than the largest batch of this run makes it."""
        limit_bytes = self._settings.largest_hidden_bytes
        return unpack(manifest, message.payload, limit_bytes=limit_bytes)

    def _hidden(self, tensors: AdapterState, name: str) -> torch.Tensor:
        """Takes out a hidden state or its gradient, [b, t, h], for which there is memory."""
        tensor = tensors.pop(name, None)
        settings = self._settings
        most = settings.largest_batch * settings.training.tokens
        if tensor is None or tensor.dim() != 3 or not 0 < tensor.shape[0] * tensor.shape[1] <= most:
            raise ProtocolError(f"no {name} of 1 to {most} tokens came")
        return tensor

    async def _send(
        self,
        message: Message,
        packed: Packed,
        *,
        norms: list[float] | None = None,
        loss: float | None = None,
    ) -> None:
        """Answers with tensors, for the purpose for which it was asked."""
        header = Tensors(manifest=packed.manifest, norms=norms, loss=loss).header()
        await message.reply(header, packed.buffers)


class _RefusalError(Exception):
    """A request that can't be served."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        self.reason, self.missing = reason, missing
