"""How good a model is at rows that it has not seen: likelihoods of answers, in one pass over each.

For a question with choices, the prompt and all choices stand in one sequence: each choice is
placed right behind the prompt and sees the prompt and itself, nothing else (a mask and positions
of its own). Choices of a single token need not stand there at all, for the position that ends the
prompt predicts them. The result is that of one plain pass per choice, at a fraction of the time.

Logits are made only where an answer is predicted, from a contiguous copy of those positions.

Rows are judged in batches of like length, padded on the right, where a causal model looks at
nothing. So a judgment is the same in any batch, but for the rounding of sums that are taken in
another order: some 1e-6 in float32, some 1e-2 in bfloat16.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol, cast

import torch
from torch.nn.functional import log_softmax

from atlas.tasks.batching import PADDING
from atlas.tasks.encoding import answer_tokens, choice_tokens, prompt_tokens
from atlas.tasks.greedy import write
from atlas.tasks.metrics import measure
from atlas.tasks.model import (
    WRITTEN,
    Example,
    Metric,
    TaskError,
    Tokenizer,
    most_frequent_share,
)

PACKABLE = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Kinds of model (`config.model_type`) whose decoder takes positions and a mask of [B, 1, T, T],
and whose logits are the output embedding of its last hidden state, nothing more. The others are
scored by a plain pass for each choice."""


@dataclass(frozen=True)
class Judgment:
    """What was found of one row.

    Attributes:
        loss: mean over the right answer's tokens of the cross-entropy, in nats.
        choice_loss: cross-entropy of the right choice under a softmax over the choices'
            log-likelihoods, each summed over the choice's tokens; None for generation.
        correct: whether the right choice is the likeliest (the first among equals); for generation,
            whether each token of the answer, with the end token, is the likeliest after those
            before it: what greedy decoding writes is then the answer, exactly.
        said: the likeliest choice, or what greedy decoding wrote; None where nothing was written.
    """

    loss: float
    choice_loss: float | None
    correct: bool
    said: str | None


@dataclass(frozen=True)
class Score:
    """What `score` found: means over rows of what stands in a `Judgment`.

    Attributes:
        rows: number of examples.
        loss: as in a judgment.
        choice_loss: as there; None for generation.
        accuracy: share of rows that are correct: for generation, exact matches.
        majority: accuracy of always giving the answer that is most frequent among these rows.
        metrics: each metric that goes with these rows, 0 to 1 (see `atlas.tasks.metrics`):
            accuracy for classification, with macro-f1 where all rows have the same choices;
            exact-match for generation, with token-f1 and rouge-l where answers were written.
    """

    rows: int
    loss: float
    choice_loss: float | None
    accuracy: float
    majority: float
    metrics: Mapping[Metric, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question:
    """A prompt with everything that could follow it; `right` is the place of the right answer, and
    `names` are the choices as text (none for generation).
    """

    prompt: list[int]
    options: tuple[tuple[int, ...], ...]
    right: int
    names: tuple[str, ...]


def score(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    batch_size: int = 16,
    written: bool = False,
    broken_off: threading.Event | None = None,
) -> Score:
    """The model's score on the examples: `summarize` of `judge`, with the same arguments."""
    judgments = judge(
        model,
        tokenizer,
        examples,
        max_tokens=max_tokens,
        batch_size=batch_size,
        written=written,
        broken_off=broken_off,
    )
    return summarize(examples, judgments)


def judge(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    batch_size: int = 16,
    written: bool = False,
    broken_off: threading.Event | None = None,
) -> tuple[Judgment, ...]:
    """What the model makes of each example. The model's training mode is left as it was.

    Args:
        model: a causal language model as transformers has it, with PEFT's adapters or without.
        tokenizer: the model's.
        examples: all with choices or all without.
        max_tokens: the most tokens of prompt and answer together.
        batch_size: rows that go through the model at once.
        written: whether answers without choices are written, too, greedily.
        broken_off: set by another thread when nobody wants to know any more.

    Raises:
        TaskError: no examples, both kinds of them, or one that is too long.
        CancelledError: `broken_off` was set.
    """
    if not examples or len({bool(example.choices) for example in examples}) > 1:
        raise TaskError("a score needs examples, all with choices or all without")
    questions = [_question(example, tokenizer, max_tokens) for example in examples]
    by_length = sorted(range(len(questions)), key=lambda at: len(questions[at].prompt))
    judgments: dict[int, Judgment] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(by_length), batch_size):
                if broken_off is not None and broken_off.is_set():
                    raise CancelledError
                rows = by_length[start : start + batch_size]
                judged = _judge(_causal_model(model), [questions[at] for at in rows])
                if written and not examples[0].choices:
                    prompts = [questions[at].prompt for at in rows]
                    texts = write(model, tokenizer, prompts, max_tokens=max_tokens)
                    judged = [
                        replace(judgment, said=text)
                        for judgment, text in zip(judged, texts, strict=True)
                    ]
                judgments.update(zip(rows, judged, strict=True))
    finally:
        model.train(was_training)
    return tuple(judgments[at] for at in range(len(questions)))


def summarize(examples: Sequence[Example], judgments: Sequence[Judgment]) -> Score:
    """The score that these judgments of these examples make."""
    losses = [each.choice_loss for each in judgments if each.choice_loss is not None]
    right = [example.answer for example in examples]
    accuracy = fmean(judgment.correct for judgment in judgments)
    said = [judgment.said for judgment in judgments if judgment.said is not None]
    metrics: dict[Metric, float] = {}
    if losses:
        metrics["accuracy"] = accuracy
        if len({example.choices for example in examples}) == 1:
            metrics["macro-f1"] = measure("macro-f1", right, said)
    else:
        metrics["exact-match"] = accuracy
        if said:
            metrics |= {name: measure(name, right, said) for name in sorted(WRITTEN)}
    return Score(
        rows=len(judgments),
        loss=fmean(judgment.loss for judgment in judgments),
        choice_loss=fmean(losses) if losses else None,
        accuracy=accuracy,
        majority=most_frequent_share(right),
        metrics=metrics,
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
        return _Question(prompt, (answer,), 0, ())
    options = choice_tokens(example, tokenizer)
    return _Question(prompt, options, example.choices.index(example.answer), example.choices)


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


def _judge(model: _CausalModel, questions: Sequence[_Question]) -> list[Judgment]:
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


def _verdict(question: _Question, readings: Sequence[_Reading]) -> Judgment:
    right = readings[question.right]
    loss = -sum(right.log_likelihoods) / len(right.log_likelihoods)
    if not question.names:
        return Judgment(loss, None, right.likeliest, None)
    totals = torch.tensor([sum(r.log_likelihoods) for r in readings], dtype=torch.float64)
    choice_loss = -log_softmax(totals, dim=0)[question.right].item()
    likeliest = int(totals.argmax())
    return Judgment(loss, choice_loss, likeliest == question.right, question.names[likeliest])


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
