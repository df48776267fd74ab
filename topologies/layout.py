"""Our own topology file: the settings it may have, and what they mean.

```yaml
name: two-sites
attributes: [floor]        # names of your own that nodes may have; `cluster` is always there
devices:                   # machines that are not in the catalog of devices
  camera: {memory: 1 GiB, grant: 128 MiB, flops: 2 GFLOP/s, source: measured}
kinds:                     # what several links have in common
  adsl: {up: {bandwidth: 1 Mbit/s}, down: {bandwidth: 16 Mbit/s}, delay: 10 ms}
nodes:
  gateway: {role: gateway}
  camera-0..3: {role: client, device: camera, grant: 64 MiB, floor: 2}
links:
  - {between: [camera-0..3, gateway], kind: adsl, jitter: 2 ms}
  - {from: camera-0, to: camera-1, bandwidth: 10 Mbit/s, delay: 1 ms, queue: codel}
transport: {congestion: reno, initial_window: 4}       # how streams behave
```

``a-0..3`` stands for a-0, a-1, a-2 and a-3; a link between two ranges joins each with each. A link
``between`` two nodes has both directions, ``up`` from the first to the second and ``down`` back;
one ``from`` a node ``to`` another has only that. What a link says itself wins over its kind, and
what stands under ``up`` or ``down`` over what stands beside them. What links and streams can be
told is listed in `topologies.link_settings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated

from pydantic import Field, SkipValidation, model_validator

from topologies.access import access
from topologies.devices import Profile, devices, read_profiles
from topologies.document import Document, Place, Settings, Value
from topologies.errors import InputError, did_you_mean, near
from topologies.fields import Bytes
from topologies.link_settings import (
    SAID_OF_A_DIRECTION,
    Direction,
    LinkKind,
    LinkReader,
    TransportSettings,
    check_media,
)
from topologies.model import (
    RESERVED,
    Attribute,
    Device,
    Link,
    Node,
    Topology,
    Transport,
    can_be_an_attribute,
)
from topologies.rules import LinkRules, Rules

ALWAYS = ("cluster", "latitude", "longitude")
_RANGE = re.compile(r"(?P<stem>.*?)(?P<first>0|[1-9][0-9]{0,6})\.\.(?P<last>[0-9]{1,7})")
MOST_NODES = 100_000


class LinkSettings(LinkKind):
    """An entry of ``links``: its ends, and what it is like."""

    between: tuple[str, str] | None = Field(
        default=None,
        description="Its two nodes, for both directions; a range joins each of its nodes",
    )
    source: str | None = Field(
        default=None, alias="from", description="Where a link with one direction begins"
    )
    target: str | None = Field(default=None, alias="to", description="Where it ends")
    kind: str | None = Field(
        default=None,
        description="One of the file's kinds, or of the bundled access networks; what the link "
        "says itself wins",
    )

    @model_validator(mode="after")
    def _has_ends(self) -> LinkSettings:
        directed = self.source is not None and self.target is not None
        if (self.between is None) != directed or (self.source is None) != (self.target is None):
            raise InputError(
                "a link needs its two ends",
                remedy="Write between: [a, b] for both directions, or from: a and to: b for one",
            )
        if directed and {"up", "down"} & self.model_fields_set:
            raise InputError(
                "up and down are the directions of a link between two nodes",
                remedy="This one has a single direction: put the settings beside from and to",
            )
        return self


class NodeSettings(Settings):
    """What a node can be told, besides the attributes that the file declares."""

    role: str = Field(
        default="node",
        description="What it is there for: coordinator, gateway, client, host, or another word",
    )
    device: str | None = Field(
        default=None, description="One of the file's devices, or of the bundled ones"
    )
    grant: Bytes | None = Field(
        default=None,
        description="What of the device's memory is lent to training, where that is not the usual",
    )


class Layout(Settings):
    """The whole file."""

    name: str | None = Field(default=None, description="Without it, that of the file")
    description: str = Field(default="", description="A sentence for those who look for one")
    attributes: tuple[str, ...] = Field(
        default=(),
        description="Names of your own that nodes may have. cluster, latitude and longitude are "
        "always there",
    )
    devices: dict[str, Annotated[Profile, SkipValidation]] = Field(
        default_factory=dict, description="Machines that the catalog of devices doesn't have"
    )
    kinds: dict[str, LinkKind] = Field(
        default_factory=dict, description="What several links have in common, by a name"
    )
    nodes: dict[str, Annotated[NodeSettings | None, SkipValidation]] = Field(
        description="By name; a-0..3 stands for a-0, a-1, a-2 and a-3"
    )
    links: tuple[LinkSettings, ...] = Field(default=(), description="What joins them")
    transport: TransportSettings = Field(
        default=TransportSettings(), description="How streams behave"
    )
    rules: LinkRules | None = Field(
        default=None,
        description="By which bandwidths and delays are derived that links don't say; without "
        "rules, saying neither is an error",
    )


def read_layout(document: Document, name: str, rules: Rules | None = None) -> Topology:
    """The topology that our own YAML describes; *name*, unless it says another.

    Links that lack bandwidth or delay get them by the file's rules, over which *rules* go; without
    either they are an error. Raises the document's error.
    """
    layout = document.read(Layout, document.mapping())
    linked = layout.rules if rules is None else (layout.rules or LinkRules()).under(rules)
    own = declared(document, layout.attributes, ("attributes",))
    profiles: dict[str, Device] = {**devices()}
    if layout.devices:
        profiles |= read_profiles(document, document.mapping(("devices",)), ("devices",))
    nodes: dict[str, Node] = {}
    for written, value in document.mapping(("nodes",)).items():
        place: Place = ("nodes", written)
        for node in _nodes(document, written, value, own, profiles):
            if node.name in nodes:
                raise document.error(f"there is a node {node.name} already", place)
            nodes[node.name] = node
            if len(nodes) > MOST_NODES:
                raise document.error(f"these are more than {MOST_NODES} nodes", place)
    links: dict[tuple[str, str], Link] = {}
    places: dict[tuple[str, str], Place] = {}
    reader = _Reader(document, LinkReader(document), layout.kinds, nodes, linked)
    for index, settings in enumerate(layout.links):
        place = ("links", index)
        for link in reader.links(settings, place):
            if link.ends in links:
                raise document.error(
                    f"there is a link {link.source} → {link.target} already", place
                )
            links[link.ends], places[link.ends] = link, place
    check_media(document, links, places)
    transport = document.read(Transport, layout.transport.fields(), ("transport",))
    whole = {
        "name": layout.name or name,
        "nodes": nodes,
        "links": links,
        "transport": transport,
    }
    return document.read(Topology, whole)


def declared(document: Document, names: tuple[str, ...], place: Place) -> frozenset[str]:
    """The names of attributes that nodes may have.

    Raises the document's error on one that can't be.
    """
    for name in names:
        if not can_be_an_attribute(name):
            remedy = f"Use letters, digits and _, and none of {', '.join(sorted(RESERVED))}"
            raise document.error(f'"{name}" can\'t be the name of an attribute', place, remedy)
    return frozenset((*ALWAYS, *names))


def split_attributes(
    document: Document,
    settings: Mapping[str, Value],
    own: frozenset[str],
    known: tuple[str, ...],
    place: Place,
) -> tuple[dict[str, Value], dict[str, Attribute]]:
    """A node's settings, and its attributes. Raises the document's error on what is neither."""
    rest: dict[str, Value] = {}
    attributes: dict[str, Attribute] = {}
    for key, value in settings.items():
        here = (*place, key)
        if key in known:
            rest[key] = value
        elif key not in own:
            remedy = did_you_mean(key, (*known, *sorted(own)), what="settings here")
            remedy += ". Names of your own have to be listed under attributes, at the top"
            raise document.error("there is no such setting", here, remedy)
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            raise document.error("an attribute is a text or a number", here)
        else:
            attributes[key] = value
    return rest, attributes


def machine(
    document: Document, settings: NodeSettings, profiles: Mapping[str, Device], place: Place
) -> Device | None:
    """The device of a node, with what this one grants. Raises the document's error."""
    if settings.device is None:
        if settings.grant is not None:
            remedy = "Say which device it is"
            raise document.error("only a device can grant memory", (*place, "grant"), remedy)
        return None
    device = profiles.get(settings.device)
    if device is None:
        remedy = did_you_mean(settings.device, profiles, what="devices")
        problem = f'there is no device "{settings.device}"'
        raise document.error(problem, (*place, "device"), remedy)
    if settings.grant is None:
        return device
    changed = {**device.model_dump(), "grant_bytes": settings.grant}
    return document.read(Device, changed, (*place, "grant"))


def _nodes(
    document: Document,
    written: str,
    value: Value,
    own: frozenset[str],
    profiles: Mapping[str, Device],
) -> Iterator[Node]:
    place: Place = ("nodes", written)
    if value is not None and not isinstance(value, dict):
        raise document.error("a mapping of settings was expected here", place, "Write {} for none")
    known = NodeSettings.settings()
    rest, attributes = split_attributes(document, value or {}, own, known, place)
    settings = document.read(NodeSettings, rest, place)
    device = machine(document, settings, profiles, place)
    for name in _range(document, written, place):
        fields = {"name": name, "role": settings.role, "device": device, "attributes": attributes}
        yield document.read(Node, fields, place)


@dataclass(frozen=True)
class _Reader:
    """Reads the links of a file, whose nodes and kinds of link are known."""

    document: Document
    settings: LinkReader
    kinds: Mapping[str, LinkKind]
    nodes: Mapping[str, Node]
    rules: LinkRules | None

    def links(self, given: LinkSettings, place: Place) -> Iterator[Link]:
        """The links that one entry describes."""
        kind = self._kind(given.kind, place)
        written = given.between or (given.source or "", given.target or "")
        ends = [_ends(self.document, end, place, self.nodes) for end in written]
        up = self.settings.fields(_direction(given.up, given, kind.up, kind), place)
        down = self.settings.fields(_direction(given.down, given, kind.down, kind), place)
        for a, b in product(*ends):
            yield self._link(a, b, up, place)
            if given.between is not None:
                yield self._link(b, a, down, place)

    def _kind(self, name: str | None, place: Place) -> LinkKind:
        if name is None:
            return LinkKind()
        if name in self.kinds:
            return self.kinds[name]
        if name in access():
            return access()[name].link
        known = (*self.kinds, *access())
        remedy = did_you_mean(name, known, what="kinds of link")
        problem = f'there is no kind of link "{name}"'
        raise self.document.error(problem, (*place, "kind"), remedy)

    def _link(self, a: str, b: str, told: Mapping[str, object], place: Place) -> Link:
        fields = {**told, "source": a, "target": b}
        if self.rules is not None:
            derived = self.rules.complete(fields, self.nodes[a], self.nodes[b])
            fields.update({"derived": derived} if derived else {})
        for name, field in (("bandwidth", "bandwidth_bps"), ("delay", "delay_s")):
            if field not in fields:
                remedy = f"Write {name} here, under up and down, or in the link's kind"
                problem = f"the link {a} → {b} has no {name}"
                raise self.document.error(problem, place, remedy)
        return self.document.read(Link, fields, place)


def _direction(*most_telling_first: Direction) -> dict[str, object]:
    told: dict[str, object] = {}
    for direction in reversed(most_telling_first):
        for name in direction.model_fields_set & SAID_OF_A_DIRECTION:
            if (value := getattr(direction, name)) is not None:
                told[name] = value
    return told


def _ends(
    document: Document, written: str, place: Place, nodes: Mapping[str, Node]
) -> tuple[str, ...]:
    names = (written,) if written in nodes else tuple(_range(document, written, place))
    for name in names:
        if name not in nodes:
            like = near(name, nodes)
            remedy = f"Did you mean {' or '.join(like)}?" if like else "List it under nodes"
            raise document.error(f'there is no node "{name}"', place, remedy)
    return names


def _range(document: Document, written: str, place: Place) -> Iterator[str]:
    match = _RANGE.fullmatch(written)
    if match is None:
        yield written
        return
    first, last = int(match["first"]), int(match["last"])
    if last < first or last - first >= MOST_NODES:
        raise document.error(f'"{written}" is no range: {first} to {last}', place)
    for number in range(first, last + 1):
        yield f"{match['stem']}{number}"
