"""What `atlas show` prints: tables of what is bundled, or of a file of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import faults as scenarios
import topologies
from faults.picture import picture
from topologies import InputError, units
from topologies.document import Document, Value, parse_yaml
from topologies.errors import did_you_mean
from topologies.link_settings import describe_link, describe_transport

if TYPE_CHECKING:
    from atlas.tasks import TaskSource

DERIVED = "≈"


def topology(name: str, rules: Sequence[str], console: Console) -> None:
    """One topology, or the names of those that are bundled.

    Args:
        rules: changes to the rules by which what a file leaves out is derived, as ``KEY=VALUE``.
    """
    if not name:
        _names("Topologies", topologies.catalog(), console)
        return
    found = topologies.load(name, _rules(rules))
    nodes = _table(f"{found.name}: {len(found.nodes)} nodes", "Node", "Role", "Device", "Grants",
                   "Computes", "Attributes")  # fmt: skip
    for node in found.nodes.values():
        device = node.device
        nodes.add_row(
            node.name,
            f"{DERIVED} {node.role}" if "role" in node.derived else node.role,
            device.name if device else "",
            units.show_size(device.grant_bytes) if device else "",
            units.show_flops(device.flops) if device else "",
            ", ".join(f"{key}={value}" for key, value in node.attributes.items()),
        )
    console.print(nodes)
    links = _table(f"{len(found.links)} links, each direction on its own", "From", "To",
                   "Bandwidth", "Delay", "Jitter", "Loss", "More")  # fmt: skip
    for column in links.columns[1:4]:
        column.no_wrap = True
    for link in found.links.values():
        said = describe_link(link)
        if "bandwidth_bps" in link.derived:
            said["bandwidth"] = f"{DERIVED} {units.show_bandwidth(link.bandwidth_bps, 3)}"
        if "delay_s" in link.derived:
            said["delay"] = f"{DERIVED} {units.show_duration(link.delay_s, 3)}"
        columns = [said.pop(name, "") for name in ("bandwidth", "delay", "jitter", "loss")]
        more = ", ".join(f"{setting} {value}" for setting, value in said.items())
        links.add_row(link.source, link.target, *columns, more)
    console.print(links)
    if transport := describe_transport(found.transport):
        said_of_it = ", ".join(f"{name} {value}" for name, value in transport.items())
        console.print(f"Streams: {said_of_it}")
    _derived(found, console)


def _derived(found: topologies.Topology, console: Console) -> None:
    """How many values no file states, and by which rule they are."""
    counts = Counter(
        (what, field, rule)
        for what, marked in (("node", found.nodes.values()), ("link", found.links.values()))
        for one in marked
        for field, rule in one.derived.items()
    )
    if not counts:
        return
    table = _table(f"{DERIVED} is not stated, but derived by a rule", "Value", "Rule", "Times")
    for (what, field, rule), count in sorted(counts.items()):
        table.add_row(f"{what}'s {field}", rule, str(count))
    console.print(table)


def _rules(changes: Sequence[str]) -> topologies.Rules | None:
    """The rules that these changes make, each ``KEY=VALUE``. Raises InputError."""
    told: dict[str, Value] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f'"{change}" is no rule', key="--rule", remedy="Write KEY=VALUE")
        told[key] = parse_yaml(value, f"--rule {key}").value
    return Document("--rule", told).read(topologies.Rules, told) if told else None


def faults(
    name: str, topology_name: str, seed: int, console: Console, *, everything: bool = False
) -> None:
    """The events of one scenario on a topology, or what is bundled."""
    if not name:
        table = _table("Fault scenarios", "Scenario", "What")
        for bundled in scenarios.catalog():
            table.add_row(bundled, scenarios.load(bundled).description)
        console.print(table)
        return
    network = topologies.load(topology_name)
    scenario = scenarios.load(name)
    events = scenarios.expand(scenario, network, seed)
    if scenario.description:
        console.print(Text(f"{scenario.name}: {scenario.description}"))
    over = {event.fault: event.at_ns for event in events if event.phase == "end"}
    begins = [event for event in events if event.phase == "begin"]
    shown = begins if everything else begins[:MOST_FAULTS_SHOWN]
    title = f"{name} on {network.name}, seed {seed}: {len(begins)} faults, {len(events)} events"
    table = _table(title, "At", "For", "Fault", "What")
    for event in shown:
        ends_ns = over.get(event.fault)
        lasts = units.show_nanoseconds(ends_ns - event.at_ns) if ends_ns is not None else "ever"
        table.add_row(units.show_nanoseconds(event.at_ns), lasts, event.fault, event.text)
    console.print(table)
    if len(shown) < len(begins):
        console.print(f"… and {len(begins) - len(shown)} more: --all shows them.\n")
    _time_line(events, console)
    if any(event.selector for event in events):
        console.print("Who stands there by a description, as “host of …”, is known only to a run.")


def _time_line(events: tuple[scenarios.Event, ...], console: Console) -> None:
    """A picture with a line for each entry of the scenario."""
    drawn = picture(events, width=1)
    names = [f"{lane.name} {lane.kind.replace('_', ' ')}" for lane in drawn.lanes]
    margin = max(map(len, names), default=0) + 1
    drawn = picture(events, width=max(console.width - margin - 1, 20))
    for label, lane in zip(names, drawn.lanes, strict=True):
        line = Text(label.ljust(margin), no_wrap=True)
        line.append(lane.cells, style=_COLORS.get(lane.kind, "yellow"))
        console.print(line, crop=True)
    console.print(Text(" " * margin + drawn.axis, style="dim"))


MOST_FAULTS_SHOWN = 100
MOST_COUNTED = 24
_COLORS = {
    **dict.fromkeys(("crash", "stop", "leave", "pause"), "red"),
    **dict.fromkeys(("cut", "partition", "nat"), "magenta"),
    **dict.fromkeys(("degrade", "traffic"), "cyan"),
}


def tasks(name: str, console: Console, *, count: bool = False) -> None:
    """The tasks known by name, or one of them; counting reads its text, fetched at need."""
    from atlas.tasks import registry  # noqa: PLC0415 - not needed for the other tables

    known = registry()
    if name and name not in known:
        raise InputError(
            f"there is no task {name!r}", key="NAME", remedy=did_you_mean(name, known, what="tasks")
        )
    if name:
        _task(known[name], console, count=count)
        return
    table = _table("Tasks", "Task", "Kind", "Metric", "Rows", "What", "Source", "Licence")
    table.columns[3].justify = "right"
    for task in known.values():
        rows = "" if task.rows is None else f"{task.rows:,}"
        table.add_row(
            task.name, task.kind, task.metric, rows, task.summary, task.source, task.licence
        )
    console.print(table)
    console.print(
        "Rows: before any are left out as too long or repeated; of Python's own text they depend "
        "on its version.\n`atlas show tasks NAME --count` counts answers and domains, and shows a "
        "row."
    )


def _task(source: TaskSource, console: Console, *, count: bool) -> None:
    from atlas import assets, pins  # noqa: PLC0415 - not needed for the other tables

    pinned = pins.PACKAGES[source.package] if source.package else None
    said = {
        "What": source.summary,
        "Kind": f"{source.kind}, judged by {source.metric}",
        "Source": source.source,
        "Licence": source.licence,
        "Domains": source.domains or "none",
    }
    if source.rows is not None:
        said["Rows"] = f"{source.rows:,}"
    if pinned:
        said["Package"] = f"{pinned.bytes / 1e6:.1f} MB, SHA-256 {pinned.sha256}"
    if count:
        with assets.progress_bar() as progress:
            wheel = assets.package(pinned.name, progress=progress) if pinned else None
        rows = source.read(wheel)
        said["Rows"] = f"{len(rows):,}"
        if rows[0].choices:
            shared = len({row.choices for row in rows}) == 1
            counts = _counts(Counter(row.answer for row in rows))
            said["Answers"] = counts if shared else "each row has choices of its own"
        if source.domains:
            said["Domains"] = f"{source.domains}: {_counts(Counter(row.domain for row in rows))}"
        shown = rows[0].example(rows[0].text)
        said["A row"] = f"{shown.prompt} {shown.answer}"
    table = _table(source.name, "", "")
    table.show_header = False
    for what, text in said.items():
        table.add_row(what, Text(text))
    console.print(table)


def _counts(counts: Counter[str]) -> str:
    most = counts.most_common(MOST_COUNTED)
    said = ", ".join(f"{what} {count:,}" for what, count in most)
    return said + (f" and {len(counts) - len(most):,} more" if len(most) < len(counts) else "")


def devices(name: str, console: Console) -> None:
    """The profiles of real devices."""
    known = topologies.devices()
    if name and name not in known:
        raise InputError(
            f"there is no device {name!r}",
            key="NAME",
            remedy=did_you_mean(name, known, what="devices"),
        )
    table = _table("Devices", "Device", "Memory", "Grants", "Computes", "Source")
    for device in known.values():
        if name in ("", device.name):
            table.add_row(
                device.name,
                units.show_size(device.memory_bytes),
                units.show_size(device.grant_bytes),
                units.show_flops(device.flops),
                device.source,
            )
    console.print(table)


def recipes(name: str, console: Console) -> None:
    """The methods known by name, or all that is said of one."""
    from atlas import methods  # noqa: PLC0415 - not needed for the other tables

    if name:
        recipe = methods.find(name)
        console.print(Text(f"{recipe.name}: {recipe.takes}"), soft_wrap=True)
        for what, text in (("From", recipe.paper), ("Left open", recipe.leaves_open)):
            if text:
                console.print(Text(f"{what}: {text}"), soft_wrap=True)
        for change in recipe.changes():
            console.print(Text(f"  {change}"))
        return
    table = _table("Recipes", "Recipe", "From", "What")
    for recipe in methods.recipes().values():
        table.add_row(recipe.name, recipe.paper, recipe.takes)
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        *columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.columns[0].no_wrap = True
    return table


def _names(title: str, names: tuple[str, ...], console: Console) -> None:
    console.print(Text(title, style="bold"))
    for name in names:
        console.print(f"  {name}")
