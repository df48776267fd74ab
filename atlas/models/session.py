"""One client's LoRA on one stage: parameters, gradients, optimizer and the graph in flight.

A step has two phases. Forward and backward compute gradients and keep them; only `commit` applies
them, and `discard` drops them as if the step had never been. Gradients of several forward and
backward pairs, micro-batches of one step, add up until then. A fresh session begins with fresh
optimizer moments, one that is given a snapshot with those. The same calls with the same arguments
give the same bits, whatever other sessions of the same stage do in between: no clock is read, and
what dropout draws is named by an argument. A session belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from atlas.models.adapters import AdapterState
from atlas.models.dropout import Draws
from atlas.models.optimizer import FlatAdamW, norms
from atlas.models.stage import NOTHING, Stage
from atlas.models.tensors import ProtocolError

IGNORED = -100
"""The target of a position that has no label."""


class Session:
    """One client's trainable part of a stage: its `parameters`, by the names that PEFT saves.

    `adapter` has a value for each LoRA parameter of the stage (more are ignored); it is copied.
    Parameters are fp32 whatever the model's dtype, as PEFT has them. Updates are torch's AdamW's
    (see `FlatAdamW`). `state`, which `snapshot` gave here or on another cut, takes the adapter's
    place and brings the optimizer's moments along. With `fixed_a` no A of LoRA's is trained; its
    gradients are zero. `frozen` is what was merged into the base for this client: low-rank pairs
    under PEFT's names, of these layers or more, of any rank. They are shared with whoever gave
    them, and no part of adapter or snapshot.

    Raises ProtocolError if what is given lacks a parameter of the stage or has it in another shape.
    """

    def __init__(
        self,
        stage: Stage,
        adapter: Mapping[str, Tensor] | None = None,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        state: Mapping[str, Tensor] | None = None,
        fixed_a: bool = False,
        frozen: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        if (adapter is None) == (state is None):
            raise TypeError("a session begins from an adapter or from a snapshot: give one of them")
        values = adapter if state is None else state
        assert values is not None
        self.stage = stage
        self._optimizer = FlatAdamW(
            stage.shapes,
            values,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            state=state,
            fixed=[name for name in stage.shapes if fixed_a and ".lora_A." in name],
        )
        self.parameters = self._optimizer.parameters
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(not fixed_a or ".lora_A." not in name)
        self.pairs = stage.pairs(frozen)
        self._received: Tensor | None = None
        self._output: Tensor | None = None

    def forward(self, hidden: Tensor, draws: Draws | None = None) -> Tensor:
        """Run a host's layers: hidden state [b, t, h] → hidden state [b, t, h], detached.

        `draws` says what dropout draws; without, nothing is dropped out. The graph is kept for
        `backward`. `hidden` is not copied and must not be written to before
        `backward` or `discard`. Raises ProtocolError if it isn't of the model's width and dtype,
        RuntimeError if a forward is in flight already.
        """
        self._begin(ends=False)
        self._check(hidden)
        self._received = hidden.detach().requires_grad_()
        self._output = self.stage.run(self._received, self.parameters, draws, self.pairs)
        return self._output.detach()

    def embed(self, tokens: Tensor, draws: Draws | None = None) -> Tensor:
        """Run a client's first layers: token ids [b, t] → hidden state [b, t, h], detached.

        `draws` and the graph are as in `forward`. Raises RuntimeError if a forward is in flight
        already.
        """
        self._begin(ends=True)
        self._output = self.stage.run_tokens(tokens, self.parameters, draws, self.pairs)
        return self._output.detach()

    def loss(
        self, hidden: Tensor, targets: Tensor, labels: int | None = None
    ) -> tuple[float, Tensor]:
        """Run a client's final norm, head and loss, and back to what it received.

        `hidden` [b, t, h] is what comes out of the model's last layer; `targets` [b, t] are the
        token ids that each position should predict, -100 where there is no label. Logits are
        computed where there are labels and nowhere else. Gives the cross entropy over the labels
        (nats), divided by their number, and its gradient with respect to `hidden`, [b, t, h]. For
        a micro-batch `labels` is the number of labels in all of the step: so its parts add up to
        the mean over the step.

        Raises ProtocolError if `hidden` isn't of the targets' shape, the model's width and dtype,
        and ValueError if no position has a label.
        """
        self._check(hidden)
        if hidden.shape[:2] != targets.shape:
            raise ProtocolError(
                f"a hidden state of {_describe(hidden)} came back for {list(targets.shape)} tokens"
            )
        expected = targets.reshape(-1)
        labeled = (expected != IGNORED).nonzero().squeeze(1)
        if not len(labeled):
            raise ValueError("no position of the batch has a label, so there is no loss")
        received = hidden.detach().requires_grad_()
        with torch.enable_grad():
            rows = received.reshape(-1, received.shape[-1])
            if self.stage.spec.classes is None:
                logits = self.stage.logits(rows.index_select(0, labeled))
            else:
                logits = self.stage.logits(rows, self.parameters).index_select(0, labeled)
            total = cross_entropy(logits.float(), expected[labeled], reduction="sum")
            del (
                logits
            )  # as large as all of the head's other tensors, and backward has no use for it
            loss = total / (len(labeled) if labels is None else labels)
        torch.autograd.backward(loss)
        assert received.grad is not None
        return loss.item(), received.grad

    def backward(self, gradient: Tensor) -> Tensor | None:
        """Go back through what `forward` or `embed` recorded; the graph is gone afterwards.

        `gradient` [b, t, h] is with respect to what that call returned. LoRA's gradients are added
        to those held. Gives the gradient with respect to what a host received, [b, t, h]; None for
        a client's own first layers, in front of which is only text. Raises ProtocolError if the
        gradient has not the shape and dtype of the output, RuntimeError if nothing is in flight.
        """
        output, received = self._output, self._received
        if output is None:
            raise RuntimeError("there is nothing to go back through: call forward or embed first")
        if gradient.shape != output.shape or gradient.dtype != output.dtype:
            raise ProtocolError(
                f"a gradient of {_describe(gradient)} came for an output of {_describe(output)}"
            )
        self._output = self._received = None
        if output.requires_grad:
            torch.autograd.backward(output, gradient)
        return None if received is None else received.grad

    def gradients(self) -> AdapterState:
        """LoRA's gradients held and not yet applied, by parameter name; empty if there are none."""
        held = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                held[name] = parameter.grad.detach()
            elif not parameter.requires_grad:
                held[name] = torch.zeros_like(parameter)
        return held

    def norms(self) -> dict[str, float]:
        """The Euclidean norm of each gradient held, from which `clip_scale` makes one factor."""
        return norms(self.gradients())

    def commit(
        self,
        scale: float = 1.0,
        rate: float | None = None,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Apply the gradients held, once, times `scale`, and forget them.

        `rate` is the learning rate of this step, if not the one that the session was made with.
        `gradients` of all parameters are applied in the place of those held, if they are given.
        Raises RuntimeError if a forward is still in flight or no backward has happened since the
        last commit.
        """
        if self._output is not None:
            raise RuntimeError(
                "a forward is in flight: go back through it before the step is applied"
            )
        held = self.gradients()
        missing = [name for name in self.parameters if name not in held]
        if missing:
            raise RuntimeError(f"there is no gradient to apply for {missing[0]}")
        applied = held if gradients is None else {name: gradients[name] for name in held}
        self._optimizer.apply(applied.values(), scale=scale, rate=rate)
        self.discard()

    def discard(self) -> None:
        """Forget the graph in flight and the gradients held, as if the step had never begun."""
        self._output = self._received = None
        for parameter in self.parameters.values():
            parameter.grad = None

    def adapter(self) -> AdapterState:
        """LoRA's parameters as they are now: copies, by the names under which PEFT saves them."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def snapshot(self) -> dict[str, Tensor]:
        """Parameters and optimizer's state as they are now: copies, by name, to go on from."""
        return self._optimizer.snapshot()

    def _begin(self, *, ends: bool) -> None:
        if self.stage.ends != ends:
            raise RuntimeError("forward is for a host's stage, embed for one loaded with ends=True")
        if self._output is not None:
            raise RuntimeError("a forward is in flight: go back through it or discard it first")

    def _check(self, hidden: Tensor) -> None:
        spec = self.stage.spec
        if hidden.dim() != 3 or hidden.shape[-1] != spec.hidden or hidden.dtype != spec.dtype:
            raise ProtocolError(
                f"a hidden state of {_describe(hidden)} came to a model of width {spec.hidden} "
                f"in {spec.dtype}"
            )


def _describe(tensor: Tensor) -> str:
    return f"shape {list(tensor.shape)} in {tensor.dtype}"
