"""The last thing a run prints: what was learned, what it took, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from atlas.results.display import (
    MISSING,
    count,
    show_bytes,
    show_list,
    show_loss,
    show_memory,
    show_seconds,
    show_share,
)
from atlas.results.summary import NeighborhoodFigures, Summary, TaskFigures


def final_table(
    summary: Summary, paths: Mapping[str, Path] | Sequence[Path], console: Console
) -> None:
    """Print a run's results for a person.

    `paths` is what was written: by what it is, or just in order.
    """
    if summary.tasks:
        _print_tasks(summary, console)
    for name, text in sentences(summary):
        line = Text(f"{name:<14}", style="bold")
        console.print(line.append(text, style="not bold"), soft_wrap=True)
    written = paths.items() if isinstance(paths, Mapping) else [(path.name, path) for path in paths]
    if written:
        console.print(Text("Written", style="bold"))
        for label, path in written:
            console.print(Text(f"  {label:<14}{path}"), soft_wrap=True)


def _print_tasks(summary: Summary, console: Console) -> None:
    """As a table, or in a sentence for each task where a table would have to be cut."""
    roomy = console.options.update(width=10 * console.width)
    for gap in (1, 0):
        table = _tasks(summary, gap)
        if Measurement.get(console, roomy, table).maximum <= console.width:
            console.print(table)
            break
    else:
        for name, figures in summary.tasks.items():
            line = Text(name, style="bold").append(f": {_in_words(figures)}", style="not bold")
            console.print(line, soft_wrap=True)
    console.print(
        "Loss: nats per word piece of the answer, on rows no client trained on.",
        "Baseline: accuracy of always giving the most frequent answer.",
        sep="\n",
        style="dim italic",
    )
    console.print()


def _tasks(summary: Summary, gap: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column("Task", no_wrap=True)
    for heading in ("Loss", "Over choices", "Accuracy", "Baseline", "Rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, task in summary.tasks.items():
        table.add_row(Text(name), *_figures(task))
    return table


def _figures(task: TaskFigures) -> tuple[str, str, str, str, str]:
    return (
        change(show_loss(task.loss_before), show_loss(task.loss_after)),
        change(show_loss(task.choice_loss_before), show_loss(task.choice_loss_after)),
        change(show_share(task.accuracy_before), show_share(task.accuracy_after)),
        show_share(task.majority),
        f"{task.examples:,}",
    )


def _in_words(task: TaskFigures) -> str:
    loss, over_choices, accuracy, baseline, rows = _figures(task)
    named = {"loss": loss, "over choices": over_choices, "accuracy": accuracy, "baseline": baseline}
    told = [f"{name} {text}" for name, text in named.items() if text != MISSING]
    return ", ".join([*told, f"{rows} rows"])


def change(before: str, after: str) -> str:
    """A figure before and after: "1.87 → 0.41"; a unit that both have stands once: "55 → 70 %"."""
    if before == after == MISSING:
        return MISSING
    if before.endswith(" %") and after.endswith(" %"):
        before = before.removesuffix(" %")
    return f"{before} → {after}"


def sentences(summary: Summary) -> list[tuple[str, str]]:
    """The run in a few sentences, each with a heading."""
    told = [] if summary.finished else [("Interrupted", "the run did not come to its end")]
    told += [
        ("Judged by", _metrics(summary)),
        ("Sat out", _sat_out(summary)),
        ("Steps", _steps(summary)),
        ("Repairs", _repairs(summary)),
        ("Neighborhoods", neighborhoods_in_words(summary.neighborhoods)),
        ("Memory", _memory(summary)),
        ("Sent", _bytes(summary)),
        ("Time", _time(summary)),
    ]
    if summary.digest:
        told.append(("Digest", summary.digest))
    return [(name, text) for name, text in told if text]


def _sat_out(summary: Summary) -> str:
    """Who took no part, and why."""
    if not summary.sat_out:
        return ""
    who = show_list(list(summary.sat_out))
    return f"{who}: the whole model takes {show_memory(max(summary.sat_out.values()))}"


def _metrics(summary: Summary) -> str:
    """What tasks are judged by, where it is more than the share of right answers."""
    return ", ".join(
        f"{name} {task.metric} {change(show_share(task.measure_before), after)}"
        for name, task in summary.tasks.items()
        if task.metric not in (None, "accuracy", "exact-match")
        and (after := show_share(task.measure_after)) != MISSING
    )


def _steps(summary: Summary) -> str:
    missing = "lost" if summary.finished else "not done"
    text = (
        f"{summary.steps:,} of {summary.steps_expected:,} done, {summary.steps_lost:,} {missing}, "
    )
    text += (
        "none applied twice"
        if not summary.steps_twice
        else f"{summary.steps_twice:,} APPLIED TWICE"
    )
    if summary.steps_repeated:
        text += f"; {count(summary.steps_repeated, 'computation')} repeated for repairs"
    return text


def _repairs(summary: Summary) -> str:
    text = f"{count(summary.deaths, 'death')}, {count(summary.repairings, 'repair')}"
    if summary.fallbacks:
        text += f", {summary.fallbacks:,} of them with a host of another neighborhood"
    return text


def neighborhoods_in_words(found: NeighborhoodFigures) -> str:
    """How many neighborhoods, and how well they match the tasks."""
    if not found.count:
        return ""
    text = f"{found.count} found"
    if found.adjusted_rand_index is not None:
        match = found.adjusted_rand_index
        verdict = ", the true tasks exactly" if match == 1 else ""
        text += f"{verdict} (match with the true tasks {match:.2f}; 1 is perfect, 0 is chance)"
    return text


def _memory(summary: Summary) -> str:
    if summary.whole_step_bytes is None or summary.largest_grant_bytes is None:
        return ""
    return (
        f"a whole training step needs {show_memory(summary.whole_step_bytes)}; "
        f"the largest grant is {show_memory(summary.largest_grant_bytes)}"
    )


def _bytes(summary: Summary) -> str:
    if not summary.bytes:
        return ""
    parts = [f"{name} {show_bytes(size)}" for name, size in _largest_first(summary.bytes)]
    return f"{show_bytes(sum(summary.bytes.values()))}: {show_list(parts)}"


def _largest_first(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: (-item[1], item[0]))


def _time(summary: Summary) -> str:
    text = f"{show_seconds(summary.virtual_seconds)} on the emulated network"
    if summary.wall_seconds is not None:
        text += f", {show_seconds(summary.wall_seconds)} on this machine"
    return text
