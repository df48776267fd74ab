"""What is measured of a run, in rows that need no explanation: one number each.

    recipe, condition, seed    which run
    task, client               whose figure it is; empty where it is of the whole run
    metric, value              what it is; losses in nats, shares as fractions, bytes, seconds

Of a run that failed there is one row, `failed`, so that it is not overlooked.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from atlas.results.events import Evaluated, Step, read
from atlas.results.notes import Note
from atlas.results.summary import Summary


@dataclass(frozen=True)
class Row:
    """One figure."""

    recipe: str
    condition: str
    seed: int
    task: str
    client: str
    metric: str
    value: float


Figure = tuple[str, str, str, float]
"""Task, client, metric, value."""


def figures(summary: Summary, notes: Iterable[Note], truth: Mapping[str, str]) -> list[Figure]:
    """What a finished run's summary and notes say."""
    clients: dict[tuple[str, str], dict[str, float]] = {}
    steps: dict[int, dict[tuple[str, int], tuple[Step, Note]]] = {}
    for note in notes:
        event = read(note) if note.event in ("evaluated", "step") else None
        if isinstance(event, Evaluated) and event.phase == "after":
            clients |= {(event.task, name): own for name, own in event.clients.items()}
        elif isinstance(event, Step):
            steps.setdefault(event.round, {})[event.client, event.step] = event, note
    found = [*_of_tasks(summary), *_of_the_run(summary), *_of_rounds(steps)]
    for (task, client), own in clients.items():
        found += [(task, client, metric, own[metric]) for metric in own]
    of_tasks: dict[tuple[str, str], list[float]] = {}
    for (task, _), own in clients.items():
        for metric in own.keys() - {"loss", "accuracy"}:
            of_tasks.setdefault((task, metric), []).append(own[metric])
    found += [(task, "", metric, statistics.fmean(of)) for (task, metric), of in of_tasks.items()]
    for metric, worst in (("loss", max), ("accuracy", min)):
        each = [own[metric] for own in clients.values()]
        if each:
            found.append(("", "", f"worst_client_{metric}", worst(each)))
    found += [(truth.get(client, ""), client, "sat_out", 1.0) for client in summary.sat_out]
    return found


def _of_tasks(summary: Summary) -> Iterator[Figure]:
    for metric in ("loss", "choice_loss", "accuracy"):
        known = []
        for name, task in summary.tasks.items():
            before, after = (getattr(task, f"{metric}_{phase}") for phase in ("before", "after"))
            if before is not None:
                yield name, "", f"{metric}_before", before
            if after is not None:
                yield name, "", metric, after
                known.append(after)
        if known and metric != "choice_loss":
            yield "", "", f"macro_{metric}", statistics.fmean(known)
    for name, task in summary.tasks.items():
        if task.majority is not None:
            yield name, "", "majority", task.majority


def _of_rounds(
    steps: Mapping[int, Mapping[tuple[str, int], tuple[Step, Note]]],
) -> Iterator[Figure]:
    """How far training was after each round's last step, of whoever took it last: what curves over
    rounds, time and bytes are drawn from.
    """
    for number in sorted(steps):
        told = steps[number].values()
        yield "", "", f"round_{number}_loss", statistics.fmean(step.loss for step, _ in told)
        yield "", "", f"round_{number}_seconds", max(note.time_s for _, note in told)
        yield "", "", f"round_{number}_bytes", float(max(note.bytes_total for _, note in told))


def _of_the_run(summary: Summary) -> Iterator[Figure]:
    yield "", "", "sat_out", float(len(summary.sat_out))
    yield "", "", "bytes", float(sum(summary.bytes.values()))
    for purpose, size in summary.bytes.items():
        yield "", "", f"bytes_{purpose}", float(size)
    yield "", "", "neighborhoods", float(summary.neighborhoods.count)
    counted = ("virtual_seconds", "wall_seconds", "steps", "steps_lost", "steps_repeated")
    of_it = {name: getattr(summary, name) for name in (*counted, "repairings", "fallbacks")}
    of_it["deaths"] = summary.deaths
    for name in ("adjusted_rand_index", "silhouette", "p_value"):
        of_it[name] = getattr(summary.neighborhoods, name)
    for metric, value in of_it.items():
        if value is not None:
            yield "", "", metric, float(value)


def write_figures(file: Path, found: Iterable[Figure]) -> None:
    """Keeps a cell's figures, in one go."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(list(found), indent=0), encoding="utf-8")
    part.replace(file)


def read_figures(file: Path) -> list[Figure]:
    """The inverse of `write_figures`."""
    read_back: list[Figure] = [
        (task, client, metric, value)
        for task, client, metric, value in json.loads(file.read_text(encoding="utf-8"))
    ]
    return read_back


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Writes rows as Parquet, in one go."""
    import pyarrow as pa  # noqa: PLC0415 - who reads help does not wait for it
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    types = {"seed": pa.int64(), "value": pa.float64()}
    schema = pa.schema([(each.name, types.get(each.name, pa.string())) for each in fields(Row)])
    part = file.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), part)
    part.replace(file)


def read_rows(file: Path) -> list[Row]:
    """The inverse of `write_rows`."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    return [Row(**row) for row in pq.read_table(file).to_pylist()]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows in an order of their own, so that the same results are the same file."""
    return sorted(rows, key=astuple)
