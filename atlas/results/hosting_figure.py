"""The figure of who hosted whom: faults on top, below them the hosts of each client's layers.

A figure as those of `figures`: plain values, colors by the names of CSS custom properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from atlas.results.course import Breakage, Course, Hosting, Part
from atlas.results.display import show_layers, show_moment, show_seconds, span_name
from atlas.results.figures import Figure, Json, axis, natural, time_unit

MOST_ROWS = 60
MOST_OF_A_FAULT = 8
"""Devices of one fault that get a row each; more are one row."""
ROW_PX = 22
KINDS = {
    "crash": "dead",
    "stop": "stopped",
    "pause": "frozen",
    "slow": "slow",
    "skew": "wrong clock",
    "degrade": "poor link",
    "partition": "cut off",
    "traffic": "others' traffic",
}
KIND_COLORS = {
    "crash": "--bad",
    "stop": "--bad",
    "pause": "--slow",
    "slow": "--slow",
    "skew": "--slow",
    "degrade": "--poor",
    "partition": "--cut",
    "traffic": "--poor",
}


def pairings(found: Course, groups: Mapping[str, str], hosts: Sequence[str]) -> Figure:
    """Faults on top, below them which host ran which layers of which client; one axis of time.

    `groups` is the neighborhood of each client, `hosts` fixes the hosts' colors.
    """
    unit, scale = time_unit(found.end_s)
    rows = hosting_rows(found, groups)
    broken = list(found.breakages)
    struck = breakage_rows(broken)
    data = [_breakage_trace(b, name, scale) for name, bars in struck.items() for b in bars]
    data += _hosting_traces(found, rows, hosts, scale)
    above = len(struck) * ROW_PX + 30 if struck else 0
    below = max(1, len(rows)) * ROW_PX + 10
    share = below / (above + below) if above else 1.0
    gap = 26 / (above + below) if above else 0.0
    layout: Json = {
        "height": above + below + 60,
        "margin": {"l": 40, "r": 26, "t": 8, "b": 44},
        "barmode": "overlay",
        "bargap": 0.18,
        "hovermode": "closest",
        "uniformtext": {"minsize": 9, "mode": "hide"},
        "shapes": _death_lines(broken, scale) + _dividers(rows, groups),
        "annotations": _band_names(rows, groups),
        "xaxis": axis(f"virtual time ({unit})", range=[0, found.end_s / scale or 1], anchor="y"),
        "yaxis": _rows_axis([_row_name(row) for row in rows], [0, share - gap]),
    }
    if struck:
        layout["yaxis2"] = _rows_axis(list(struck), [share, 1])
    return {"data": data, "layout": layout}


def hosting_rows(found: Course, groups: Mapping[str, str]) -> list[Part]:
    """The parts of chains in the order drawn; if they are too many, those that changed most."""
    parts = {(h.client, h.first, h.last) for h in found.hostings}
    if len(parts) > MOST_ROWS:
        changes = dict.fromkeys(parts, 0)
        for hosting in found.hostings:
            changes[hosting.client, hosting.first, hosting.last] += 1
        parts = set(sorted(parts, key=lambda part: (-changes[part], *part))[:MOST_ROWS])
    return sorted(
        parts, key=lambda part: (natural(groups.get(part[0], "")), natural(part[0]), part[1])
    )


def _breakage_trace(breakage: Breakage, name: str, scale: float) -> Json:
    until = "to the end" if breakage.lasting else f"until {show_moment(breakage.end_s)}"
    return {
        "type": "bar",
        "orientation": "h",
        "xaxis": "x",
        "yaxis": "y2",
        "y": [name],
        "base": [breakage.begin_s / scale],
        "x": [(breakage.end_s - breakage.begin_s) / scale],
        "text": [escape(_kind(breakage.kind))],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "marker": {"color": KIND_COLORS.get(breakage.kind, "--cut")},
        "textfont": {"color": "--on-bad"},
        "hovertext": [f"{escape(breakage.text)}<br>from {show_moment(breakage.begin_s)} {until}"],
        "hoverinfo": "text",
        "showlegend": False,
    }


def breakage_rows(broken: Sequence[Breakage]) -> dict[str, list[Breakage]]:
    """The faults by whom they strike: a row for each device, or for what is struck as a whole.

    Faults of different kinds have a row each, so that none hides another.
    """
    found: dict[tuple[str, str], list[Breakage]] = {}
    for breakage in broken:
        for subject in _subjects(breakage):
            found.setdefault((subject, breakage.kind), []).append(breakage)
    shown = dict(list(found.items())[:MOST_ROWS])
    subjects = [subject for subject, _ in shown]
    return {
        escape(subject if subjects.count(subject) == 1 else f"{subject} · {_kind(kind)}"): bars
        for (subject, kind), bars in shown.items()
    }


def _subjects(breakage: Breakage) -> list[str]:
    links = [" - ".join(sorted(link, key=natural)) for link in breakage.links]
    names = list(dict.fromkeys(breakage.nodes or links))
    if breakage.nodes and len(names) <= MOST_OF_A_FAULT:
        return names
    short = ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"
    return [short or _kind(breakage.kind)]


def _kind(kind: str) -> str:
    return KINDS.get(kind, kind)


def _row_name(row: Part) -> str:
    return escape(f"{row[0]} · {span_name(row[1], row[2])}")


def _hosting_traces(
    found: Course, rows: Sequence[Part], hosts: Sequence[str], scale: float
) -> list[Json]:
    shown = set(rows)
    traces: list[Json] = []
    for index, host in enumerate(hosts):
        mine = [
            h for h in found.hostings if h.host == host and (h.client, h.first, h.last) in shown
        ]
        if mine:
            traces.append(_host_trace(mine, f"--host-{index}", scale))
    waits = [w for w in found.waits if (w.client, w.first, w.last) in shown]
    if waits:
        traces.append(
            {
                **_bars([(w.client, w.first, w.last) for w in waits]),
                "base": [w.begin_s / scale for w in waits],
                "x": [(w.end_s - w.begin_s) / scale for w in waits],
                "marker": {"color": "--bad"},
                "hovertext": [
                    escape(f"{w.client} waits {show_seconds(w.end_s - w.begin_s)}: ")
                    + escape(f"{w.lost} is lost, {w.host} takes over")
                    for w in waits
                ],
            }
        )
    return traces


def _host_trace(hostings: Sequence[Hosting], color: str, scale: float) -> Json:
    return {
        **_bars([(h.client, h.first, h.last) for h in hostings]),
        "base": [h.begin_s / scale for h in hostings],
        "x": [(h.end_s - h.begin_s) / scale for h in hostings],
        "text": [escape(h.host) for h in hostings],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "textfont": {"color": "--on-host"},
        "marker": {
            "color": color,
            "pattern": {
                "shape": ["/" if h.borrowed else "" for h in hostings],
                "fillmode": "overlay",
                "fgcolor": "--on-host",
                "fgopacity": 0.3,
                "size": 8,
                "solidity": 0.2,
            },
        },
        "hovertext": [_hosting_text(h) for h in hostings],
    }


def _hosting_text(hosting: Hosting) -> str:
    text = (
        escape(
            f"{hosting.host} runs {show_layers(hosting.first, hosting.last)} of {hosting.client}"
        )
        + f"<br>from {show_moment(hosting.begin_s)} until {show_moment(hosting.end_s)}"
    )
    return text + "<br>a host of another neighborhood (fallback)" if hosting.borrowed else text


def _bars(rows: Sequence[Part]) -> Json:
    return {
        "type": "bar",
        "orientation": "h",
        "xaxis": "x",
        "yaxis": "y",
        "y": [_row_name(row) for row in rows],
        "hoverinfo": "text",
        "showlegend": False,
    }


def _rows_axis(names: Sequence[str], domain: list[float]) -> Json:
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(names),
        "range": [len(names) - 0.5, -0.5],
        "domain": domain,
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "ticksuffix": "  ",
        "tickfont": {"size": 11},
        "dtick": 1,
        "fixedrange": True,
    }


def _death_lines(broken: Sequence[Breakage], scale: float) -> list[Json]:
    return [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": breakage.begin_s / scale,
            "x1": breakage.begin_s / scale,
            "y0": 0,
            "y1": 1,
            "line": {"color": "--bad", "width": 1, "dash": "dot"},
        }
        for breakage in broken
        if breakage.kind == "crash"
    ]


def _groups_in_rows(rows: Sequence[Part], groups: Mapping[str, str]) -> list[tuple[str, int, int]]:
    """(group, first row, last row) for each run of rows of one group."""
    runs: list[tuple[str, int, int]] = []
    for index, row in enumerate(rows):
        group = groups.get(row[0], "")
        if runs and runs[-1][0] == group:
            runs[-1] = (group, runs[-1][1], index)
        else:
            runs.append((group, index, index))
    return runs


def _dividers(rows: Sequence[Part], groups: Mapping[str, str]) -> list[Json]:
    return [
        {
            "type": "line",
            "xref": "paper",
            "yref": "y",
            "x0": 0,
            "x1": 1,
            "y0": first - 0.5,
            "y1": first - 0.5,
            "line": {"color": "--muted", "width": 1},
        }
        for _, first, _ in _groups_in_rows(rows, groups)[1:]
    ]


def _band_names(rows: Sequence[Part], groups: Mapping[str, str]) -> list[Json]:
    return [
        {
            "text": escape(group),
            "xref": "paper",
            "yref": "y",
            "x": 1,
            "xanchor": "left",
            "xshift": 4,
            "y": (first + last) / 2,
            "yanchor": "middle",
            "textangle": 90,
            "showarrow": False,
            "font": {"size": 11, "color": "--muted"},
        }
        for group, first, last in _groups_in_rows(rows, groups)
        if group
    ]
