"""Methods compared: recipes by seeds by conditions, each a run, and what they show together.

    cells       what is to be run, and where each result lies
    running     runs them, side by side, each in a process of its own
    figures     what is measured of a run, in rows
    tuning      a learning rate for each recipe
    statistics  means, spread, and differences between recipes with their intervals
    telling     the table, for a person

Whoever compares gives all recipes the same config: text, budget, base, rank and start are the same
for all, and a seed means the same deal of text to everybody. So differences are taken seed by seed.
"""

from atlas.comparison.cells import Cell, Condition, Folder, plan
from atlas.comparison.figures import Row, read_rows, write_rows
from atlas.comparison.statistics import Difference, Spread, differences, spreads

__all__ = [
    "Cell",
    "Condition",
    "Difference",
    "Folder",
    "Row",
    "Spread",
    "differences",
    "plan",
    "read_rows",
    "spreads",
    "write_rows",
]
