"""What a task is: examples of text with a right answer, some to learn from and some held out.

Text is cut to length and split into training and held-out rows once, when a task is loaded; from
then on an example is trusted to fit. The answer follows the prompt after one space, unless the
prompt ends in white space. An example with choices is classification, one without is generation.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from topologies.errors import InputError

Kind = Literal["classification", "generation"]


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
    """One question with its right answer, and the answers to choose from (none: free text)."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A task ready for use: every example fits, no text is in both `train` and `held_out`.

    `choices` are those shared by all examples; they are empty for generation, and where each
    example brings its own. `left_out` counts the rows that were looked at and not used: too long
    to be shown whole, repeated, or with two different answers to one prompt.
    """

    name: str
    kind: Kind
    source: str
    licence: str
    choices: tuple[str, ...]
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    left_out: int


@dataclass(frozen=True)
class ClientData:
    """The part of one task's training examples that one client holds.

    With `then`, it holds that from round `until` on instead: its text has changed.
    """

    task: str
    examples: tuple[Example, ...]
    then: ClientData | None = None
    until: int = 0

    def at(self, round_: int) -> ClientData:
        """What it holds in that round."""
        return self.then.at(round_) if self.then and round_ >= self.until else self


class TaskSpec(BaseModel):
    """A task of one's own: JSON lines, each with a prompt, an answer and perhaps choices.

    `prompt`, `answer` and `choices` are the keys under which a row has them. Without `held_out`,
    rows are held out of `train` by a hash of their prompt, so always the same ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: Path
    held_out: Path | None = None
    prompt: str = "prompt"
    answer: str = "answer"
    choices: str = "choices"
    licence: str = "the user's own text"


@dataclass(frozen=True)
class Row:
    """One row as its source has it, before it is made to fit.

    `before` and `after` are the parts of the prompt around `text`, and are never cut. Rows with
    the same `text` are never divided between training and held-out examples.
    """

    text: str
    answer: str
    before: str = ""
    after: str = ""
    choices: tuple[str, ...] = ()

    def example(self, text: str) -> Example:
        """The example that shows `text` in the place of this row's own."""
        return Example(self.before + text + self.after, self.answer, self.choices)


def most_frequent_share(answers: Sequence[str]) -> float:
    """Accuracy of always giving the most frequent of `answers` (0 for none)."""
    return max((answers.count(answer) for answer in set(answers)), default=0) / max(len(answers), 1)
