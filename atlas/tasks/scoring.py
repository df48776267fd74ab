"""How good a model is at held-out rows: loss, choice loss and accuracy in one pass over each.

For a question with choices, the prompt and all choices stand in one sequence: each choice is
placed right behind the prompt and sees the prompt and itself, nothing else (a mask and positions
of its own). Choices of a single token need not stand there at all, for the position that ends the
prompt predicts them. The result is that of one plain pass per choice, at a fraction of the time.

Logits are made only where an answer is predicted, from a contiguous copy of those positions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch.nn.functional import log_softmax

from atlas.tasks.batching import PADDING
from atlas.tasks.encoding import answer_tokens, choice_tokens, prompt_tokens
from atlas.tasks.model import Example, TaskError, Tokenizer, most_frequent_share

PACKABLE = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Kinds of model (`config.model_type`) whose decoder takes positions and a mask of [B, 1, T, T],
and whose logits are the output embedding of its last hidden state, nothing more. The others are
scored by a plain pass for each choice."""


@dataclass(frozen=True)
class Score:
    """What `score` found.

    Attributes:
        rows: number of examples.
        loss: mean over rows of the mean over the right answer's tokens of the cross-entropy, in
            nats.
        choice_loss: mean over rows of the cross-entropy of the right choice under a softmax over
            the choices' log-likelihoods, each summed over the choice's tokens; None for
            generation.
        accuracy: share of rows whose right choice is the likeliest (the first among equals); for
            generation, share of rows in which each token of the answer, with the end token, is the
            likeliest after those before it: what greedy decoding writes is then the answer,
            exactly.
        majority: accuracy of always giving the answer that is most frequent among these rows.
    """

    rows: int
    loss: float
    choice_loss: float | None
    accuracy: float
    majority: float


@dataclass(frozen=True)
class _Question:
    """A prompt with everything that could follow it; `right` is the place of the right answer."""

    prompt: list[int]
    options: tuple[tuple[int, ...], ...]
    right: int


@dataclass(frozen=True)
class _Verdict:
    loss: float
    choice_loss: float
    correct: bool


def score(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    batch_size: int = 16,
    broken_off: threading.Event | None = None,
) -> Score:
    """The model's score on the examples. The model's training mode is left as it was.

    Args:
        model: a causal language model as transformers has it, with PEFT's adapters or without.
        tokenizer: the model's.
        examples: all with choices or all without.
        max_tokens: the most tokens of prompt and answer together.
        batch_size: rows that go through the model at once.
        broken_off: set by another thread when nobody wants the score any more.

    Raises:
        TaskError: no examples, both kinds of them, or one that is too long.
        CancelledError: `broken_off` was set.
    """
    if not examples or len({bool(example.choices) for example in examples}) > 1:
        raise TaskError("a score needs examples, all with choices or all without")
    questions = [_question(example, tokenizer, max_tokens) for example in examples]
    by_length = sorted(range(len(questions)), key=lambda at: len(questions[at].prompt))
    verdicts: dict[int, _Verdict] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(by_length), batch_size):
                if broken_off is not None and broken_off.is_set():
                    raise CancelledError
                rows = by_length[start : start + batch_size]
                judged = _judge(_causal_model(model), [questions[at] for at in rows])
                verdicts.update(zip(rows, judged, strict=True))
    finally:
        model.train(was_training)
    ordered = [verdicts[at] for at in range(len(questions))]
    generation = not examples[0].choices
    return Score(
        rows=len(ordered),
        loss=sum(verdict.loss for verdict in ordered) / len(ordered),
        choice_loss=(
            None if generation else sum(verdict.choice_loss for verdict in ordered) / len(ordered)
        ),
        accuracy=sum(verdict.correct for verdict in ordered) / len(ordered),
        majority=most_frequent_share([example.answer for example in examples]),
    )


def _question(example: Example, tokenizer: Tokenizer, max_tokens: int) -> _Question:
    prompt = prompt_tokens(example, tokenizer)
    answer = tuple(answer_tokens(example, tokenizer))
    if len(prompt) + len(answer) > max_tokens:
        raise TaskError(
            f"an example of {len(prompt) + len(answer)} tokens is over the {max_tokens} allowed",
            key="max_tokens",
            remedy="Load the task with the same max_tokens and tokenizer",
        )
    if not example.choices:
        return _Question(prompt, (answer,), 0)
    options = choice_tokens(example, tokenizer)
    return _Question(prompt, options, example.choices.index(example.answer))


class _Config(Protocol):
    model_type: str


class _Output(Protocol):
    logits: torch.Tensor
    last_hidden_state: torch.Tensor


class _CausalModel(Protocol):
    """What is used here of `transformers.PreTrainedModel`, of which much is not typed."""

    config: _Config
    device: torch.device
    dtype: torch.dtype

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool) -> _Output: ...

    def base_model(
        self,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        use_cache: bool,
    ) -> _Output: ...

    def get_output_embeddings(self) -> Callable[[torch.Tensor], torch.Tensor]: ...


def _causal_model(model: torch.nn.Module) -> _CausalModel:
    """The model under PEFT's wrapping, adapters still in it."""
    inner = getattr(model, "get_base_model", None)
    return cast("_CausalModel", inner() if callable(inner) else model)


def _judge(model: _CausalModel, questions: Sequence[_Question]) -> list[_Verdict]:
    if model.config.model_type in PACKABLE or all(_is_plain(question) for question in questions):
        sequences = [_Sequence.packed(question.prompt, question.options) for question in questions]
        return [
            _verdict(question, readings)
            for question, readings in zip(questions, _read(model, sequences), strict=True)
        ]
    verdicts = []
    for question in questions:
        alone = [_Sequence.packed(question.prompt, (option,)) for option in question.options]
        verdicts.append(_verdict(question, [reading[0] for reading in _read(model, alone)]))
    return verdicts


def _is_plain(question: _Question) -> bool:
    """Whether one ordinary causal sequence shows everything that could follow the prompt."""
    return len(question.options) == 1 or all(len(option) == 1 for option in question.options)


@dataclass(frozen=True)
class _Reading:
    """What the model says of one option, token by token."""

    log_likelihoods: list[float]
    likeliest: bool


def _verdict(question: _Question, readings: Sequence[_Reading]) -> _Verdict:
    right = readings[question.right]
    loss = -sum(right.log_likelihoods) / len(right.log_likelihoods)
    if len(readings) == 1:
        return _Verdict(loss, 0.0, right.likeliest)
    totals = torch.tensor([sum(r.log_likelihoods) for r in readings], dtype=torch.float64)
    choice_loss = -log_softmax(totals, dim=0)[question.right].item()
    return _Verdict(loss, choice_loss, int(totals.argmax()) == question.right)


@dataclass(frozen=True)
class _Sequence:
    """A prompt and options in one sequence of T tokens.

    `branches[t]` is 0 in the prompt and k in the k-th option: a token sees the prompt and the
    earlier tokens of its own branch. `places[k]` are the T positions that predict the tokens
    `options[k]`.
    """

    tokens: list[int]
    positions: list[int]
    branches: list[int]
    places: list[list[int]]
    options: tuple[tuple[int, ...], ...]

    @classmethod
    def packed(cls, prompt: list[int], options: tuple[tuple[int, ...], ...]) -> _Sequence:
        tokens = list(prompt)
        positions = list(range(len(prompt)))
        branches = [0] * len(prompt)
        places = []
        for branch, option in enumerate(options, start=1):
            start, shown = len(tokens), len(option) - 1
            places.append([len(prompt) - 1, *range(start, start + shown)])
            tokens += option[:-1]
            positions += range(len(prompt), len(prompt) + shown)
            branches += [branch] * shown
        return cls(tokens, positions, branches, places, options)


def _read(model: _CausalModel, sequences: Sequence[_Sequence]) -> list[list[_Reading]]:
    """One pass over all sequences; for each, the reading of each of its options."""
    wanted: dict[tuple[int, int], int] = {}
    for row, sequence in enumerate(sequences):
        for places in sequence.places:
            for place in places:
                wanted.setdefault((row, place), len(wanted))
    rows, columns = zip(*wanted, strict=True)
    logits = _logits(model, sequences, list(rows), list(columns))
    log_likelihood = log_softmax(logits.float(), dim=-1)
    likeliest = logits.argmax(dim=-1).tolist()
    readings = []
    for row, sequence in enumerate(sequences):
        of_row = []
        for places, option in zip(sequence.places, sequence.options, strict=True):
            at = [wanted[row, place] for place in places]
            of_row.append(
                _Reading(
                    log_likelihood[at, list(option)].tolist(),
                    all(likeliest[i] == token for i, token in zip(at, option, strict=True)),
                )
            )
        readings.append(of_row)
    return readings


def _logits(
    model: _CausalModel, sequences: Sequence[_Sequence], rows: list[int], columns: list[int]
) -> torch.Tensor:
    """Logits [len(rows), vocabulary] at the given rows and columns of the padded sequences."""
    device = model.device
    tokens = _padded([sequence.tokens for sequence in sequences], PADDING).to(device)
    if model.config.model_type not in PACKABLE:
        return model(input_ids=tokens, use_cache=False).logits[rows, columns]
    branching = any(len(set(sequence.branches)) > 2 for sequence in sequences)
    hidden = model.base_model(
        input_ids=tokens,
        attention_mask=_mask(sequences).to(device, model.dtype) if branching else None,
        position_ids=_padded([sequence.positions for sequence in sequences], 0).to(device),
        use_cache=False,
    ).last_hidden_state
    needed = hidden[rows, columns].contiguous()
    return model.get_output_embeddings()(needed)


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _mask(sequences: Sequence[_Sequence]) -> torch.Tensor:
    """Additive mask [B, 1, T, T]: 0 where a token (row) sees another (column), else -3e38."""
    branches = _padded([sequence.branches for sequence in sequences], -1)
    own = branches[:, :, None] == branches[:, None, :]
    prompt = (branches == 0)[:, None, :]
    earlier = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool).tril()
    sees = (own | prompt) & earlier
    return torch.zeros(sees.shape).masked_fill(~sees, -3e38)[:, None]
