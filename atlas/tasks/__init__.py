"""Tasks: where text comes from, how it is dealt out to clients, and how an answer is scored.

`load` makes a `Task` of a name from the `registry` or of JSON lines of one's own; `deal` gives
each client its part; `step_batch` is what a client trains on at one step; `score` says how good a
model is at held-out rows. Nothing here needs torch until a batch or a score is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from atlas.tasks.dealing import deal
from atlas.tasks.loading import load
from atlas.tasks.model import ClientData, Example, Kind, Task, TaskError, TaskSpec, Tokenizer
from atlas.tasks.sources import TaskSource, registry

if TYPE_CHECKING:
    from atlas.tasks.batching import Batch, batch, step_batch
    from atlas.tasks.scoring import Score, score

__all__ = [
    "Batch",
    "ClientData",
    "Example",
    "Kind",
    "Score",
    "Task",
    "TaskError",
    "TaskSource",
    "TaskSpec",
    "Tokenizer",
    "batch",
    "deal",
    "load",
    "registry",
    "score",
    "step_batch",
]

_NEED_TORCH = {
    "Batch": "batching",
    "batch": "batching",
    "step_batch": "batching",
    "Score": "scoring",
    "score": "scoring",
}


def __getattr__(name: str) -> object:
    if name in _NEED_TORCH:
        value: object = getattr(import_module(f"atlas.tasks.{_NEED_TORCH[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
