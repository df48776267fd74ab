"""The learning rate of each step: a function of the config alone, known to client and host alike.

So no message carries it, and a step that is repeated is repeated at the same rate. Steps are
counted over the whole run; the formulas are those of transformers' `get_scheduler` under the same
names.
"""

from __future__ import annotations

import math

from atlas.config import Training


def rate(training: Training, round: int, step: int) -> float:
    """The learning rate of step `step` of round `round`, both counted from 0.

    During the first `warmup` steps it rises in a line from 0. From there it stays (`constant`),
    falls in a line to 0 at the end of the run (`linear`), or along half a cosine (`cosine`).
    """
    total, taken = training.rounds * training.steps, round * training.steps + step
    if taken < training.warmup:
        return training.learning_rate * (taken / training.warmup)
    progress = (taken - training.warmup) / max(1, total - training.warmup)
    match training.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = (total - taken) / max(1, total - training.warmup)
        case "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return training.learning_rate * max(0.0, share)
