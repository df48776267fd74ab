"""The report of a run: `report.html`, one file that needs no network.

Everything is inside the file: the style, the drawing library and the data. A content security
policy in its head forbids the browser to load anything else. Equal folders give equal reports,
byte for byte. The text is escaped by Jinja, the figures' data as JSON that can't end its script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas.results.closing import change, sentences
from atlas.results.course import Course, follow
from atlas.results.display import (
    MISSING,
    count,
    show_bytes,
    show_loss,
    show_memory,
    show_moment,
    show_seconds,
    show_share,
    show_speed,
)
from atlas.results.events import Refused, Registered, Suspected, read
from atlas.results.figures import (
    MOST_CLIENT_LINES,
    Figure,
    bytes_by_purpose,
    bytes_over_time,
    losses,
    natural,
    series_color,
    steps_of,
)
from atlas.results.folder import RunRecord, read_run, replace
from atlas.results.hosting_figure import MOST_ROWS, pairings
from atlas.results.searches import Searches
from atlas.results.summary import Summary, summarize
from atlas.results.telling import Sentence, tell

MOST_EVENTS = 400


@dataclass(frozen=True)
class Member:
    """A client in the table of neighborhoods."""

    name: str
    task: str
    color: str
    stray: bool
    """Its task is not the one that most clients of the neighborhood have."""


def write_report(path: str | Path) -> Path:
    """Write `report.html` into a run's folder, and return where it is.

    Raises:
        InputError: the folder is not a run's, or one of its files is damaged.
    """
    record = read_run(path)
    replace(record.folder.report, render(record))
    return record.folder.report


def render(record: RunRecord) -> str:
    """The report of a run as one HTML text."""
    manifest, notes = record.manifest, record.notes
    summary = record.summary or summarize(
        notes, truth=manifest.truth, steps_expected=manifest.steps_expected
    )
    found = follow(notes)
    members = summary.neighborhoods.members
    neighborhood_of = {client: name for name, clients in members.items() for client in clients}
    groups = manifest.truth or neighborhood_of
    hosts = sorted({h.host for h in found.hostings}, key=natural)
    steps = steps_of(notes)
    tasks = sorted({groups[step.client] for _, step in steps if step.client in groups})
    colors = {task: series_color(index) for index, task in enumerate(tasks)}
    figures: dict[str, Figure] = {}
    if steps:
        figures["loss-by-step"] = losses(steps, groups, over="step")
        figures["loss-by-time"] = losses(steps, groups, over="time")
    if found.hostings:
        figures["pairings"] = pairings(found, neighborhood_of, hosts)
    if summary.bytes:
        figures["bytes-by-purpose"] = bytes_by_purpose(summary.bytes)
    if notes and notes[-1].bytes_total:
        figures["bytes-over-time"] = bytes_over_time(notes)
    events = _events(record)
    return page(
        "run.html",
        figures=figures,
        title=manifest.name or "ATLAS run",
        lead=_lead(summary, found),
        finished=summary.finished,
        tiles=_tiles(summary),
        summary=summary,
        facts=sentences(summary),
        by_task=bool(manifest.truth),
        legend=[(task, colors[task]) for task in tasks],
        client_lines=len({step.client for _, step in steps}) <= MOST_CLIENT_LINES,
        hosts=list(enumerate(hosts)),
        rows_left_out=len({(h.client, h.first, h.last) for h in found.hostings}) > MOST_ROWS,
        most_rows=MOST_ROWS,
        neighborhoods=_neighborhoods(summary, manifest.truth, colors),
        devices=_devices(record),
        events=events[:MOST_EVENTS],
        events_left_out=max(0, len(events) - MOST_EVENTS),
        config=record.config,
        faults=record.faults,
        manifest=manifest,
        computed_on=_computed_on(manifest.platform),
    )


def page(template: str, *, figures: Mapping[str, Figure], **values: object) -> str:
    """Fill in a template of this package, with the drawing library inside if there is a figure.

    Every other value is escaped where the template puts it.
    """
    import jinja2  # noqa: PLC0415 - only with the extra [learn]
    from markupsafe import Markup  # noqa: PLC0415 - comes with jinja2

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    environment.filters.update(
        bytes=show_bytes,
        change=lambda pair: change(*pair),
        loss=show_loss,
        memory=show_memory,
        moment=show_moment,
        seconds=show_seconds,
        share=show_share,
        speed=show_speed,
    )
    return environment.get_template(template).render(
        figures=figures,
        style=Markup((folder / "style.css").read_text(encoding="utf-8")),
        script=Markup((folder / "draw.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly() if figures else ""),
        missing=MISSING,
        **values,
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # noqa: PLC0415 - only with the extra [learn]

    return str(get_plotlyjs())


def _lead(summary: Summary, found: Course) -> list[str]:
    """What happened, in a few sentences for somebody who knows nothing of the run."""
    clients = sum(len(names) for names in summary.neighborhoods.members.values())
    clients = clients or sum(task.clients for task in summary.tasks.values())
    told = []
    if clients:
        text = f"{count(clients, 'device')} with private text"
        if summary.tasks:
            text += f" for {count(len(summary.tasks), 'task')}"
        if summary.neighborhoods.count:
            text += f" found {count(summary.neighborhoods.count, 'neighborhood')} and"
        told.append(f"{text} fine-tuned one language model together, each holding a part of it.")
    if summary.deaths or summary.repairings:
        text = (
            f"{count(summary.deaths, 'device')} died on the way, and "
            f"{count(summary.repairings, 'time')} another took over"
        )
        if summary.fallbacks:
            text += f" ({summary.fallbacks:,} from another neighborhood)"
        told.append(text + ".")
    if not summary.finished:
        told.append(
            f"The run was broken off at {show_moment(found.end_s)} of virtual time; "
            "what it had told until then is shown."
        )
    elif summary.steps_lost == summary.steps_twice == 0:
        told.append("No training step was lost and none was applied twice.")
    else:
        told.append(
            f"{count(summary.steps_lost, 'training step')} lost, "
            f"{summary.steps_twice:,} applied twice."
        )
    return told


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """(name, figure, what it says) of the few figures that are read first."""
    twice = summary.steps_twice
    missing = "lost" if summary.finished else "not done"
    tiles = [
        (
            "Training steps",
            f"{summary.steps:,}",
            f"{summary.steps_lost:,} {missing}, {twice:,} applied twice",
        ),
        ("Deaths", f"{summary.deaths:,}", "devices that went down"),
        ("Repairs", f"{summary.repairings:,}", f"{summary.fallbacks:,} from another neighborhood"),
        (
            "Repeated",
            f"{summary.steps_repeated:,}",
            "step computations done again for repairs",
        ),
    ]
    if summary.bytes:
        tiles.append(("Sent", show_bytes(sum(summary.bytes.values())), "by all devices together"))
    wall = summary.wall_seconds
    tiles.append(
        (
            "Virtual time",
            show_seconds(summary.virtual_seconds),
            "on the emulated network"
            + (f"; computed in {show_seconds(wall)}" if wall is not None else ""),
        )
    )
    return tiles


def _neighborhoods(
    summary: Summary, truth: Mapping[str, str], colors: Mapping[str, str]
) -> list[tuple[str, str, list[Member]]]:
    """(neighborhood, the task that most of its clients have, its clients)."""
    found = []
    for name, clients in sorted(
        summary.neighborhoods.members.items(), key=lambda item: natural(item[0])
    ):
        most = _most_frequent([truth[client] for client in clients if client in truth])
        members = [
            Member(
                name=client,
                task=truth.get(client, ""),
                color=colors.get(truth.get(client, ""), ""),
                stray=truth.get(client, most) != most,
            )
            for client in sorted(clients, key=natural)
        ]
        found.append((name, most, members))
    return found


def _most_frequent(tasks: Sequence[str]) -> str:
    return max(sorted(set(tasks)), key=tasks.count, default="")


def _computed_on(platform: Mapping[str, str | int]) -> str:
    cores = platform.get("cores")
    known = [platform.get("processor"), count(cores, "core") if isinstance(cores, int) else ""]
    known += [platform.get(name) for name in ("machine", "system", "implementation")]
    return " · ".join(str(part) for part in known if part)


def _devices(record: RunRecord) -> list[tuple[str, Registered]]:
    found = {}
    for note in record.notes:
        event = read(note)
        if isinstance(event, Registered):
            found[note.node] = event
    return sorted(found.items(), key=lambda item: (item[1].role, natural(item[0])))


def _events(record: RunRecord) -> list[tuple[float, Sentence]]:
    """What happened, in order; all that a client tried before a repair is one sentence."""
    told: list[tuple[float, Sentence]] = []
    searches = Searches()
    for note in record.notes:
        event = read(note)
        ended = searches.add(note.time_s, event)
        told += [(search.begin_s, search.sentence()) for search in ended]
        sentence = None if isinstance(event, Suspected | Refused) else tell(event)
        if sentence is not None:
            told.append((note.time_s, sentence))
    told += [(search.begin_s, search.sentence()) for search in searches.end()]
    return sorted(told, key=lambda item: item[0])
