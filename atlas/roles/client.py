"""A device with text, as client: it trains its own adapter with the help of hosts.

Its text and its labels stay here. It keeps the embedding, the first layers and the head; what it
sends are hidden states and gradients. A round is a pure function of the adapter it starts from, the
text and the seed, so a client that crashed begins its round again from its disk and comes to the
same adapter.
"""

from __future__ import annotations

import asyncio

import numpy as np

from atlas.models import AdapterState, Range, Session, Stage, costs, join_adapters, slice_adapter
from atlas.protocol import (
    Chain,
)
from atlas.roles.host import ADAM_FLOPS
from atlas.roles.member import Member
from atlas.roles.settings import RunSettings
from atlas.roles.span import Pace, Shunned, SpanCaller, Where
from atlas.semantics import sketch
from atlas.tasks import Batch, ClientData, step_batch
from broker import Node
from broker.disk import ACCESS_S, READ_BYTES_PER_SECOND

SIGNATURE_ROUND = -1
SLOW_HOST_FLOPS = 5e9
"""What a host is taken to do, at worst, before one has been measured."""


class Client:
    """One client's training, from its signature to its last round."""

    def __init__(self, node: Node, settings: RunSettings, data: ClientData) -> None:
        self._node = node
        self._settings = settings
        self._data = data
        self._ends: Stage
        self._attempt = node.incarnation << 24
        self._shunned = Shunned()
        self._pace = _pace(node, settings)
        self._spans: list[SpanCaller] = []
        self._neighborhood = ""
        self._adapter: AdapterState | None = None

    async def prepare(self) -> None:
        """Loads the client's own part of the model."""
        settings = self._settings
        size = costs.span_base_bytes(settings.spec, settings.ends)
        await asyncio.sleep(size / READ_BYTES_PER_SECOND)
        self._ends = await self._node.compute(
            lambda: Stage.load(settings.spec, settings.ends, ends=True, lora=settings.lora),
            flops=0,
        )

    async def run(self, member: Member) -> None:
        """All rounds, as a member of a neighborhood."""
        standing = await member.join(self._sign)
        self._pair(standing.chain)
        while standing.round < self._settings.training.rounds:
            self._adapter, self._neighborhood = standing.adapter, member.neighborhood
            number = standing.round
            standing = await member.hand_in(number, await self._train(number))
        await member.finish()

    async def _sign(self, chain: Chain) -> np.ndarray:
        """Two half-signatures, float32 [2, dimensions], through a provisional chain."""
        self._pair(chain)
        return np.stack([await self._half_signature(half) for half in (0, 1)])

    async def _half_signature(self, half: int) -> np.ndarray:
        """The sketch of LoRA's gradients on one batch, float32 [dimensions]; nothing is trained."""
        settings = self._settings.signature
        session = await self._begin(SIGNATURE_ROUND)
        await self._gradients(session, self._batch(SIGNATURE_ROUND, half))
        own = sketch(session.gradients(), dimensions=settings.dimensions, seed=self._settings.seed)
        session.discard()
        parts = [await span.sketch(settings.dimensions) for span in self._spans]
        for span in self._spans:
            await span.close()
        total = own
        for part in parts:
            total = total + part
        return np.asarray(total, dtype=np.float32)

    def _pair(self, chain: Chain) -> None:
        """From now on these hosts, stand-ins and fallbacks."""
        self._spans = []
        for index, (first, last) in enumerate(chain.spans):
            span = Range(first, last)
            named: list[tuple[Where, str]] = [("plan", chain.hosts[index])]
            named += [("neighborhood", host) for host in chain.stand_ins[index]]
            named += [("elsewhere", host) for host in chain.fallbacks[index]]
            self._spans.append(
                SpanCaller(
                    self._node,
                    span,
                    named,
                    pace=self._pace,
                    shunned=self._shunned,
                    attempts=self._next_attempt,
                    changed=self._declare_hosts,
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
        session = await self._begin(number)
        for step in range(self._settings.training.steps):
            started_s = self._node.now
            batch = self._batch(number, step)
            loss = await self._gradients(session, batch)
            await self._node.compute(session.commit, flops=ADAM_FLOPS * self._own_parameters())
            for span in self._spans:
                await span.commit()
            self._node.note(
                "step",
                client=self._node.name,
                neighborhood=self._neighborhood,
                round=number,
                step=step,
                loss=loss,
                tokens=batch.tokens.numel(),
                seconds=self._node.now - started_s,
            )
        parts = [await span.collect() for span in self._spans]
        return join_adapters([session.adapter(), *parts])

    async def _begin(self, number: int) -> Session:
        """Opens a round at all hosts, side by side, and here."""
        start = self._adapter
        async with asyncio.TaskGroup() as group:
            for span in self._spans:
                part = None if start is None else slice_adapter(start, span.span)
                group.create_task(span.begin(number, part))
        training = self._settings.training
        return Session(
            self._ends,
            self._settings.initial_adapter() if start is None else start,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        )

    async def _gradients(self, session: Session, batch: Batch) -> float:
        """One step up to the point where it can be committed: gradients are held everywhere. Its
        loss.
        """
        spec, lora = self._settings.spec, self._settings.lora
        shape = (batch.tokens.shape[0], batch.tokens.shape[1])
        ends = self._settings.ends
        hidden = await self._node.compute(
            lambda: session.embed(batch.tokens),
            flops=costs.forward_flops(spec, lora, ends, *shape),
        )
        for span in self._spans:
            hidden = await span.forward(hidden)
        labels = int((batch.targets >= 0).sum())
        loss, gradient = await self._node.compute(
            lambda: session.loss(hidden, batch.targets), flops=costs.head_flops(spec, labels)
        )
        for span in reversed(self._spans):
            gradient = await span.backward(gradient)
        await self._node.compute(
            lambda: session.backward(gradient),
            flops=costs.backward_flops(spec, lora, ends, *shape),
        )
        return loss

    def _batch(self, number: int, step: int) -> Batch:
        training = self._settings.training
        return step_batch(
            self._data,
            tokenizer=self._settings.tokenizer,
            size=self._settings.signature.batch if number == SIGNATURE_ROUND else training.batch,
            max_tokens=training.tokens,
            seed=self._settings.seed,
            client=self._node.name,
            round=number,
            step=step,
            steps_per_round=None if number == SIGNATURE_ROUND else training.steps,
        )

    def _own_parameters(self) -> int:
        return costs.lora_parameters(self._settings.spec, self._settings.lora, self._settings.ends)


def _pace(node: Node, settings: RunSettings) -> Pace:
    """Deadlines before anything is measured: as if a slow host held all layers between the ends."""
    way = node.link(settings.coordinator)
    cost = settings.step_cost(1)
    span = Range(cost.spans[0].first, cost.spans[0].last)
    crossing_s = cost.boundary_bytes * 8 / way.bandwidth_bps + way.delay_s
    step_s = cost.spans[0].step_flops / SLOW_HOST_FLOPS + 2 * crossing_s
    adapter_bytes = costs.adapter_bytes(settings.spec, settings.lora, span)
    moving_s = adapter_bytes * 8 / way.bandwidth_bps + way.delay_s
    return Pace(
        {
            "room?": 2 * way.delay_s,
            "alive?": 2 * (max(crossing_s, moving_s) + way.delay_s),
            "open": moving_s + ACCESS_S + cost.spans[0].base_bytes / READ_BYTES_PER_SECOND,
            "forward": step_s,
            "backward": step_s,
            "replay": 2 * step_s,
            "sketch": step_s,
            "collect": step_s + moving_s,
        }
    )
