"""Several clients' small batches through one host's layers at once.

The frozen matrices are read once for all, which pays where batches are small; each client's LoRA is
applied to its own rows. With batches of one shape, and the fused function, each client gets the
bits that it would get alone: no operation of a layer mixes rows of two clients. That products of
more rows round each row alike is a property of the processor's kernels, found by measuring.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.models.merged import Pairs
from atlas.models.session import Session
from atlas.models.tensors import ProtocolError


class Group:
    """Sessions of different clients on one host's stage, which take their steps together.

    Gradients end up in the sessions, which are committed or discarded one by one. Raises ValueError
    unless all are on one stage, made with `lora.fused` and without dropout, and share what was
    merged into the base.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        stage = sessions[0].stage
        if any(session.stage is not stage for session in sessions):
            raise ValueError("sessions of one group are on one stage")
        if not stage.lora.fused or stage.lora.dropout or stage.ends:
            raise ValueError("a group needs a host's stage with lora.fused and without dropout")
        pairs = sessions[0].pairs
        if any(not _shared(session.pairs, pairs) for session in sessions):
            raise ValueError("what was merged into the base is the same for all of one group")
        self._sessions = sessions
        self._stage = stage
        self._received: Tensor | None = None
        self._output: Tensor | None = None

    def forward(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """A hidden state [b, t, h] of each client → one for each, detached.

        Raises ProtocolError if they are not as many as the sessions or not all of one shape.
        """
        self._check(hidden)
        self._received = torch.cat(list(hidden)).requires_grad_()
        with torch.enable_grad():
            stacked = {
                name: torch.stack([session.parameters[name] for session in self._sessions])
                for name in self._stage.shapes
            }
        self._output = self._stage.run(self._received, stacked, pairs=self._sessions[0].pairs)
        return list(self._output.detach().chunk(len(self._sessions)))

    def backward(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """A gradient [b, t, h] of each client's output → of what it sent.

        Raises RuntimeError if no forward is in flight, ProtocolError as `forward`.
        """
        if self._output is None or self._received is None:
            raise RuntimeError("there is nothing to go back through: call forward first")
        self._check(gradients)
        output, received, self._output, self._received = self._output, self._received, None, None
        torch.autograd.backward(output, torch.cat(list(gradients)))
        assert received.grad is not None
        return list(received.grad.chunk(len(self._sessions)))

    def _check(self, tensors: Sequence[Tensor]) -> None:
        shapes = {tensor.shape for tensor in tensors}
        if len(tensors) != len(self._sessions) or len(shapes) != 1:
            raise ProtocolError(
                f"{len(tensors)} tensors of {len(shapes)} shapes came for "
                f"{len(self._sessions)} clients, who need one each, of one shape"
            )


def _shared(one: Pairs, other: Pairs) -> bool:
    """Whether two clients' merged pairs are the same tensors."""
    return one.keys() == other.keys() and all(
        mine.data_ptr() == its.data_ptr()
        for name, pair in one.items()
        for mine, its in zip(pair, other[name], strict=True)
    )
