"""Tasks: where text comes from, how it is dealt out to clients, and how an answer is scored.

    tasks = divided(load_all(specs, tokenizer=…, max_tokens=…, held_out=…, validation=…), settings)
    data = deal(tasks, clients, examples_per_client=…, seed=…, settings=settings)
    score(model, tokenizer, tasks[0].held_out, max_tokens=…).metrics[tasks[0].metric]

`load` makes a `Task` of a name from the `registry` or of files of one's own, with training,
validation and held-out rows that share no text, whatever the seed; `deal` gives each client its
part of the training rows, as `DealSettings` say; `step_batch` is what a client trains on at one
step; `judge` says what a model makes of each row, and `score` of all of them. `kept` looks up
judgments that were made before. `measure` needs answers only, so a bootstrap over rows is cheap.
Nothing here needs torch until a batch or a score is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from atlas.tasks.dealing import DealSettings, deal, divided
from atlas.tasks.loading import load, load_all
from atlas.tasks.metrics import measure
from atlas.tasks.model import (
    WRITTEN,
    ClientData,
    Example,
    Kind,
    Metric,
    Task,
    TaskError,
    TaskSpec,
    Tokenizer,
)
from atlas.tasks.sources import TaskSource, registry

if TYPE_CHECKING:
    from atlas.tasks.batching import Batch, batch, step_batch
    from atlas.tasks.keeping import kept
    from atlas.tasks.scoring import Judgment, Score, judge, score, summarize

__all__ = [
    "WRITTEN",
    "Batch",
    "ClientData",
    "DealSettings",
    "Example",
    "Judgment",
    "Kind",
    "Metric",
    "Score",
    "Task",
    "TaskError",
    "TaskSource",
    "TaskSpec",
    "Tokenizer",
    "batch",
    "deal",
    "divided",
    "judge",
    "kept",
    "load",
    "load_all",
    "measure",
    "registry",
    "score",
    "step_batch",
    "summarize",
]

_NEED_TORCH = {
    "Batch": "batching",
    "batch": "batching",
    "step_batch": "batching",
    "Judgment": "scoring",
    "Score": "scoring",
    "judge": "scoring",
    "kept": "keeping",
    "score": "scoring",
    "summarize": "scoring",
}


def __getattr__(name: str) -> object:
    if name in _NEED_TORCH:
        value: object = getattr(import_module(f"atlas.tasks.{_NEED_TORCH[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
