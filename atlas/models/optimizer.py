"""AdamW over one flat buffer, with its state by parameter name, so that it can move with layers.

Every element is updated as torch's AdamW updates it parameter by parameter: the same bits, in half
of the time. The state is a plain dict of tensors: parameters under the names by which PEFT saves
them, AdamW's two moments under `NAME.exp_avg` and `NAME.exp_avg_sq`, and `step`, the number of
steps they stand for. Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from atlas.models.tensors import ProtocolError

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


class FlatAdamW:
    """Parameters of given shapes, as views of one buffer, and the optimizer that updates them.

    Values are copied, in fp32. `state` has moments and step to go on from, which may be of a larger
    part of the model; without it they begin at zero. Those named in `fixed` stay as they are,
    whatever gradients and weight decay say. Betas (0.9, 0.999) and epsilon (1e-8) are
    torch's defaults.

    Raises ProtocolError if values or moments lack a parameter or have it in another shape.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        values: Mapping[str, Tensor],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        state: Mapping[str, Tensor] | None = None,
        fixed: Collection[str] = (),
    ) -> None:
        self._shapes = shapes
        self._fixed = tuple(fixed)
        self._flat = Parameter(_flatten(shapes, values))
        self.parameters = {
            name: Parameter(view) for name, view in _views(shapes, self._flat.data).items()
        }
        self._optimizer = torch.optim.AdamW(
            [self._flat], lr=learning_rate, weight_decay=weight_decay, foreach=False, fused=False
        )
        self._learning_rate = learning_rate
        self._state = {STEP: torch.tensor(0.0)} if state is None else {STEP: _step_of(state)}
        for moment in MOMENTS:
            self._state[moment] = (
                torch.zeros_like(self._flat.data)
                if state is None
                else _flatten(shapes, state, f".{moment}")
            )
        self._optimizer.state[self._flat] = self._state

    def apply(
        self, gradients: Iterable[Tensor], *, scale: float = 1.0, rate: float | None = None
    ) -> None:
        """One step with `gradients` in the parameters' order, times `scale`, at learning rate
        `rate` (None: the one it was made with).
        """
        self._optimizer.param_groups[0]["lr"] = self._learning_rate if rate is None else rate
        self._flat.grad = _joined(gradients)
        if scale != 1.0:
            self._flat.grad.mul_(scale)
        kept = {name: self.parameters[name].detach().clone() for name in self._fixed}
        self._optimizer.step()
        self._flat.grad = None
        for name, value in kept.items():
            self.parameters[name].data.copy_(value)

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all that a later optimizer needs to go on as this one would."""
        copied = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for moment in MOMENTS:
            for name, view in _views(self._shapes, self._state[moment]).items():
                copied[f"{name}.{moment}"] = view.clone()
        copied[STEP] = self._state[STEP].clone()
        return copied


def norms(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """The Euclidean norm of each gradient, computed in fp32 as `clip_grad_norm_` computes it."""
    return {name: torch.linalg.vector_norm(g, 2.0).item() for name, g in gradients.items()}


def clip_scale(norms: Sequence[float], most: float) -> float:
    """What gradients are multiplied by so that their global norm is `most` or less.

    `norms` are those of all of the model's parameters, in the model's order: then this is, bit for
    bit, the factor of `torch.nn.utils.clip_grad_norm_(parameters, most, foreach=False)`. Source:
    Pascanu et al., On the difficulty of training recurrent neural networks, 2013.
    """
    total = torch.linalg.vector_norm(torch.tensor(norms, dtype=torch.float32), 2.0)
    return torch.clamp(most / (total + 1e-6), max=1.0).item()


def _flatten(
    shapes: Mapping[str, torch.Size], values: Mapping[str, Tensor], suffix: str = ""
) -> Tensor:
    """Values of these shapes in one fp32 buffer of their own."""
    parts = []
    for name, shape in shapes.items():
        value = values.get(name + suffix)
        if value is None:
            raise ProtocolError(f"the adapter lacks {name}{suffix}")
        if value.shape != shape:
            raise ProtocolError(f"{name}{suffix} has shape {list(value.shape)}, not {list(shape)}")
        parts.append(value.detach().to(torch.float32))
    return _joined(parts)


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """All elements in one new buffer, which may be empty."""
    parts = [tensor.reshape(-1) for tensor in tensors]
    return torch.cat(parts) if parts else torch.zeros(0)


def _step_of(state: Mapping[str, Tensor]) -> Tensor:
    """The number of steps that a state stands for, fp32 as torch counts them."""
    if STEP not in state or state[STEP].numel() != 1:
        raise ProtocolError("the optimizer's state does not say how many steps it stands for")
    return state[STEP].detach().to(torch.float32).clone().reshape(())


def _views(shapes: Mapping[str, torch.Size], flat: Tensor) -> dict[str, Tensor]:
    """The parts of a flat buffer, in the order of the shapes, without a copy."""
    views, offset = {}, 0
    for name, shape in shapes.items():
        views[name] = flat[offset : offset + shape.numel()].view(shape)
        offset += shape.numel()
    return views
