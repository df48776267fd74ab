"""Writes the real networks of the catalog, from the files of the Internet Topology Zoo.

```sh
python -m topologies.making.zoo FOLDER      # with the GraphML files, as the Zoo's archive has them
```

Of each network its facts are taken: nodes with their places and countries, which of them are
joined, and the speeds that are stated. What is not stated is left out, and derived by the rules
when the file is loaded. Then devices are attached, which the Zoo has not, by this rule:

- the *sites* of a network are its eight best-joined nodes that have a place (all, where it has
  fewer), those with the most links first, in the order of the file where they have as many;
- each site has three clients and two hosts, and is the cluster of that number;
- clients are by turns a flagship phone, a Raspberry Pi 5, a mid-range phone and a Raspberry Pi 4,
  hosts by turns a laptop, a mini PC and a Jetson Orin Nano, each on the first network of its
  profile;
- the coordinator, a small server, stands at the first site.

Clients grant 576 MiB and hosts 704 MiB, as in ``edge-clusters``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import topologies
from topologies import Node, Rules, Topology
from topologies.document import parse_yaml
from topologies.graphml import read_graphml
from topologies.markup import read_markup

CATALOG = Path(topologies.__file__).with_name("catalog")
SITES = 8
_CLIENTS = ("phone-flagship", "raspberry-pi-5", "phone-midrange", "raspberry-pi-4")
_HOSTS = ("laptop", "mini-pc", "jetson-orin-nano")


@dataclass(frozen=True)
class Choice:
    """A network of the Zoo: its file, its name in the catalog, and what it is."""

    file: str
    name: str
    description: str


CHOICES = (
    Choice("Aarnet", "zoo-aarnet", "AARNet, Australia's research network, 2010"),
    Choice("Abilene", "zoo-abilene", "Abilene, the backbone of Internet2, 2005"),
    Choice("Arnes", "zoo-arnes", "ARNES, Slovenia's research network, 2010"),
    Choice("Cernet", "zoo-cernet", "CERNET, China's research network, 2006"),
    Choice("Garr201201", "zoo-garr", "GARR, Italy's research network, early 2012"),
    Choice("Geant2012", "zoo-geant", "GÉANT, the backbone of Europe's research networks, 2012"),
    Choice("Grnet", "zoo-grnet", "GRNET, Greece's research network, 2010"),
    Choice("Karen", "zoo-karen", "KAREN, New Zealand's research network, 2010"),
    Choice("Niif", "zoo-niif", "NIIF, Hungary's research network, 2009"),
    Choice("Rediris", "zoo-rediris", "RedIRIS, Spain's research network, 2011"),
    Choice("Renater2010", "zoo-renater", "RENATER, France's research network, 2010"),
    Choice("Rnp", "zoo-rnp", "RNP, Brazil's research network, 2010"),
    Choice("Uninett2011", "zoo-uninett", "UNINETT, Norway's research network, 2011"),
)


def main(folder: Path) -> None:
    """Writes all files of `CHOICES`."""
    for choice in CHOICES:
        text = written(choice, folder / f"{choice.file}.graphml")
        (CATALOG / f"{choice.name}.yaml").write_text(text, encoding="utf-8")
        print(f"{choice.name}: {len(topologies.load(choice.name).nodes)} nodes")


def written(choice: Choice, file: Path) -> str:
    """The catalog's file about this network."""
    network = topologies.load(file, Rules(disconnected="largest"))
    return "\n".join([*_head(choice, file), *_nodes(network), *_links(network), ""])


def _head(choice: Choice, file: Path) -> Iterator[str]:
    about = _facts(file)
    yield f"# {choice.description}: facts of {file.name} of the"
    yield "# Internet Topology Zoo, which is licensed under CC BY 4.0. Licence and citation stand"
    yield "# in topology-zoo.LICENSE.md beside this file."
    if source := about.get("Source"):
        yield f"# Drawn there after {source}"
    yield "# Written by topologies/making/zoo.py, which says by which rule devices are attached."
    yield f"name: {choice.name}"
    yield f"description: {choice.description}"
    yield "attributes: [country]"
    yield "# Delays follow from the coordinates; speeds that are not stated are the rules' own."
    yield "rules: {}"


def _facts(file: Path) -> dict[str, object]:
    document = read_graphml(read_markup(file.read_text("utf-8"), file.name), file.name)
    return {**document.mapping(("graph",))}


def _nodes(network: Topology) -> Iterator[str]:
    yield "nodes:"
    for node in network.nodes.values():
        told = [f"role: {node.role}"]
        if node.place is not None:
            told += [f"latitude: {node.place[0]}", f"longitude: {node.place[1]}"]
        if country := node.attributes.get("Country"):
            told.append(f"country: {_quoted(str(country))}")
        yield f"  {_quoted(node.name)}: {{{', '.join(told)}}}"
    yield "  coordinator: {role: coordinator, device: small-server}"
    for cluster, _ in enumerate(sites(network)):
        for index in range(3 * cluster, 3 * cluster + 3):
            device = f"device: {_CLIENTS[index % 4]}, grant: 576 MiB"
            yield f"  client-{index}: {{role: client, {device}, cluster: {cluster}}}"
        for index in range(2 * cluster, 2 * cluster + 2):
            device = f"device: {_HOSTS[index % 3]}, grant: 704 MiB"
            yield f"  host-{index}: {{role: host, {device}, cluster: {cluster}}}"


def sites(network: Topology) -> Sequence[Node]:
    """The nodes that devices are attached to."""
    degrees = Counter(source for source, _ in network.links)
    placed = [node for node in network.nodes.values() if node.place and node.role == "router"]
    return sorted(placed, key=lambda node: -degrees[node.name])[:SITES]


def _links(network: Topology) -> Iterator[str]:
    yield "links:"
    seen: set[tuple[str, str]] = set()
    for link in network.links.values():
        if (link.target, link.source) in seen:
            continue
        seen.add(link.ends)
        told = [f"between: [{_quoted(link.source)}, {_quoted(link.target)}]"]
        if link.derived.get("bandwidth_bps", "parallel") == "parallel":
            told.append(f"bandwidth: {topologies.units.show_bandwidth(link.bandwidth_bps)}")
        yield f"  - {{{', '.join(told)}}}"
    known = topologies.devices()
    for cluster, site in enumerate(sites(network)):
        name = _quoted(site.name)
        if cluster == 0:
            yield f"  - {{between: [coordinator, {name}], kind: ethernet}}"
        for role, count, kinds in (("client", 3, _CLIENTS), ("host", 2, _HOSTS)):
            for index in range(count * cluster, count * (cluster + 1)):
                kind = known[kinds[index % len(kinds)]].networks[0]
                yield f"  - {{between: [{role}-{index}, {name}], kind: {kind}}}"


def _quoted(text: str) -> str:
    """A text as YAML has it, between quotes where it would not be this text without."""
    plain = all(c.isalnum() or c in " -_." for c in text)
    if plain and parse_yaml(f"[{text}]", "name").value == [text]:
        return text
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
