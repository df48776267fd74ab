"""What a task is: examples of text with a right answer, some to learn from and some held out.

Text is cut to length and split into training, validation and held-out rows once, when a task is
loaded; from then on an example is trusted to fit. The answer follows the prompt after one space,
unless the prompt ends in white space. An example with choices is classification, one without is
generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from topologies.errors import InputError

Kind = Literal["classification", "generation"]
Metric = Literal["accuracy", "macro-f1", "exact-match", "token-f1", "rouge-l"]
"""What a task is judged by; `atlas.tasks.metrics` has the formulas."""
WRITTEN: frozenset[Metric] = frozenset({"token-f1", "rouge-l"})
"""The metrics of what a model writes; the others come with its likelihoods."""


class TaskError(InputError):
    """A task, or a file of text, that can't be used as it is."""


class Tokenizer(Hashable, Protocol):
    """What tasks need of a tokenizer; every Hugging Face tokenizer is one."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of the text."""
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids."""
        ...


@dataclass(frozen=True)
class Example:
    """One question with its right answer, and the answers to choose from (none: free text).

    `domain` is the part of its data set that it is from, where that has parts: a subject, an
    outlet, a person. `beginning` is how its source's text begins, in plain words, by which rows of
    one text are known again in another task. Neither is shown to a model.
    """

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    domain: str = field(default="", compare=False, repr=False)
    beginning: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Task:
    """A task ready for use: every example fits, and no text is in two of `train`, `validation` and
    `held_out`.

    `choices` are those shared by all examples; they are empty for generation, and where each
    example brings its own. `left_out` counts the rows that were looked at and not used: too long
    to be shown whole, repeated (but for case, spacing and punctuation), or with two different
    answers to one prompt. Settings are chosen by `validation`; `held_out` is the test.
    """

    name: str
    kind: Kind
    source: str
    licence: str
    choices: tuple[str, ...]
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    left_out: int
    validation: tuple[Example, ...] = ()
    metric: Metric = "accuracy"

    @property
    def domains(self) -> dict[str, int]:
        """Training rows by domain, most first (ties: by name)."""
        counts = Counter(example.domain for example in self.train)
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


@dataclass(frozen=True)
class ClientData:
    """The training examples that one client holds.

    `task` is the one that they are of, or that most of them are of; `shares` says how many are of
    which, where there may be several. With `then`, it holds that from round `until` on instead: its
    text has changed.
    """

    task: str
    examples: tuple[Example, ...]
    then: ClientData | None = None
    until: int = 0
    shares: tuple[tuple[str, int], ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that it has rows of."""
        return tuple(name for name, _ in self.shares) or (self.task,)

    def at(self, round_: int) -> ClientData:
        """What it holds in that round."""
        return self.then.at(round_) if self.then and round_ >= self.until else self

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices that all examples share; none where they don't, or where answers are free."""
        found = {example.choices for example in self.examples}
        return found.pop() if len(found) == 1 else ()


class TaskSpec(BaseModel):
    """A task of one's own: rows in files or in a folder of Hugging Face's `datasets`.

    `prompt`, `answer`, `choices` and `domain` are the keys under which a row has them; `choices`
    may also be the list of them. `after` ends every prompt. With `cut`, prompts that are too long
    are cut after a word; otherwise such rows are left out. Without files of their own, validation
    and held-out rows are taken out of `train` by a hash of their text, so always the same ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: Path
    validation: Path | None = None
    held_out: Path | None = None
    prompt: str = "prompt"
    answer: str = "answer"
    choices: str | tuple[str, ...] = "choices"
    domain: str | None = None
    after: str = ""
    cut: bool = False
    metric: Metric | None = None
    licence: str = "the user's own text"


@dataclass(frozen=True)
class Row:
    """One row as its source has it, before it is made to fit.

    `before` and `after` are the parts of the prompt around `text`, and are never cut. Rows with
    the same `text` are never divided between training, validation and held-out examples.
    """

    text: str
    answer: str
    before: str = ""
    after: str = ""
    choices: tuple[str, ...] = ()
    domain: str = ""

    def example(self, text: str, beginning: str = "") -> Example:
        """The example that shows `text` in the place of this row's own."""
        prompt = self.before + text + self.after
        return Example(prompt, self.answer, self.choices, self.domain, beginning)


def most_frequent_share(answers: Sequence[str]) -> float:
    """Accuracy of always giving the most frequent of `answers` (0 for none)."""
    return max((answers.count(answer) for answer in set(answers)), default=0) / max(len(answers), 1)
