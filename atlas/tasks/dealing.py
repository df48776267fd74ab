"""Dealing text out to clients: each client one task, each row of text to one client at most.

Client i, in the order given, gets task i modulo the number of tasks. So the clients of one task
lie spread over a network whose nodes are listed place by place, and neighborhoods found by meaning
are not simply those of the cables. (Nodes listed round-robin over as many places as there are
tasks would undo that.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from atlas.tasks.model import ClientData, Example, Task, TaskError


def deal(
    tasks: Sequence[Task],
    clients: Sequence[str],
    *,
    examples_per_client: int | None,
    seed: int,
) -> dict[str, ClientData]:
    """What each client holds, in the order of `clients`.

    Args:
        examples_per_client: rows for each; None: a task's rows are shared out equally among its
            clients.
        seed: decides which rows go to which client.

    Raises:
        TaskError: there are too few rows, tasks or clients.
    """
    if not tasks or len(clients) < len(tasks):
        raise TaskError(
            f"{len(tasks)} tasks can't be dealt to {len(clients)} clients",
            key="tasks",
            remedy="Give at least one task, and at least as many clients as tasks",
        )
    dealt: dict[str, ClientData] = {}
    for position, task in enumerate(tasks):
        members = clients[position :: len(tasks)]
        share = len(task.train) // len(members)
        size = share if examples_per_client is None else examples_per_client
        if not 1 <= size <= share:
            raise TaskError(
                f"task {task.name!r} has {len(task.train)} training rows, {share} for each of its "
                f"{len(members)} clients, not {size}",
                key="examples_per_client",
                remedy=f"Ask for {share} or fewer" if share else "Give the task more text",
            )
        shuffled = sorted(task.train, key=lambda example: _order(seed, task.name, example))
        for part, client in enumerate(members):
            rows = tuple(shuffled[part * size : (part + 1) * size])
            dealt[client] = ClientData(task.name, rows)
    return {client: dealt[client] for client in clients}


def _order(seed: int, task: str, example: Example) -> bytes:
    text = "\0".join((str(seed), task, example.prompt, example.answer))
    return hashlib.sha256(text.encode()).digest()
