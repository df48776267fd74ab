"""What a client's answers mean: which of them goes with which kind of text.

Where clients choose among the same words, most of a gradient says which words were the right ones
and how often: that is alike for all who share the words, whatever they mean by them. Two things
bring out the meaning. The gradient of each answer's examples is sketched by itself and *turned*, by
a signed permutation of its own, before all are added: so a kind of text that goes with another word
adds to other directions. And the same is taken off with the answers *dealt* to other examples of
the batch: what an answer does to a gradient by itself, however often it comes, is then gone, and
what is left depends on the text that it goes with.

Nobody but the client sees an answer: it splits the batch, and turns and adds what hosts sketched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray

from atlas.semantics.placing import unit
from atlas.tasks import Batch
from atlas.tasks.batching import IGNORED, PADDING

Floats = NDArray[np.float64]

WEIGHT = 1.0
"""How long the part that tells meanings apart is, in lengths of the batch's own sketch."""

STEEPNESS = 3
"""The power of its depth by which a layer counts here: a word's meaning shows in the last ones."""


@dataclass(frozen=True)
class Meaning:
    """One answer of a batch.

    Attributes:
        answer: its tokens.
        own: the rows that it answers.
        dealt: as many other rows, with this answer in place of theirs.
    """

    answer: tuple[int, ...]
    own: Batch
    dealt: Batch


def meanings(batch: Batch) -> tuple[Meaning, ...]:
    """A batch split by its answers, in the order of their tokens; each row is in one `own` and one
    `dealt`.

    Row i is dealt the answer of row i + 1, the last that of the first. No row gets longer than the
    longest of the batch: where it would, the prompt loses its first tokens.
    """
    prompts, answers = [], []
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        labels = [place for place, target in enumerate(targets) if target != IGNORED]
        prompts.append(tokens[: labels[0] + 1])
        answers.append(tuple(targets[place] for place in labels))
    dealt = answers[1:] + answers[:1]
    longest = batch.tokens.shape[1]
    return tuple(
        Meaning(answer, *(_rows(prompts, answer, some, longest) for some in (answers, dealt)))
        for answer in sorted(set(answers))
    )


def turned(sketch: Floats, answer: Sequence[int], *, seed: int) -> Floats:
    """The sketch, [dimensions], in the directions of an answer: permuted, and with other signs."""
    key = sha256(f"answer {seed} {' '.join(map(str, answer))}".encode()).digest()[:16]
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    order = generator.permutation(len(sketch))
    signs = 1.0 - 2.0 * generator.integers(0, 2, len(sketch))
    found: Floats = sketch[order] * signs
    return found


def with_meanings(own: Floats, meaning: Floats) -> Floats:
    """A half-signature, [dimensions]: the sketch of the batch, and what its answers mean."""
    both: Floats = unit(own) + WEIGHT * unit(meaning)
    return both


def _rows(
    prompts: Sequence[list[int]], answer: tuple[int, ...], answers: Sequence[object], longest: int
) -> Batch:
    """The prompts that have this answer among `answers`, with it, as a batch."""
    rows = [
        prompt[-(longest + 1 - len(answer)) :]
        for prompt, given in zip(prompts, answers, strict=True)
        if given == answer
    ]
    tokens = torch.full(
        (len(rows), max(map(len, rows)) + len(answer) - 1), PADDING, dtype=torch.int64
    )
    targets = torch.full_like(tokens, IGNORED)
    for index, prompt in enumerate(rows):
        whole = torch.tensor([*prompt, *answer])
        tokens[index, : len(whole) - 1] = whole[:-1]
        targets[index, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return Batch(tokens, targets)
