"""LoRA's projection as one function, forward and back, in the model's own number format.

PEFT computes W x + scaling B A x as separate operations, each with a result as large as the
output, and casts its input to fp32 where the model is in bf16. Here the update is added in place by
the matrix product itself, and all of it stays in the dtype of the input. What comes out is the same
for every cut of a model, and repeatable, but rounded otherwise than PEFT's.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers import PreTrainedModel

from atlas.models.dropout import SeededDropout


class FusedLora(nn.Module):
    """In place of a projection that PEFT has put LoRA on; its parts keep their names."""

    def __init__(self, projection: Linear, scaling: float) -> None:
        super().__init__()
        self.base_layer = projection.base_layer
        self.lora_dropout = projection.lora_dropout
        self.lora_A = projection.lora_A
        self.lora_B = projection.lora_B
        self._scaling = scaling

    def forward(self, value: Tensor) -> Tensor:
        """`value` [b, t, in] → [b, t, out]."""
        base, dropout = self.base_layer, self.lora_dropout["default"]
        weight = cast("Tensor", base.weight)
        noise = dropout.noise(value) if isinstance(dropout, SeededDropout) else None
        output: Tensor = _Projection.apply(  # type: ignore[no-untyped-call]
            value,
            weight if isinstance(base, nn.Linear) else weight.T,  # GPT-2 keeps its own transposed
            base.bias,
            self.lora_A["default"].weight,
            self.lora_B["default"].weight,
            self._scaling,
            noise,
        )
        # A view that is made here, outside of the function, may be added to in place (Falcon does).
        return output.view(*value.shape[:-1], -1)


def fuse(model: PreTrainedModel, scaling: float) -> None:
    """Replace every projection of the model that PEFT has put LoRA on."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear):
            model.set_submodule(name, FusedLora(module, scaling))


class _Projection(Function):
    """y = W x + bias + scaling B A (noise x), [b, t, in] → rows [n, out]; W and bias are frozen.

    A [r, in] and B [out, r] are one client's, or with a dimension before, [k, r, in], those of k
    clients, of whom each has the next n / k rows. Then W is applied to all rows together and each
    client's A and B to its own, by the same products as for one client alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        noise: Tensor | None,
    ) -> Tensor:
        rows = value.reshape(-1, value.shape[-1])
        seen = rows if noise is None else rows * noise.reshape(rows.shape)
        ctx.shapes, ctx.scaling = (value.shape, a.shape, b.shape), scaling
        a = a.reshape(-1, *a.shape[-2:]).to(value.dtype)
        b = b.reshape(-1, *b.shape[-2:]).to(value.dtype)
        output = linear(rows, weight, bias)
        low = rows.new_empty(len(rows), a.shape[1])
        for client, own in enumerate(_shares(len(rows), len(a))):
            torch.mm(seen[own], a[client].T, out=low[own]).mul_(scaling)
            output[own].addmm_(low[own], b[client].T)
        ctx.save_for_backward(seen, weight, a, b, low, noise)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        seen, weight, a, b, low, noise = ctx.saved_tensors
        rows = gradient
        of_value = rows @ weight if ctx.needs_input_grad[0] else None
        value_shape, shape_a, shape_b = ctx.shapes
        of_a, of_b = [], []
        for client, own in enumerate(_shares(len(rows), len(a))):
            back = (rows[own] @ b[client]).mul_(ctx.scaling)
            of_b.append((rows[own].T @ low[own]).to(torch.float32))
            of_a.append((back.T @ seen[own]).to(torch.float32))
            if of_value is not None and noise is None:
                of_value[own].addmm_(back, a[client])
            elif of_value is not None:
                of_value[own].addcmul_(back @ a[client], noise.reshape(of_value.shape)[own])
        if of_value is not None:
            of_value = of_value.view(value_shape)
        a_gradient = torch.stack(of_a).view(shape_a)
        return of_value, None, None, a_gradient, torch.stack(of_b).view(shape_b), None, None


def _shares(rows: int, clients: int) -> list[slice]:
    """Which rows belong to which client."""
    size = rows // clients
    return [slice(client * size, (client + 1) * size) for client in range(clients)]
