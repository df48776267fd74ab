"""What a person reads when something they wrote can't be understood.

Every error about input (a file, a key in it, a value on the command line) is an
`InputError`. It says where the trouble is and what would be right, so that it can be shown
as it is, without a traceback. It lives here because this is the lowest floor of the house: the
rooms above subclass it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told to the person who wrote it.

    Attributes:
        problem: what is wrong, one sentence without the period.
        file: the file it stands in, if it stands in one.
        line: its line there, counted from 1, where that is known.
        key: the path of keys to it, such as ``timeline #4 > degrade > bandwidth``; ``#4`` is the
            fourth of a list.
        remedy: what would be right.

    ``str()`` gives ``file:line: key: problem. remedy``, without the parts that are not known.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        key: str | None = None,
        remedy: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.file = file
        self.key = key
        self.remedy = remedy
        self.line = line

    def __str__(self) -> str:
        place = self.file
        if self.line is not None:
            place = f"{self.file}:{self.line}" if self.file else f"line {self.line}"
        text = ": ".join(part for part in (place, self.key, self.problem) if part)
        return f"{text}. {self.remedy}" if self.remedy else text


class TopologyError(InputError):
    """A topology or a device that can't be understood, or can't be a network."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one, or None where none does."""
    return next(iter(near(word, known, most=1)), None)


def near(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """The known words that look like this one, most alike first, whatever their case."""
    spellings = {name.casefold(): name for name in known}
    matches = difflib.get_close_matches(word.casefold(), spellings, n=most, cutoff=0.6)
    return [spellings[match] for match in matches]


def did_you_mean(word: str, known: Iterable[str], *, what: str) -> str:
    """A remedy for an unknown word: the nearest known one, or else all of them.

    >>> did_you_mean("bandwith", ["bandwidth", "delay"], what="settings")
    'Did you mean "bandwidth"? The settings are bandwidth, delay'
    """
    names = list(known)
    if not names:
        return f"There are no {what} here"
    listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
    match = nearest(word, names)
    question = f'Did you mean "{match}"? ' if match else ""
    return f"{question}The {what} are {listed}"


LISTED = 24
