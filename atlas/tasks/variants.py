"""Tasks made of one task: its domains, or the same text under labels that contradict each other.

A part is a task like any other: it is dealt out, clustered and scored by itself. Rows stay on the
side of the split that they are on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from atlas.tasks.model import Example, Task, TaskError


def by_domain(task: Task, count: int) -> tuple[Task, ...]:
    """The `count` domains with the most training rows, each as the task `<task>/<domain>`.

    Raises:
        TaskError: the task has not so many, or one of them has no row held out.
    """
    domains = [domain for domain in task.domains if domain]
    if len(domains) < count:
        raise TaskError(
            f"task {task.name!r} has {len(domains)} domains, not {count}",
            key="deal.domains",
            remedy="Ask for as many or fewer; `atlas show tasks` says which tasks have domains, "
            "and tasks of your own name the key of theirs as `domain`",
        )
    parts = []
    for domain in domains[:count]:

        def of_it(rows: Iterable[Example], domain: str = domain) -> tuple[Example, ...]:
            return tuple(row for row in rows if row.domain == domain)

        part = replace(
            task,
            name=f"{task.name}/{domain}",
            train=of_it(task.train),
            validation=of_it(task.validation),
            held_out=of_it(task.held_out),
            left_out=0,
        )
        if not part.held_out or (task.validation and not part.validation):
            raise TaskError(
                f"none of the rows held out of task {task.name!r} is of its domain {domain!r}",
                key="held_out",
                remedy=f"Hold out more rows than {len(task.held_out)}, or ask for fewer domains",
            )
        parts.append(part)
    return tuple(parts)


def by_labeling(task: Task, count: int) -> tuple[Task, ...]:
    """The task under `count` labelings, `<task>/labels-0` and on, which all contradict each other.

    In the i-th, each answer is the choice i places further on; the first is the task's own. The
    training rows are divided among them, validation and held-out rows are the same for all.

    Raises:
        TaskError: the examples don't share so many choices.
    """
    if len(task.choices) < count:
        raise TaskError(
            f"task {task.name!r} can't be labeled in {count} ways that contradict each other: its "
            f"rows share {len(task.choices)} choices",
            key="deal.labelings",
            remedy="Ask for as many as it has choices or fewer, of tasks that classify",
        )
    return tuple(
        replace(
            task,
            name=f"{task.name}/labels-{shift}",
            train=_relabeled(task.train[shift::count], shift),
            validation=_relabeled(task.validation, shift),
            held_out=_relabeled(task.held_out, shift),
            left_out=0,
        )
        for shift in range(count)
    )


def _relabeled(rows: Sequence[Example], shift: int) -> tuple[Example, ...]:
    return tuple(
        replace(row, answer=row.choices[(row.choices.index(row.answer) + shift) % len(row.choices)])
        for row in rows
    )
