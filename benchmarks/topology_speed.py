"""How long it takes to load and to generate networks of 10,000 nodes.

```sh
python benchmarks/topology_speed.py            # measures, and writes results/topology_speed.json
python benchmarks/topology_speed.py --table    # prints the table of docs/topologies.md
```

The network that is loaded is a small world of 10,000 nodes and 20,000 links in both directions,
each link with bandwidth and delay of its own, in our own YAML and in three formats of NetworkX.
Each figure is processor time, the median of three, in a process of its own, imports not counted:
all of it is one thread's work, so that it is also how long one waits on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import networkx as nx

sys.path.insert(0, str(Path(__file__).parents[1]))

import topologies
from topologies import Topology, generators, units

RESULTS = Path(__file__).with_name("results") / "topology_speed.json"
NODES = 10_000
REPEATS = 3
_processes = multiprocessing.get_context("spawn")

GENERATED: dict[str, Callable[[], Topology]] = {
    "star": lambda: generators.star(NODES - 1),
    "clustered_edge": lambda: generators.clustered_edge(50, 100, 99),
    "hierarchical_wan": lambda: generators.hierarchical_wan(20, 10, 49),
    "random_geometric": lambda: generators.random_geometric(NODES),
    "fat_tree": lambda: generators.fat_tree(34),
    "small_world": lambda: generators.small_world(NODES),
}
FORMATS = ("yaml", "json", "graphml", "gml")


def network() -> nx.Graph:
    """The network that is loaded, as a graph in our own words."""
    draw = random.Random("topologies")
    graph = nx.connected_watts_strogatz_graph(NODES, 4, 0.1, seed=draw)
    named = nx.relabel_nodes(graph, {node: f"node-{node}" for node in graph})
    for node in named:
        named.nodes[node].update(role="client", device="raspberry-pi-4", grant="64 MiB")
    for _, _, link in named.edges(data=True):
        link["bandwidth"] = units.show_bandwidth(draw.randrange(1, 1000) * 1e6)
        link["delay"] = units.show_duration(draw.randrange(1, 200) / 1000)
    return named


def write(graph: nx.Graph, form: str, path: Path) -> None:
    """The network in one of the formats."""
    if form == "yaml":
        lines = ["name: network", "nodes:"]
        for node, said in graph.nodes(data=True):
            settings = ", ".join(f"{key}: {value}" for key, value in said.items())
            lines.append(f"  {node}: {{{settings}}}")
        lines.append("links:")
        for a, b, said in graph.edges(data=True):
            settings = ", ".join(f"{key}: {value}" for key, value in said.items())
            lines.append(f"  - {{between: [{a}, {b}], {settings}}}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(nx.node_link_data(graph, edges="edges")), encoding="utf-8")
    elif form == "graphml":
        nx.write_graphml(graph, path)
    else:
        nx.write_gml(graph, path)


def timed(kind: str, what: str) -> dict[str, float]:
    """Seconds of one load or one generation, and what came out."""
    make = GENERATED[what] if kind == "generate" else lambda: topologies.load(what)
    topologies.load("tiny-clusters")  # what is imported late is imported now
    begin = time.process_time()
    made = make()
    seconds = time.process_time() - begin
    return {"seconds": seconds, "nodes": len(made.nodes), "links": len(made.links)}


def measured(kind: str, what: str) -> dict[str, float]:
    """The median of some runs, each in a fresh process."""
    runs = []
    for _ in range(REPEATS):
        with _processes.Pool(1) as pool:
            runs.append(pool.apply(timed, (kind, what)))
    seconds = statistics.median(run["seconds"] for run in runs)
    return {**runs[0], "seconds": round(seconds, 2)}


def main() -> None:
    """Measures everything and writes the results."""
    results: dict[str, object] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "repeats": REPEATS,
    }
    graph = network()
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMATS:
            path = Path(folder) / f"network.{form}"
            write(graph, form, path)
            size = round(path.stat().st_size / 1e6, 1)
            results[f"load {form}"] = {**measured("load", str(path)), "megabytes": size}
            print(form, results[f"load {form}"], flush=True)
    for name in GENERATED:
        results[f"generate {name}"] = measured("generate", name)
        print(name, results[f"generate {name}"], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def table() -> str:
    """The results, as they stand in docs/topologies.md."""
    lines = ["| | nodes | links | seconds |", "|---|---|---|---|"]
    for name, row in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        if isinstance(row, dict):
            size = f" ({row['megabytes']} MB)" if "megabytes" in row else ""
            figures = f"{row['nodes']:,} | {row['links']:,} | {row['seconds']:.2f}"
            lines.append(f"| {name}{size} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        print(table())
    else:
        main()
