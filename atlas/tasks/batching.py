"""From examples to the tensors that a model trains on. Shapes: B rows, T positions.

Rows are padded on the right. In causal attention no position sees what comes after it, so padding
needs no mask: it has no label and changes nothing before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atlas.tasks.encoding import answer_tokens, prompt_tokens
from atlas.tasks.model import ClientData, Example, TaskError, Tokenizer

IGNORED = -100
"""The target of a position without a label, as `torch.nn.functional.cross_entropy` has it."""
PADDING = 0
"""The token that fills short rows. Any would do: nothing looks at it."""
POOL = 50
"""Batches whose rows are sorted by length together."""


@dataclass(frozen=True)
class Batch:
    """Rows to train on.

    Attributes:
        tokens: int64 [B, T], what the model reads: prompt and answer but for the last token, which
            has nothing to predict. Padded on the right.
        targets: int64 [B, T]; `targets[i, t]` is the token that position t predicts, -100 where
            none counts. Already shifted: logits and targets line up.
    """

    tokens: torch.Tensor
    targets: torch.Tensor

    @property
    def needed(self) -> torch.Tensor:
        """Positions up to the last label of their row, bool [B, T]: the others change nothing."""
        labels_from_here = (self.targets != IGNORED).flip(1).cumsum(1).flip(1)
        return labels_from_here > 0


def batch(examples: Sequence[Example], tokenizer: Tokenizer, max_tokens: int) -> Batch:
    """A batch of the examples, in their order, with labels on the tokens of the answers alone.

    Raises:
        TaskError: an example is longer than `max_tokens`, or there is no example.
    """
    if not examples:
        raise TaskError("a batch needs at least one example")
    rows = [
        (prompt_tokens(example, tokenizer), answer_tokens(example, tokenizer))
        for example in examples
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    if longest > max_tokens:
        raise TaskError(
            f"an example of {longest} tokens is longer than the {max_tokens} allowed",
            key="max_tokens",
            remedy="Load the task with the same max_tokens and tokenizer",
        )
    tokens = torch.full((len(rows), longest - 1), PADDING, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORED)
    for index, (prompt, answer) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        tokens[index, : len(whole) - 1] = whole[:-1]
        targets[index, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return Batch(tokens, targets)


def step_batch(
    data: ClientData,
    *,
    tokenizer: Tokenizer,
    size: int,
    max_tokens: int,
    seed: int,
    client: str,
    round: int,
    step: int,
    steps_per_round: int | None = None,
) -> Batch:
    """The batch of one training step; the same arguments always give the same batch.

    Rows come in a shuffled order without repeats until all have been seen, then in another. With
    `steps_per_round` that holds over the whole run, and rows of about the same length share a
    batch, for padding is computed like text. Without it, each round begins anew, and its batches
    are drawn alike.

    Args:
        size: rows in the batch.
        round: counted from 0.
        step: counted from 0 in its round.
    """
    if steps_per_round is None:
        first, stream = step * size, f"{seed}/{client}/{round}"
    else:
        first, stream = (round * steps_per_round + step) * size, f"{seed}/{client}"
    rows = len(data.examples)
    orders: dict[int, list[int]] = {}
    chosen = []
    for position in range(first, first + size):
        epoch, place = divmod(position, rows)
        if epoch not in orders:
            orders[epoch] = _shuffled(rows, f"{stream}/{epoch}")
            if steps_per_round is not None:
                first = min(-epoch * rows % size, rows)
                orders[epoch] = _by_length(data, orders[epoch], first, size, f"{stream}/{epoch}")
        chosen.append(data.examples[orders[epoch][place]])
    return batch(chosen, tokenizer, max_tokens)


def _by_length(data: ClientData, order: list[int], first: int, size: int, stream: str) -> list[int]:
    """The same rows in batches of like length, made out of `POOL` of them at a time.

    The batches of a pool are shuffled, so length says nothing of when a row's turn comes. Rows that
    share a batch with those of the epoch before (`first` of them) or after stay where they are.
    """

    def length(row: int) -> tuple[int, int]:
        example = data.examples[row]
        return len(example.prompt) + len(example.answer), row

    last = len(order) - (len(order) - first) % size
    grouped = order[:first]
    for start in range(first, last, POOL * size):
        pool = sorted(order[start : min(start + POOL * size, last)], key=length)
        for place in _shuffled(len(pool) // size, f"{stream}/{start}"):
            grouped += pool[place * size : (place + 1) * size]
    return grouped + order[last:]


def _shuffled(rows: int, stream: str) -> list[int]:
    """Row numbers in an order that depends on `stream` alone, in any version of Python."""
    return sorted(range(rows), key=lambda row: hashlib.sha256(f"{stream}/{row}".encode()).digest())
