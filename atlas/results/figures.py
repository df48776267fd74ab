"""The report's figures, as Plotly describes them: data and layout as plain values.

Pure functions. Colors are names of CSS custom properties ("--series-2"), which the page fills in
from its style sheet, so that one figure serves light, dark and print. Times are virtual. Plotly
reads a little HTML in its texts, so every name is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from atlas.results.display import (
    show_bytes,
    show_loss,
    show_moment,
)
from atlas.results.events import Step, read
from atlas.results.notes import Note

Figure = dict[str, object]
Json = dict[str, object]

SERIES = 8
"""Colors that the style sheet has for series."""
MOST_CLIENT_LINES = 24
MOST_POINTS = 400


def series_color(index: int) -> str:
    """The color of the index-th series; they repeat after `SERIES`."""
    return f"--series-{index % SERIES}"


def steps_of(notes: Iterable[Note]) -> list[tuple[float, Step]]:
    """Each step that stands, with the time of its last commit, in order of time."""
    found: dict[tuple[str, int, int], tuple[float, Step]] = {}
    for note in notes:
        event = read(note)
        if isinstance(event, Step):
            found[event.client, event.round, event.step] = (note.time_s, event)
    return sorted(found.values(), key=lambda item: (item[0], item[1].client))


def losses(steps: Sequence[tuple[float, Step]], groups: Mapping[str, str], *, over: str) -> Figure:
    """Training loss of each group (a task), and faintly of each client, over "step" or over "time".

    A group's line is the mean over its clients of the loss at one step; over time it stands at the
    mean of their times.
    """
    order = {
        moment: index + 1 for index, moment in enumerate(sorted({_moment(s) for _, s in steps}))
    }
    unit, scale = time_unit(max((time_s for time_s, _ in steps), default=0.0))
    points: dict[str, dict[str, list[tuple[float, int, float]]]] = {}
    for time_s, step in steps:
        if step.client in groups:
            clients = points.setdefault(groups[step.client], {})
            point = (time_s / scale, order[_moment(step)], step.loss)
            clients.setdefault(step.client, []).append(point)
    data: list[Json] = []
    many = sum(len(clients) for clients in points.values()) > MOST_CLIENT_LINES
    for index, group in enumerate(sorted(points)):
        color, clients = series_color(index), points[group]
        for client in [] if many else sorted(clients):
            line = sorted(clients[client], key=lambda point: point[1])
            data.append(_line(client, line, over, color, faint=True))
        means = _means([point for line in clients.values() for point in line])
        data.append(_line(group, means, over, color, faint=False))
    title = "training steps of a client" if over == "step" else f"virtual time ({unit})"
    return {
        "data": data,
        "layout": {
            "height": 330,
            "margin": {"l": 48, "r": 12, "t": 10, "b": 44},
            "hovermode": "closest",
            "xaxis": axis(title, rangemode="tozero"),
            "yaxis": axis("training loss", rangemode="tozero"),
        },
    }


def bytes_by_purpose(sizes: Mapping[str, int]) -> Figure:
    """Bytes of each purpose, the largest on top."""
    order = sorted(sizes.items(), key=lambda item: (item[1], item[0]))
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [escape(name) for name, _ in order],
                "x": [size / 1e6 for _, size in order],
                "text": [show_bytes(size) for _, size in order],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": "--series-0"},
                "hovertemplate": "%{y}: %{text}<extra></extra>",
            }
        ],
        "layout": {
            "height": 56 + 34 * max(1, len(order)),
            "margin": {"l": 40, "r": 70, "t": 6, "b": 44},
            "bargap": 0.35,
            "xaxis": axis("megabytes", rangemode="tozero"),
            "yaxis": {"automargin": True, "ticks": "", "showgrid": False, "ticksuffix": "  "},
        },
    }


def bytes_over_time(notes: Sequence[Note]) -> Figure:
    """Bytes that all nodes had sent, over virtual time."""
    points = sorted({(note.time_s, note.bytes_total) for note in notes})
    keep = max(1, -(-len(points) // MOST_POINTS))
    points = points[::keep] + ([points[-1]] if points and (len(points) - 1) % keep else [])
    unit, scale = time_unit(points[-1][0] if points else 0.0)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [round(time_s / scale, 6) for time_s, _ in points],
                "y": [size / 1e6 for _, size in points],
                "text": [f"{show_moment(time_s)}: {show_bytes(size)}" for time_s, size in points],
                "line": {"color": "--series-0", "width": 2},
                "fill": "tozeroy",
                "fillcolor": "--series-0-soft",
                "hovertemplate": "%{text}<extra></extra>",
            }
        ],
        "layout": {
            "height": 226,
            "margin": {"l": 56, "r": 12, "t": 6, "b": 44},
            "hovermode": "closest",
            "xaxis": axis(f"virtual time ({unit})", rangemode="tozero"),
            "yaxis": axis("megabytes", rangemode="tozero"),
        },
    }


def time_unit(end_s: float) -> tuple[str, float]:
    """The unit of a time axis and its length in seconds."""
    if end_s >= 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if end_s >= 600 else ("seconds", 1.0)


def axis(title: str, **settings: object) -> Json:
    """An axis with its title."""
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "zeroline": False,
        **settings,
    }


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts client-2 before client-10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _moment(step: Step) -> tuple[int, int]:
    return (step.round, step.step)


def _means(points: Iterable[tuple[float, int, float]]) -> list[tuple[float, int, float]]:
    at: dict[int, list[tuple[float, float]]] = {}
    for time, index, loss in points:
        at.setdefault(index, []).append((time, loss))
    return [
        (
            sum(t for t, _ in at[index]) / len(at[index]),
            index,
            sum(v for _, v in at[index]) / len(at[index]),
        )
        for index in sorted(at)
    ]


def _line(
    name: str, points: Sequence[tuple[float, int, float]], over: str, color: str, *, faint: bool
) -> Json:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(name),
        "x": [index if over == "step" else round(time, 6) for time, index, _ in points],
        "y": [loss if loss - loss == 0 else None for _, _, loss in points],
        "text": [escape(f"{name}, step {index}: {show_loss(loss)}") for _, index, loss in points],
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
        "opacity": 0.3 if faint else 1.0,
        "line": {"color": color, "width": 1 if faint else 2.5},
    }
