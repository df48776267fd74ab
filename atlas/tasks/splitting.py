"""Which rows are held out, which are for validation, and which are left to learn from.

It depends on nothing but the text: rows are ordered by a hash, the first are held out and the last
are for validation, whatever the seed of a run. So a score before is one of the same rows after, and
neither of the two parts changes when there is more or less of the other. Rows that show the same
text are kept in one part, and classification keeps its natural proportions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from atlas.tasks.apportioning import apportion
from atlas.tasks.distinct import plain
from atlas.tasks.model import Example, Task, TaskError

Shown = list[tuple[str, Example]]
"""Examples with the text that each shows, in the order of their hash."""


@dataclass(frozen=True)
class Parts:
    """The rows of a task."""

    train: Shown
    validation: Shown = field(default_factory=list)
    held_out: Shown = field(default_factory=list)


def split(shown: Shown, *, held_out: int, validation: int, name: str) -> Parts:
    """The rows in three parts. Whole groups of one text are taken, so parts may be a little short.

    Raises:
        TaskError: no more than half of the rows can be held out.
    """
    if len(shown) < 2 * (held_out + validation):
        taken = f"{held_out} of them" + (f" and {validation} more" if validation else "")
        raise TaskError(
            f"task {name!r} has {len(shown)} rows that fit, too few to hold out {taken}",
            key="tasks",
            remedy="Hold out fewer rows (1 to half of them), allow more tokens, or give more text",
        )
    groups: dict[str, Shown] = defaultdict(list)
    for text, example in shown:
        groups[plain(text)].append((text, example))
    answer_of = stratum([example for _, example in shown])
    totals = Counter(answer_of(example) for _, example in shown)
    test = _taken(groups, apportion(totals, held_out), answer_of)
    rest = {text: groups[text] for text in reversed(groups) if text not in test}
    chosen = _taken(rest, apportion(totals, validation), answer_of)
    train = [text for text in groups if text not in test and text not in chosen]
    return Parts(*(_rows(groups, part) for part in (train, chosen, test)))


def taken_out(train: Shown, *others: Shown) -> Shown:
    """The training rows whose text stands in none of the others."""
    elsewhere = {plain(text) for rows in others for text, _ in rows}
    return [(text, example) for text, example in train if plain(text) not in elsewhere]


def apart(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks, each without the training rows whose text another one is scored on.

    Two tasks may be made of one text, as a subject and an answer are asked of one exam question:
    whose client learns from it must not be asked it. Texts that begin alike count as one here, for
    tasks may show more or less of them.
    """
    known = tuple(tasks)
    scored = {
        task.name: {row.beginning for row in (*task.validation, *task.held_out) if row.beginning}
        for task in known
    }

    def cleaned(task: Task) -> Task:
        others = set().union(*(scored[name] for name in scored if name != task.name))
        train = tuple(example for example in task.train if example.beginning not in others)
        gone = len(task.train) - len(train)
        return replace(task, train=train, left_out=task.left_out + gone) if gone else task

    return tuple(cleaned(task) for task in known)


def stratum(examples: Iterable[Example]) -> Callable[[Example], str]:
    """What is kept in its natural proportion: the answer, where all choose between the same."""
    shared = len({example.choices for example in examples}) == 1
    return lambda example: example.answer if shared and example.choices else ""


def _taken(
    groups: dict[str, Shown], wanted: dict[str, int], answer_of: Callable[[Example], str]
) -> dict[str, Shown]:
    """The first groups that make up so many rows of each answer."""
    taken: Counter[str] = Counter()
    chosen: dict[str, Shown] = {}
    for text, group in groups.items():
        need = Counter(answer_of(example) for _, example in group)
        if all(taken[answer] + rows <= wanted[answer] for answer, rows in need.items()):
            chosen[text] = group
            taken += need
    return chosen


def _rows(groups: dict[str, Shown], chosen: Iterable[str]) -> Shown:
    return [row for text in chosen for row in groups[text]]
