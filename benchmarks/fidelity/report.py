"""The result as Markdown, for docs: a table of the summary, and one of every cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PAIRS = ("ours/kernel", "ours/ns3", "ns3/kernel")
MODELS = ("default", "without TCP-gamma", "CM02")


def tables(result: Mapping[str, Any]) -> str:
    """Both tables."""
    return "\n".join([*_summary(result), "", *_cells(result), ""])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def _both(errors: Mapping[str, Any] | None) -> str:
    if not errors:
        return "-"
    high = next(value for name, value in errors.items() if name.startswith("p"))
    return f"{_percent(errors['median'])} / {_percent(high)}"


def _summary(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Size of the relative error of completion time: median / p95 (with loss: p90)."
    yield ""
    heads = ["ours to kernel", "ours to ns-3", "ns-3 to kernel"]
    heads += [f"SimGrid {model} to kernel" for model in MODELS]
    yield "| condition | cells | " + " | ".join(heads) + " |"
    yield "|---" * (2 + len(heads)) + "|"
    for entry in result["summary"]:
        columns = [*PAIRS, *(f"simgrid {model}/kernel" for model in MODELS)]
        values = " | ".join(_both(entry.get(pair)) for pair in columns)
        yield f"| {entry['condition']} | {entry['cells']} | {values} |"


def _seconds(known: Mapping[str, Any] | None) -> str:
    if not known:
        return "-"
    text = f"{known['seconds']:.4g}"
    if "standard_error_s" in known:
        text += f" ± {known['standard_error_s']:.2g}"
    return text


def _cells(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "| cell | ours, s | kernel, s | ns-3, s | "
        + " | ".join(f"{pair.replace('/', ' to ')}" for pair in PAIRS)
        + " |"
    )
    yield "|---" * 7 + "|"
    for row in result["cells"]:
        times = " | ".join(_seconds(row.get(backend)) for backend in ("ours", "kernel", "ns3"))
        errors = " | ".join(_percent(row["errors"].get(pair)) for pair in PAIRS)
        yield f"| {row['cell']} | {times} | {errors} |"
