"""A learning rate for each recipe, by the same small search, so that none is run at another's.

Every recipe is run once at every rate, with the first seed under the first condition, and scored on
validation rows, which nothing is trained on and nothing is reported of. The rate with the lowest
macro loss is the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas.comparison.cells import Cell, Condition, plan
from atlas.comparison.figures import Row
from atlas.methods import Recipe

JUDGED_BY = "macro_loss"


def search(
    config: str,
    recipes: Sequence[Recipe],
    rates: Sequence[float],
    seed: int,
    condition: Condition,
    changes: Sequence[str] = (),
) -> list[Cell]:
    """The runs of the search, each rate a condition."""
    under = [
        Condition(
            f"rate-{rate:g}",
            (*condition.changes, f"training.learning_rate={rate:g}", "scored=validation"),
        )
        for rate in rates
    ]
    return plan(config, recipes, [seed], under, changes)


def chosen(cells: Sequence[Cell], rows: Sequence[Row]) -> dict[str, float]:
    """The best rate of each recipe of which a run was finished, by the rows of the search."""
    rates = {(cell.recipe, cell.condition): cell.config.training.learning_rate for cell in cells}
    best: dict[str, Row] = {}
    for row in rows:
        if row.metric == JUDGED_BY and not row.task and not row.client:
            before = best.get(row.recipe)
            if before is None or row.value < before.value:
                best[row.recipe] = row
    return {recipe: rates[recipe, row.condition] for recipe, row in best.items()}
