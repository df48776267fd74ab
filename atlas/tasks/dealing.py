"""Dealing text out to clients: each row of text to one client at most.

By default client i, in the order given, gets task i modulo the number of tasks. So the clients of
one task lie spread over a network whose nodes are listed place by place, and neighborhoods found by
meaning are not simply those of the cables. (Nodes listed round-robin over as many places as there
are tasks would undo that.)

Beyond that: mixtures of tasks drawn from a Dirichlet distribution (Hsu, Qi and Brown, 2019),
people's own text as it is, unequal sizes, and tasks made of one task (`variants`). What is dealt
depends on the seed; which rows are there to be dealt does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atlas.tasks.apportioning import apportion, apportion_above
from atlas.tasks.model import ClientData, Example, Task, TaskError
from atlas.tasks.variants import by_domain, by_labeling


class DealSettings(BaseModel):
    """How text is dealt out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["task", "mixture", "sender"] = Field(
        "task",
        description="what a client is dealt: rows of one task; of all tasks in a proportion of its "
        "own; or the text of one person or other source (domain) of a task",
    )
    alpha: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="mixture: of the Dirichlet distribution; small: nearly one task for each "
        "client, large: all alike",
    )
    domains: int = Field(
        0, ge=0, description="each task's so many largest domains become tasks; 0: it is left whole"
    )
    labelings: int = Field(
        1, ge=1, description="each task becomes so many, with contradicting labels on like text"
    )
    sizes: Literal["equal", "lognormal", "zipf"] = Field(
        "equal", description="how many rows clients get; `examples_per_client` is the mean"
    )
    spread: float | None = Field(
        None,
        gt=0,
        le=10,
        description="lognormal: standard deviation of the logarithm; zipf: the exponent",
    )
    least: int = Field(8, ge=2, description="the fewest rows of a client, where they are unequal")

    @model_validator(mode="after")
    def _check(self) -> DealSettings:
        for needed, given, key, where in (
            (self.by == "mixture", self.alpha is not None, "alpha", "by: mixture"),
            (self.sizes != "equal", self.spread is not None, "spread", "unequal sizes"),
        ):
            if needed != given:
                raise ValueError(f"{key} {'is needed' if needed else 'is only'} for {where}")
        if self.by == "sender" and (self.sizes != "equal" or self.domains or self.labelings > 1):
            raise ValueError(
                "senders have the text that they have: sizes, domains and labelings don't go with "
                "by: sender"
            )
        return self


PLAIN = DealSettings()


def divided(tasks: Sequence[Task], settings: DealSettings) -> tuple[Task, ...]:
    """The tasks that are dealt: these, or their domains, or these under several labelings.

    Raises:
        TaskError: a task has not so many domains or choices.
    """
    parts = tuple(tasks)
    if settings.domains:
        parts = tuple(part for task in parts for part in by_domain(task, settings.domains))
    if settings.labelings > 1:
        parts = tuple(part for task in parts for part in by_labeling(task, settings.labelings))
    return parts


def deal(
    tasks: Sequence[Task],
    clients: Sequence[str],
    *,
    examples_per_client: int | None,
    seed: int,
    settings: DealSettings = PLAIN,
) -> dict[str, ClientData]:
    """What each client holds, in the order of `clients`.

    Args:
        tasks: as `divided` gives them.
        examples_per_client: rows for each, or the mean of them where sizes are unequal, or the most
            of one sender; None: as many as there are for all.
        seed: decides who gets how much of what, and which rows.

    Raises:
        TaskError: there are too few rows, tasks, senders or clients.
    """
    if not tasks or (settings.by != "mixture" and len(clients) < len(tasks)):
        raise TaskError(
            f"{len(tasks)} tasks can't be dealt to {len(clients)} clients",
            key="tasks",
            remedy="Give at least one task, and at least as many clients as tasks",
        )
    match settings.by:
        case "task":
            dealt = _by_task(tasks, clients, examples_per_client, seed, settings)
        case "mixture":
            dealt = _mixed(tasks, clients, examples_per_client, seed, settings)
        case "sender":
            dealt = _by_sender(tasks, clients, examples_per_client, seed, settings)
    return {client: dealt[client] for client in clients}


def _by_task(
    tasks: Sequence[Task],
    clients: Sequence[str],
    mean: int | None,
    seed: int,
    settings: DealSettings,
) -> dict[str, ClientData]:
    dealt: dict[str, ClientData] = {}
    for position, task in enumerate(tasks):
        members = clients[position :: len(tasks)]
        share = len(task.train) // len(members)
        size = share if mean is None else mean
        if not 1 <= size <= share:
            raise TaskError(
                f"task {task.name!r} has {len(task.train)} training rows, {share} for each of its "
                f"{len(members)} clients, not {size}",
                key="examples_per_client",
                remedy=f"Ask for {share} or fewer" if share else "Give the task more text",
            )
        rows = iter(_shuffled(task.train, seed, task.name))
        for client, count in _sizes(members, size, seed, settings).items():
            examples = tuple(next(rows) for _ in range(count))
            dealt[client] = ClientData(task.name, examples, shares=((task.name, count),))
    return dealt


def _mixed(
    tasks: Sequence[Task],
    clients: Sequence[str],
    mean: int | None,
    seed: int,
    settings: DealSettings,
) -> dict[str, ClientData]:
    """Each client's proportions are one draw from a symmetric Dirichlet distribution."""
    assert settings.alpha is not None
    if mean is None:
        mean = min(len(task.train) for task in tasks) // len(clients)
    shares: dict[str, dict[str, int]] = {}
    for client, size in _sizes(clients, mean, seed, settings).items():
        drawn = _generator(seed, "mixture", client).dirichlet([settings.alpha] * len(tasks))
        weights = dict(zip((task.name for task in tasks), drawn.tolist(), strict=True))
        shares[client] = apportion(weights, size)
    pools = {}
    for task in tasks:
        wanted = sum(share[task.name] for share in shares.values())
        if wanted > len(task.train):
            raise TaskError(
                f"task {task.name!r} has {len(task.train)} training rows, and the clients' "
                f"mixtures ask for {wanted}",
                key="examples_per_client",
                remedy=f"Ask for about {mean * len(task.train) // wanted}, or give it more text",
            )
        pools[task.name] = iter(_shuffled(task.train, seed, task.name))
    dealt = {}
    for client, share in shares.items():
        rows = [next(pools[name]) for name, count in share.items() for _ in range(count)]
        most = max(share, key=lambda name: share[name])
        counted = tuple((name, count) for name, count in share.items() if count)
        dealt[client] = ClientData(most, tuple(_shuffled(rows, seed, client)), shares=counted)
    return dealt


def _by_sender(
    tasks: Sequence[Task],
    clients: Sequence[str],
    most: int | None,
    seed: int,
    settings: DealSettings,
) -> dict[str, ClientData]:
    """Each client is one sender, drawn among those who have enough rows, with all that it has."""
    dealt: dict[str, ClientData] = {}
    for position, task in enumerate(tasks):
        members = clients[position :: len(tasks)]
        enough = [name for name, rows in task.domains.items() if name and rows >= settings.least]
        if len(enough) < len(members):
            raise TaskError(
                f"task {task.name!r} has {len(enough)} senders with {settings.least} training rows "
                f"or more, and {len(members)} clients are to be one each",
                key="deal.least",
                remedy="Ask for fewer rows, or take a task with more senders (`atlas show tasks`)",
            )
        drawn = sorted(enough, key=lambda name: _hash(seed, "sender", task.name, name))
        for client, sender in zip(members, drawn, strict=False):
            rows = [row for row in task.train if row.domain == sender]
            chosen = tuple(_shuffled(rows, seed, task.name)[:most])
            dealt[client] = ClientData(task.name, chosen, shares=((task.name, len(chosen)),))
    return dealt


def _sizes(clients: Sequence[str], mean: int, seed: int, settings: DealSettings) -> dict[str, int]:
    """How many rows each client gets; they add up to the mean times their number."""
    if settings.sizes == "equal":
        return dict.fromkeys(clients, mean)
    if mean < settings.least:
        raise TaskError(
            f"clients get {mean} rows on the average, and none fewer than {settings.least}",
            key="deal.least",
            remedy="Give each more examples, or lower the least",
        )
    assert settings.spread is not None
    if settings.sizes == "lognormal":
        weights = {
            client: float(np.exp(settings.spread * _generator(seed, "size", client).normal()))
            for client in clients
        }
    else:
        ranked = sorted(clients, key=lambda client: _hash(seed, "size", client))
        weights = {client: rank**-settings.spread for rank, client in enumerate(ranked, start=1)}
        weights = {client: weights[client] for client in clients}
    return apportion_above(weights, mean * len(clients), settings.least)


def _shuffled(rows: Sequence[Example], seed: int, name: str) -> list[Example]:
    """The rows in an order of the seed's."""
    return sorted(rows, key=lambda row: _hash(seed, name, row.prompt, row.answer))


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).digest()


def _generator(seed: int, *parts: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(_hash(seed, *parts)))
