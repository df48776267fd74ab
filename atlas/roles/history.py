"""What a client has of one span in one round: enough to bring any host to where the others are.

That is the last state that it knows (an adapter at the round's beginning, later a snapshot of a
host's session) and what it sent since. A host's state is a function of what was sent to it, so the
one that comes of sending it again is the one that would have been, whoever had it before.

Where the client keeps the parameters itself (as Petals has it), they go out with each step and
their gradients come back: then only the step at hand is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from atlas.models import AdapterState
from atlas.models.optimizer import MOMENTS, STEP, FlatAdamW
from atlas.models.tensors import Packed
from atlas.roles.seat import Backed, Seat


@dataclass(frozen=True)
class Known:
    """A span's state after `step` steps of a round: an adapter at step 0 (None: the one that all
    start from), later a session's snapshot.
    """

    step: int
    state: AdapterState | None


@dataclass
class _Sent:
    """What was sent of one step, micro-batch by micro-batch, and how it was committed."""

    hidden: list[Packed] = field(default_factory=list)
    gradients: list[Packed] = field(default_factory=list)
    scale: float | None = None
    labels: int | None = None
    """Where the host has the labels: how many. Then what stands for gradients are the targets."""


class History:
    """One round of one span.

    `version` counts the steps committed, `halves` the halves of the next step that were answered:
    forward and backward of its first micro-batch, of its second, and so on.

    Args:
        known: From where the round goes on.
        like: The span's parameters, for their names and shapes.
        micros: Micro-batches of a step.
        clips: Whether the last of them brings norms.
        kept: The parameters and their optimizer, where they are kept here.
        frozen: The pairs that the base has taken over.
        skips: Nothing is sent again: who is new goes on from `known`, as if no step were behind it.
    """

    def __init__(
        self,
        round_: int,
        known: Known,
        *,
        like: AdapterState,
        micros: int,
        clips: bool,
        kept: FlatAdamW | None,
        frozen: AdapterState | None = None,
        skips: bool = False,
    ) -> None:
        self.skips = skips
        self.round = round_
        self.known = known
        self.version = known.step
        self.halves = 0
        self.kept = kept
        self._frozen = frozen or {}
        self._like = like
        self._micros = micros
        self._clips = clips
        self._sent = _Sent()
        self._past: dict[int, _Sent] = {}

    @property
    def behind(self) -> int:
        """The steps that a new host has to replay."""
        return 0 if self.kept is not None or self.skips else self.version - self.known.step

    # The step at hand.

    def send_forward(self, hidden: Packed) -> None:
        """The next half is to send this."""
        self._sent.hidden.append(hidden)

    def send_backward(self, gradient: Packed) -> None:
        """The next half is to send this."""
        self._sent.gradients.append(gradient)

    def send_targets(self, targets: Packed, labels: int) -> None:
        """The next two halves, done as one, are to send this beside the hidden state."""
        self._sent.gradients.append(targets)
        self._sent.labels = labels

    async def learn(self, seat: Seat, half: int) -> tuple[float, Backed]:
        """That half of the step at a host that has the labels, and the one after it."""
        micro, labels = half // 2, self._sent.labels
        assert labels is not None, "targets are sent with their number"
        norms = len(self._like) if micro == self._micros - 1 and self._clips else 0
        sent = self._sent.hidden[micro], self._sent.gradients[micro]
        return await seat.learn(self.version, micro, *sent, labels, norms)

    async def forward(self, seat: Seat, half: int) -> Packed:
        """That half of the step at a host, an even one."""
        micro = half // 2
        parameters = {} if self.kept is None or micro else self.kept.parameters
        return await seat.forward(self.version, micro, self._sent.hidden[micro], parameters)

    async def backward(self, seat: Seat, half: int) -> Backed:
        """That half of the step at a host, an odd one."""
        micro = half // 2
        last, gradient = micro == self._micros - 1, self._sent.gradients[micro]
        wanted = self._like if last and self.kept is not None else {}
        norms = len(self._like) if last and self._clips else 0
        return await seat.backward(self.version, micro, gradient, wanted, norms)

    def committed(self, scale: float) -> None:
        """The step was applied, times `scale`."""
        self._sent.scale = scale
        if self.kept is None:
            self._past[self.version] = self._sent
        self.version += 1
        self.dropped()

    def dropped(self) -> None:
        """What was sent of the step at hand counts no more."""
        self._sent, self.halves = _Sent(), 0

    # A host that is new to it.

    def keep(self, known: Known) -> None:
        """From now on replays begin here; what was sent before is forgotten."""
        self.known = known
        self._past = {step: sent for step, sent in self._past.items() if step >= known.step}

    async def bring(self, seat: Seat) -> None:
        """Brings a new seat to where the others are."""
        if self.kept is not None:
            await seat.open(self.round, self.version, None, self._frozen)
            for half in range(self.halves):
                await (self.backward if half % 2 else self.forward)(seat, half)
            return
        if self.skips:
            state = self.known.state if self.version == self.known.step else self._without_moments()
            await seat.open(self.round, self.version, state, self._frozen)
            return
        known, past = self.known, dict(self._past)  # a snapshot may come meanwhile
        await seat.open(self.round, known.step, known.state, self._frozen)
        for step in range(known.step, self.version):
            await self._replay(seat, step, past[step], len(past[step].gradients))
        await self._replay(seat, self.version, self._sent, self.halves // 2)
        if self.halves % 2:
            await self.forward(seat, self.halves - 1)

    def _without_moments(self) -> AdapterState:
        """What is known, as a state to go on from at a later step."""
        state = self._like if self.known.state is None else self.known.state
        moments = {
            f"{name}.{moment}": torch.zeros_like(self._like[name])
            for name in self._like
            for moment in MOMENTS
        }
        return {STEP: torch.tensor(0.0)} | moments | state

    async def _replay(self, seat: Seat, step: int, sent: _Sent, micros: int) -> None:
        for micro in range(micros):
            scale = sent.scale if micro == len(sent.gradients) - 1 else None
            pair = sent.hidden[micro], sent.gradients[micro]
            await seat.replay(step, micro, *pair, scale, sent.labels)
