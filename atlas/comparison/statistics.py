"""Recipes against each other: means over seeds, their spread, and differences with intervals.

A seed deals the same text to every recipe, so a difference is taken seed by seed, and what all have
in common falls out of it. The interval is Student's, at 95 %, over the seeds' differences: it says
what other seeds, so other deals of this text, would bring, and nothing of other text.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atlas.comparison.figures import Row

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a recipe: `deviation` is the sample's, None for one seed."""

    recipe: str
    condition: str
    metric: str
    seeds: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """A recipe less the `baseline`, over the seeds that both have.

    `low` and `high` bound the mean with 95 % confidence; None where there is one seed.
    """

    recipe: str
    baseline: str
    condition: str
    metric: str
    seeds: int
    mean: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """In a word: whether there is a difference, as far as these seeds can tell."""
        if self.seeds > 1 and self.low == self.high == 0:
            return "equal"
        if self.low is None or self.high is None:
            return "one seed"
        if self.low <= 0 <= self.high:
            return "within the noise"
        return "more" if self.mean > 0 else "less"


def spreads(rows: Iterable[Row], metrics: Sequence[str]) -> list[Spread]:
    """Of these metrics of whole runs, in the order in which they first come."""
    return [
        Spread(
            recipe,
            condition,
            metric,
            len(by_seed),
            statistics.fmean(by_seed.values()),
            statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None,
        )
        for (recipe, condition, metric), by_seed in _by_seed(rows, metrics).items()
    ]


def differences(rows: Iterable[Row], metrics: Sequence[str], baseline: str) -> list[Difference]:
    """Of all recipes against one, under the same condition, with the same seeds."""
    found = _by_seed(rows, metrics)
    told = []
    for (recipe, condition, metric), by_seed in found.items():
        against = found.get((baseline, condition, metric), {})
        paired = [value - against[seed] for seed, value in by_seed.items() if seed in against]
        if recipe != baseline and paired:
            mean, low, high = interval(paired)
            told.append(
                Difference(recipe, baseline, condition, metric, len(paired), mean, low, high)
            )
    return told


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, and the bounds of its confidence interval by Student's t."""
    from scipy.stats import t as student  # noqa: PLC0415 - takes a second to import

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


def _by_seed(
    rows: Iterable[Row], metrics: Sequence[str]
) -> dict[tuple[str, str, str], dict[int, float]]:
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        if row.metric in metrics and not row.task and not row.client:
            of_it = found.setdefault((row.recipe, row.condition, row.metric), {})
            of_it[row.seed] = row.value
    return found
