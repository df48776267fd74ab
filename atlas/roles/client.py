"""A device with text, as client: it trains its own adapter with the help of hosts.

Its text and its labels stay here. It keeps the embedding, the first layers and the head; what it
sends are hidden states and gradients. A round is a pure function of the adapter it starts from, the
text and the seed, so a client that crashed begins its round again from its disk and comes to the
same adapter. Where it has snapshots of its hosts, it goes on from the last step of which it has
all.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Mapping, Sequence

import msgpack
import numpy as np
import torch
from torch import Tensor

from atlas.aggregation import parted
from atlas.journal import begin, load
from atlas.models import (
    AdapterState,
    Range,
    Session,
    Stage,
    costs,
    join_adapters,
    slice_adapter,
)
from atlas.models.codec import Codec
from atlas.models.dropout import Draws
from atlas.models.optimizer import FlatAdamW, clip_scale
from atlas.models.tensors import Packed, pack, touched, unpack
from atlas.protocol import Chain, Manifest
from atlas.roles.candidates import Shunned, Where
from atlas.roles.history import Known
from atlas.roles.host import ADAM_FLOPS, NORM_FLOPS
from atlas.roles.member import Member
from atlas.roles.pace import Pace
from atlas.roles.patience import try_to_keep
from atlas.roles.settings import RunSettings
from atlas.roles.span import SkippedStepError, SpanCaller
from atlas.schedule import rate
from atlas.semantics import (
    STEEPNESS,
    encode,
    meanings,
    noise_multiplier,
    private_sum,
    sketch,
    turned,
    with_meanings,
)
from atlas.tasks import Batch, ClientData, step_batch
from broker import Node
from broker.disk import ACCESS_S, READ_BYTES_PER_SECOND

MIDDLE = "client-round"
"""The state in the middle of a round, as far as there are snapshots."""
SIGNATURE_ROUND = -1


class Client:
    """One client's training, from its signature to its last round."""

    def __init__(self, node: Node, settings: RunSettings, data: ClientData) -> None:
        self._node = node
        self._settings = settings
        self._data = data
        self._training = settings.training_of(node.name)
        self._ends: Stage
        self._attempt = node.incarnation << 24
        self._shunned = Shunned()
        self._pace = Pace(functools.partial(_planned_s, node, settings))
        self._spans: list[SpanCaller] = []
        self._neighborhood = ""
        self._adapter: AdapterState | None = None
        self._round = 0
        self._middle: list[Known] | None = None
        self._own: dict[int, AdapterState] = {}
        self._writing: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Loads the client's own part of the model."""
        settings = self._settings
        size = costs.span_base_bytes(settings.spec, settings.ends)
        await asyncio.sleep(size / READ_BYTES_PER_SECOND)
        self._ends = await self._node.compute(
            lambda: load(
                settings.journal,
                Stage.load,
                settings.spec,
                settings.ends,
                ends=True,
                lora=settings.lora,
            ),
            flops=0,
        )

    async def run(self, member: Member) -> None:
        """All rounds, as a member of a neighborhood."""
        standing = await member.join(self._sign)
        self._pair(standing.chain)
        self._round = standing.round
        if member.resumes:
            await self._resume()
        while standing.round < self._settings.training.rounds:
            self._adapter, self._neighborhood = standing.adapter, member.neighborhood
            self._round = standing.round
            signature = await self._sign_again(self._round)
            adapter = await self._train(self._round)
            standing = await member.hand_in(self._round, adapter, signature)
        await member.finish()

    async def _sign(self, chain: Chain) -> np.ndarray:
        """Two half-signatures, float32 [2, dimensions], through a provisional chain."""
        self._pair(chain)
        halves = np.stack([await self._half_signature(half) for half in (0, 1)])
        return self._noise() if self._settings.aggregation.grouping == "noise" else halves

    def _noise(self) -> np.ndarray:
        """Half-signatures that say nothing, as a control."""
        settings = self._settings
        digest = hashlib.sha256(f"{settings.seed}/noise signature/{self._node.name}".encode())
        generator = np.random.default_rng(int.from_bytes(digest.digest()[:8], "little"))
        return generator.standard_normal((2, settings.signature.dimensions))

    async def _sign_again(self, number: int) -> bytes | None:
        """The signature of the text as it is in this round, if it is measured then: taken as the
        first one was, but through the chain of now.
        """
        if not self._settings.measures(number):
            return None
        raw = encode(np.stack([await self._half_signature(half, number) for half in (0, 1)]))
        self._node.note("signature", bytes=len(raw))
        return raw

    async def _half_signature(self, half: int, number: int = SIGNATURE_ROUND) -> np.ndarray:
        """The sketch of LoRA's gradients on one batch, float64 [dimensions]; nothing is trained.

        Of examples that share their choices, what the answers mean is added, if asked for. With
        privacy it is the noisy sum of the clipped sketches of its examples, each by itself.
        """
        privacy, answers = self._settings.signature.privacy, self._settings.signature.answers
        session, _ = await self._begin(SIGNATURE_ROUND)
        batch = self._signed(number, half)
        if answers and self._data.at(number).choices:
            total = await self._meaningful(session, batch)
        elif privacy is None:
            total = await self._sketch(session, batch, _labels(batch))
        else:
            total = private_sum(
                np.stack(
                    [await self._sketch(session, one, _labels(one)) for one in batch.singly()]
                ),
                clip=privacy.clip,
                multiplier=noise_multiplier(
                    privacy.epsilon, privacy.delta, releases=self._settings.signatures
                ),
                key=f"signature {self._settings.seed} {self._node.name} {half}"
                + (f" {number}" if number != SIGNATURE_ROUND else ""),
            )
        for span in self._spans:
            span.close()
        return total

    async def _meaningful(self, session: Session, batch: Batch) -> np.ndarray:
        """The sketch of a batch, and of what its answers mean, answer by answer."""
        labels, seed = _labels(batch), self._settings.seed
        total = await self._sketch(session, batch, labels)
        meaning = np.zeros(self._settings.signature.dimensions)
        for one in meanings(batch):
            own = await self._sketch(session, one.own, labels, STEEPNESS)
            dealt = await self._sketch(session, one.dealt, labels, STEEPNESS)
            meaning = meaning + turned(own - dealt, one.answer, seed=seed)
        return with_meanings(total, meaning)

    async def _sketch(
        self, session: Session, batch: Batch, labels: int, steepness: int = 1
    ) -> np.ndarray:
        """The sketch of the gradients of all layers, which nobody keeps; of a loss over `labels`
        labels.
        """
        settings = self._settings
        dimensions = settings.signature.dimensions
        await self._gradients(session, batch, labels, None)
        total = sketch(
            session.gradients(), dimensions=dimensions, seed=settings.seed, steepness=steepness
        )
        session.discard()
        for part in [await span.sketch(dimensions, steepness) for span in self._spans]:
            total = total + part
        return total

    def _pair(self, chain: Chain) -> None:
        """From now on these hosts, stand-ins and fallbacks."""
        self._spans = []
        initial = self._settings.initial_adapter()
        for index, (first, last) in enumerate(chain.spans):
            span = Range(first, last)
            named: list[tuple[Where, str]] = [("plan", chain.hosts[index])]
            sharing = chain.sharing[index] if chain.sharing else []
            if not sharing:
                named += [("neighborhood", host) for host in chain.stand_ins[index]]
                named += [("elsewhere", host) for host in chain.fallbacks[index]]
            self._spans.append(
                SpanCaller(
                    self._node,
                    span,
                    named,
                    like=slice_adapter(initial, span),
                    pace=self._pace,
                    shunned=self._shunned,
                    attempts=self._next_attempt,
                    changed=self._declare_hosts,
                    kept=self._keep_middle,
                    recovery=self._settings.recovery,
                    micros=self._settings.training.accumulate,
                    clips=self._settings.training.clip is not None,
                    sharing=sharing,
                )
            )

    def _next_attempt(self) -> int:
        self._attempt += 1
        return self._attempt

    def _declare_hosts(self) -> None:
        """So that a scenario can strike `host of client-0` (of its first span) or `hosts of
        client-0`.
        """
        hosts = [span.host for span in self._spans if span.host is not None]
        self._node.declare(f"host of {self._node.name}", hosts[:1])
        self._node.declare(f"hosts of {self._node.name}", list(dict.fromkeys(hosts)))

    # Training.

    async def _train(self, number: int) -> AdapterState:
        """One round: the adapter that comes out of `steps` steps from the one of now."""
        session, first = await self._begin(number)
        training = self._training
        skipped = 0
        for step in range(first, training.steps):
            started_s = self._node.now
            batches = [self._batch(number, step, micro) for micro in range(training.accumulate)]
            try:
                loss = await self._learn(session, number, step - skipped, batches)
            except SkippedStepError:
                session.discard()
                for span in self._spans:
                    span.drop()
                skipped += 1
                self._node.note("skipped", client=self._node.name, round=number, step=step)
                continue
            await self._commit(session, number, step - skipped)
            self._node.note(
                "step",
                client=self._node.name,
                neighborhood=self._neighborhood,
                round=number,
                step=step,
                loss=loss,
                tokens=sum(batch.tokens.numel() for batch in batches),
                seconds=self._node.now - started_s,
            )
        parts = [await span.collect() for span in self._spans]
        return join_adapters([session.adapter(), *parts])

    async def _learn(
        self, session: Session, number: int, step: int, batches: Sequence[Batch]
    ) -> float:
        """The loss of a step, the `step`th of the round that is not skipped: its gradients are
        held.
        """
        labels = sum(_labels(batch) for batch in batches)
        loss = 0.0
        for micro, batch in enumerate(batches):
            draws = self._settings.draws(self._node.name, number, step, micro)
            codec = self._settings.codec(self._node.name)
            loss += await self._gradients(session, batch, labels, draws, codec)
        return loss

    async def _begin(self, number: int) -> tuple[Session, int]:
        """Opens a round at all hosts, side by side, and here; gives the step at which it begins."""
        signs = number == SIGNATURE_ROUND
        own, *spans = self._first() if signs else self._middle or self._beginning()
        settings = self._settings
        training, recovery = self._training, settings.recovery
        if not signs:
            self._middle, self._own = None, {}
        keeps = recovery.keep == "client" and not signs
        frozen = {} if signs else parted(self._adapter or {})[1]
        async with asyncio.TaskGroup() as group:
            for span, known in zip(self._spans, spans, strict=True):
                kept = self._kept(span, known) if keeps else None
                merged = slice_adapter(frozen, span.span)
                beginning = span.begin(
                    number, known, steps=training.steps, kept=kept, frozen=merged
                )
                group.create_task(beginning)
        session = begin(
            settings.journal,
            Session,
            self._ends,
            None if own.step else own.state,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            state=own.state if own.step else None,
            fixed_a=settings.fixed_a,
            frozen=frozen,
        )
        return session, own.step

    def _beginning(self) -> list[Known]:
        """What is known at the beginning of a round: of the client's own part, and of each span."""
        if self._adapter is None:
            return self._first()
        start = parted(self._adapter)[0]
        return [Known(0, start)] + [
            Known(0, slice_adapter(start, span.span)) for span in self._spans
        ]

    def _first(self) -> list[Known]:
        """The adapter that all start from, which every device can make."""
        own = Known(0, self._settings.initial_adapter())
        return [own] + [Known(0, None)] * len(self._spans)

    def _kept(self, span: SpanCaller, known: Known) -> FlatAdamW:
        """The span's parameters, where they are kept here."""
        training = self._training
        return FlatAdamW(
            {name: tensor.shape for name, tensor in span.like.items()},
            span.like if known.state is None else known.state,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            state=known.state if known.step else None,
            fixed=[name for name in span.like if self._settings.fixed_a and ".lora_A." in name],
        )

    async def _commit(self, session: Session, number: int, step: int) -> None:
        """Applies the step here and lets all hosts apply it, clipped by the norm of the whole."""
        training = self._training
        scale, now, size = 1.0, rate(training, number, step), self._own_parameters()
        if training.clip is not None:
            own = await self._node.compute(session.norms, flops=NORM_FLOPS * size)
            scale = clip_scale(self._in_order(own), training.clip)
        await self._node.compute(lambda: session.commit(scale, now), flops=ADAM_FLOPS * size)
        every = self._settings.recovery.snapshot_every
        if every and (step + 1) % every == 0:
            self._own[step + 1] = session.snapshot()
        for span in self._spans:
            await span.commit(scale, now)

    def _in_order(self, own: Mapping[str, float]) -> list[float]:
        """The norms of all gradients, in the model's order: the own layers' come first."""
        return [*own.values(), *(norm for span in self._spans for norm in span.norms or ())]

    async def _gradients(
        self,
        session: Session,
        batch: Batch,
        labels: int,
        draws: Draws | None,
        codec: Codec = "fp32",
    ) -> float:
        """One batch up to the point where its step can be committed: gradients are held everywhere.

        Its loss, as part of that of a step with `labels` labels. What crosses is encoded once, and
        goes from host to host as it comes.
        """
        spec, lora = self._settings.spec, self._settings.lora
        shape = (batch.tokens.shape[0], batch.tokens.shape[1])
        ends = self._settings.ends
        hidden = await self._node.compute(
            lambda: session.embed(batch.tokens, draws),
            flops=costs.forward_flops(spec, lora, ends, *shape),
        )
        crossing = self._pack("hidden", hidden, codec, batch.needed)
        spans = list(self._spans)
        server = spans.pop() if self._settings.split.labels == "server" else None
        for span in spans:
            crossing = await span.forward(crossing)
        if server is not None:
            targets = pack({"targets": batch.targets.to(torch.float32)})  # exact up to 2 ** 24
            loss, crossing = await server.learn(crossing, targets, labels)
        else:
            received = unpack(*crossing)["hidden"]
            loss, gradient = await self._node.compute(
                lambda: session.loss(received, batch.targets, labels),
                flops=costs.head_flops(spec, _labels(batch)),
            )
            crossing = self._pack("gradient", gradient, codec, touched(gradient))
        for span in reversed(spans):
            crossing = await span.backward(crossing)
        returned = unpack(*crossing)["gradient"]
        await self._node.compute(
            lambda: session.backward(returned),
            flops=costs.backward_flops(spec, lora, ends, *shape),
        )
        return loss

    def _pack(self, name: str, tensor: Tensor, codec: Codec, rows: Tensor) -> Packed:
        return pack({name: tensor}, codec, rows if self._settings.split.packed else None)

    def _signed(self, number: int, half: int) -> Batch:
        """The text of half a signature, as it is in round `number`. Halves share no example, so a
        client with few takes half of them for each. Of the same text it is always the same.
        """
        data = self._data.at(number)
        return step_batch(
            data,
            tokenizer=self._settings.tokenizer,
            size=min(self._settings.signature.batch, len(data.examples) // 2),
            max_tokens=self._settings.training.tokens,
            seed=self._settings.seed,
            client=self._node.name,
            round=SIGNATURE_ROUND,
            step=half,
        )

    def _batch(self, number: int, step: int, micro: int) -> Batch:
        """The text of a micro-batch."""
        training = self._training
        return step_batch(
            self._data.at(number),
            tokenizer=self._settings.tokenizer,
            size=training.batch,
            max_tokens=training.tokens,
            seed=self._settings.seed,
            client=self._node.name,
            round=number,
            step=step * training.accumulate + micro,
            steps_per_round=training.steps * training.accumulate,
        )

    def _own_parameters(self) -> int:
        return costs.lora_parameters(self._settings.spec, self._settings.lora, self._settings.ends)

    # The disk.

    def _keep_middle(self) -> None:
        """Keeps the round as it is after the last step of which there is a snapshot of all."""
        steps = {span.known.step for span in self._spans}
        step = min(steps)
        if len(steps) > 1 or step not in self._own:
            return
        own = self._own.pop(step)
        self._own = {later: state for later, state in self._own.items() if later > step}
        states = [own, *(span.known.state or {} for span in self._spans)]
        writing = self._write_middle(self._round, step, states)
        self._writing = asyncio.get_running_loop().create_task(writing)

    async def _write_middle(self, number: int, step: int, states: list[AdapterState]) -> None:
        parts = [
            [manifest, [bytes(buffer) for buffer in buffers]]
            for manifest, buffers in map(pack, states)
        ]
        state = {"round": number, "step": step, "parts": parts}
        await try_to_keep(self._node, MIDDLE, msgpack.packb(state))

    async def _resume(self) -> None:
        """Goes on in the middle of the round, where that is on the disk."""
        fields: dict[str, str | int] = {"client": self._node.name, "round": self._round}
        if MIDDLE in self._node.disk:
            middle = msgpack.unpackb(await self._node.disk.read(MIDDLE))
            if middle["round"] == self._round:
                self._middle = [Known(middle["step"], _copied(*part)) for part in middle["parts"]]
                fields["step"] = middle["step"]
        self._node.note("resumed", **fields)


def _copied(manifest: Manifest, buffers: Sequence[bytes | memoryview]) -> AdapterState:
    return {name: tensor.clone() for name, tensor in unpack(manifest, buffers).items()}


def _labels(batch: Batch) -> int:
    """How many positions have a label."""
    return int((batch.targets >= 0).sum())


def _planned_s(node: Node, settings: RunSettings, host: str, kind: str, sent_bytes: int) -> float:
    """How long a host may take over a request before it was measured: as long as this device would
    over all the layers between the ends, and as the way there takes.
    """
    there, back = node.link(host), node.link(host, back=True)
    cost = settings.step_cost(1)
    span = Range(cost.spans[0].first, cost.spans[0].last)
    adapter_bytes = costs.adapter_bytes(settings.spec, settings.lora, span)
    step_s = cost.spans[0].step_flops / node.device.flops
    hidden_bytes = cost.boundary_bytes
    computing_s, answer_bytes = {
        "open": (ACCESS_S + cost.spans[0].base_bytes / READ_BYTES_PER_SECOND, 0),
        "forward": (step_s, hidden_bytes),
        "backward": (step_s, hidden_bytes),
        "learn": (2 * step_s, hidden_bytes),
        "replay": (2 * step_s, 0),
        "sketch": (step_s, 0),
        "snapshot?": (step_s, 3 * adapter_bytes),
        "collect": (step_s, adapter_bytes),
    }.get(kind, (0.0, 0))
    moving_s = sent_bytes * 8 / there.bandwidth_bps + answer_bytes * 8 / back.bandwidth_bps
    return computing_s + moving_s + there.delay_s + back.delay_s
