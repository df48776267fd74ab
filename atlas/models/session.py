"""One client's LoRA on one stage: parameters, gradients, optimizer and the graph in flight.

A step has two phases. Forward and backward compute gradients and keep them; only `commit` applies
them, and `discard` drops them as if the step had never been. A fresh session begins with fresh
optimizer moments. The same calls with the same arguments give the same bits, whatever other
sessions of the same stage do in between: nothing here draws a random number or reads a clock. A
session belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from atlas.models.adapters import AdapterState
from atlas.models.skeleton import lora_shape
from atlas.models.stage import Stage
from atlas.models.tensors import ProtocolError

IGNORED = -100
"""The target of a position that has no label."""


class Session:
    """One client's trainable part of a stage.

    `adapter` has a value for each LoRA parameter of the stage (more are ignored); it is copied.
    Parameters are fp32 whatever the model's dtype, as PEFT has them. Updates are torch's AdamW with
    its default betas (0.9, 0.999) and epsilon (1e-8), computed over one flat buffer: the same bits
    as parameter by parameter, in half of the time.

    Raises ProtocolError if the adapter lacks a parameter of the stage or has it in another shape.
    """

    def __init__(
        self,
        stage: Stage,
        adapter: Mapping[str, Tensor],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        self.stage = stage
        self._flat = Parameter(_flatten(stage, adapter))
        self._parameters: dict[str, Parameter] = {}
        offset = 0
        for name, module in stage.slots.items():
            shape = lora_shape(module)
            values = self._flat.data[offset : offset + shape.numel()].view(shape)
            self._parameters[name] = Parameter(values)
            offset += shape.numel()
        self._optimizer = torch.optim.AdamW(
            [self._flat], lr=learning_rate, weight_decay=weight_decay, foreach=False, fused=False
        )
        self._received: Tensor | None = None
        self._output: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Run a host's layers: hidden state [b, t, h] → hidden state [b, t, h], detached.

        The graph is kept for `backward`. `hidden` is not copied and must not be written to before
        `backward` or `discard`. Raises ProtocolError if it isn't of the model's width and dtype,
        RuntimeError if a forward is in flight already.
        """
        self._begin(ends=False)
        self._check(hidden)
        self._received = hidden.detach().requires_grad_()
        self._output = self.stage.run(self._received, self._parameters)
        return self._output.detach()

    def embed(self, tokens: Tensor) -> Tensor:
        """Run a client's first layers: token ids [b, t] → hidden state [b, t, h], detached.

        The graph is kept for `backward`. Raises RuntimeError if a forward is in flight already.
        """
        self._begin(ends=True)
        self._output = self.stage.run_tokens(tokens, self._parameters)
        return self._output.detach()

    def loss(self, hidden: Tensor, targets: Tensor) -> tuple[float, Tensor]:
        """Run a client's final norm, head and loss, and back to what it received.

        `hidden` [b, t, h] is what comes out of the model's last layer; `targets` [b, t] are the
        token ids that each position should predict, -100 where there is no label. Logits are
        computed where there are labels and nowhere else. Gives the mean cross entropy over the
        labels (nats) and its gradient with respect to `hidden`, [b, t, h].

        Raises ProtocolError if `hidden` isn't of the targets' shape, the model's width and dtype,
        and ValueError if no position has a label.
        """
        self._check(hidden)
        if hidden.shape[:2] != targets.shape:
            raise ProtocolError(
                f"a hidden state of {_describe(hidden)} came back for {list(targets.shape)} tokens"
            )
        labels = targets.reshape(-1)
        labeled = (labels != IGNORED).nonzero().squeeze(1)
        if not len(labeled):
            raise ValueError("no position of the batch has a label, so there is no loss")
        received = hidden.detach().requires_grad_()
        with torch.enable_grad():
            rows = received.reshape(-1, received.shape[-1])
            if self.stage.spec.classes is None:
                logits = self.stage.logits(rows.index_select(0, labeled), self._parameters)
            else:
                logits = self.stage.logits(rows, self._parameters).index_select(0, labeled)
            loss = cross_entropy(logits.float(), labels[labeled])
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
        return {
            name: parameter.grad.detach()
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }

    def commit(self) -> None:
        """Apply the gradients held, once, and forget them.

        Raises RuntimeError if a forward is still in flight or no backward has happened since the
        last commit.
        """
        if self._output is not None:
            raise RuntimeError(
                "a forward is in flight: go back through it before the step is applied"
            )
        if not self._parameters:
            return
        missing = [name for name, parameter in self._parameters.items() if parameter.grad is None]
        if missing:
            raise RuntimeError(f"there is no gradient to apply for {missing[0]}")
        self._flat.grad = torch.cat(
            [gradient.reshape(-1) for gradient in self.gradients().values()]
        )
        self._optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Forget the graph in flight and the gradients held, as if the step had never begun."""
        self._output = self._received = None
        self._flat.grad = None
        for parameter in self._parameters.values():
            parameter.grad = None

    def adapter(self) -> AdapterState:
        """LoRA's parameters as they are now: copies, by the names under which PEFT saves them."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

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


def _flatten(stage: Stage, adapter: Mapping[str, Tensor]) -> Tensor:
    """The stage's LoRA parameters in one fp32 buffer of their own."""
    parts = []
    for name, module in stage.slots.items():
        if name not in adapter:
            raise ProtocolError(f"the adapter lacks {name}")
        if adapter[name].shape != lora_shape(module):
            raise ProtocolError(
                f"{name} has shape {list(adapter[name].shape)}, not {list(lora_shape(module))}"
            )
        parts.append(adapter[name].detach().reshape(-1).to(torch.float32))
    return torch.cat(parts) if parts else torch.zeros(0)


def _describe(tensor: Tensor) -> str:
    return f"shape {list(tensor.shape)} in {tensor.dtype}"
