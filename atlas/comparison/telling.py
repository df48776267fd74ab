"""A comparison as a table in Markdown: for a terminal, and for a page.

First what each recipe came to, mean ± the sample's deviation over seeds; then how each differs from
the first recipe, seed by seed, with the interval of that difference. What lies within the noise is
called that, and what failed is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from atlas.comparison.figures import Row
from atlas.comparison.statistics import Difference, Spread, differences, spreads

Show = Callable[[float], str]

COLUMNS: Mapping[str, tuple[str, Show]] = {
    "macro_accuracy": ("accuracy, %", lambda value: f"{100 * value:.1f}"),
    "macro_loss": ("loss, nats", lambda value: f"{value:.3f}"),
    "worst_client_accuracy": ("worst client, %", lambda value: f"{100 * value:.1f}"),
    "bytes": ("sent, MB", lambda value: f"{value / 1e6:,.2f}"),
    "virtual_seconds": ("time, s", lambda value: f"{value:,.1f}"),
    "learning_rate": ("rate", lambda value: f"{value:g}"),
    "steps_lost": ("steps lost", lambda value: f"{value:g}"),
    "sat_out": ("sat out", lambda value: f"{value:g}"),
}
"""What is told of each recipe: metric, heading, and how a value is written."""
COMPARED = ("macro_accuracy", "macro_loss", "bytes", "virtual_seconds")


def table(rows: Sequence[Row], recipes: Sequence[str], failed: Mapping[str, str]) -> str:
    """All conditions, each with its two tables; recipes in this order."""
    rows = sorted(rows, key=lambda row: recipes.index(row.recipe))
    found = spreads(rows, list(COLUMNS))
    baseline = recipes[0]
    against = differences(rows, COMPARED, baseline)
    parts = []
    for condition in dict.fromkeys(row.condition for row in rows):
        parts += [f"## {condition}", "", *_means(found, condition), ""]
        told = _differences(against, condition, baseline)
        parts += [*told, ""] if told else []
    if failed:
        parts += ["## Failed", "", *(f"- {cell}: {reason}" for cell, reason in failed.items()), ""]
    return "\n".join(parts)


def _means(found: Iterable[Spread], condition: str) -> list[str]:
    by_recipe: dict[str, dict[str, Spread]] = {}
    for each in found:
        if each.condition == condition:
            by_recipe.setdefault(each.recipe, {})[each.metric] = each
    headings = ["recipe", "seeds", *(heading for heading, _ in COLUMNS.values())]
    lines = [_line(headings), "|---" * len(headings) + "|"]
    for recipe, cells in by_recipe.items():
        seeds = max(each.seeds for each in cells.values())
        told = [
            _spread(cells[metric], show) if metric in cells else "-"
            for metric, (_, show) in COLUMNS.items()
        ]
        lines.append(_line([recipe, str(seeds), *told]))
    return lines


def _spread(spread: Spread, show: Show) -> str:
    mean = show(spread.mean)
    return f"{mean} ± {show(spread.deviation)}" if spread.deviation else mean


def rates_table(rows: Sequence[Row], recipes: Sequence[str]) -> str:
    """What a search for learning rates came to: the macro loss on validation rows."""
    found = {
        (row.recipe, row.condition): row.value
        for row in rows
        if row.metric == "macro_loss" and not row.task
    }
    conditions = list(dict.fromkeys(row.condition for row in rows))
    lines = ["## Learning rates, by loss on validation rows", "", _line(["recipe", *conditions])]
    lines.append("|---" * (len(conditions) + 1) + "|")
    for recipe in recipes:
        told = [found.get((recipe, condition)) for condition in conditions]
        cells = ["-" if value is None else f"{value:.3f}" for value in told]
        lines.append(_line([recipe, *cells]))
    return "\n".join([*lines, ""])


def _differences(found: Iterable[Difference], condition: str, baseline: str) -> list[str]:
    here = [each for each in found if each.condition == condition]
    here.sort(key=lambda each: COMPARED.index(each.metric))
    if not here:
        return []
    headings = [f"less {baseline}", "of", "difference", "95 % interval", "seeds", ""]
    lines = [_line(headings), "|---" * len(headings) + "|"]
    for each in here:
        heading, show = COLUMNS[each.metric]
        bounds = "-"
        if each.low is not None and each.high is not None:
            bounds = f"{show(each.low)} to {show(each.high)}"
        cells = [each.recipe, heading, show(each.mean), bounds, str(each.seeds), each.verdict]
        lines.append(_line(cells))
    return lines


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
