"""Short trainings: what FedLEASE compares (B after a warm-up), and where drift is looked for.

A *unit* is one client's warm-up: four steps of four examples, as many as two half-signatures of
eight have. Its B is kept, for every parameter. A *course* is a neighborhood's training on one task,
stopped twice: there the gradients of fresh examples of its own task are taken, and those of the
next task, as if a client's text had changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas.models import AdapterState, Session, Stage, initial_adapter
from atlas.tasks import Example, batch
from benchmarks.clustering import text
from benchmarks.clustering.gradients import LORA, SEED, Probe, pool

UNITS = 4
STEPS = 4
SIZE = 4
LEARNING_RATE = 2e-3
COURSES = ("news-topic", "film-sentiment", "maths-word-problems", "medical-specialty")
STOPS = (6,)
COURSE_SIZE = 8
OWN, FOREIGN = 48, 16
BEFORE = 128
"""Examples of a task that are for gradients; what training sees comes after them."""


def train(
    probe: Probe, stage: Stage, start: AdapterState, examples: Sequence[Example], size: int
) -> AdapterState:
    """The adapter after one step on each `size` of the examples, in their order."""
    session = Session(stage, start, learning_rate=LEARNING_RATE)
    for first in range(0, len(examples), size):
        rows = batch(examples[first : first + size], probe.tokenizer, text.TOKENS)
        _, gradient = session.loss(session.embed(rows.tokens), rows.targets)
        session.backward(gradient)
        session.commit()
    return session.adapter()


def units(
    file: Path, probe: Probe, stage: Stage, examples: Sequence[Example]
) -> NDArray[np.float16]:
    """B after each warm-up, [units, parameters, elements padded with zeros], kept in the file."""
    if not file.is_file():
        rows = []
        start = initial_adapter(probe.spec, LORA, SEED)
        for unit in range(UNITS):
            part = examples[unit * STEPS * SIZE : (unit + 1) * STEPS * SIZE]
            trained = train(probe, stage, start, part, SIZE)
            flat = [trained[name].reshape(-1).numpy() for name in probe.names]
            widest = max(map(len, flat))
            rows.append(np.stack([np.pad(one, (0, widest - len(one))) for one in flat]))
        np.save(file, np.stack(rows).astype(np.float16))
        print(f"{file.stem}: {UNITS} warm-ups")
    kept: NDArray[np.float16] = np.load(file)
    return kept


def course(folder: Path, probe: Probe, stage: Stage, number: int) -> None:
    """Trains on one task, and keeps pools of gradients at each stop: own examples, then foreign."""
    name, other = COURSES[number], COURSES[(number + 1) % len(COURSES)]
    own = text.easy(name, BEFORE + STOPS[-1] * COURSE_SIZE, probe.tokenizer)
    foreign = text.easy(other, FOREIGN, probe.tokenizer)
    adapter, done = initial_adapter(probe.spec, LORA, SEED), 0
    for stop in STOPS:
        seen = own[BEFORE + done * COURSE_SIZE : BEFORE + stop * COURSE_SIZE]
        adapter, done = train(probe, stage, adapter, seen, COURSE_SIZE), stop
        probe.load(adapter)
        pool(folder / f"drift-{name}-{stop}.npz", lambda: probe, lambda: [*own[:OWN], *foreign])
    probe.load(initial_adapter(probe.spec, LORA, SEED))
