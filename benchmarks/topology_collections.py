"""Loads every file of the big collections of networks, and says which are refused, and why.

```sh
python benchmarks/topology_collections.py --zoo FOLDER --topohub FOLDER
```

The folders: the Internet Topology Zoo's archive (``graphml/*.graphml`` and ``gml/*.gml``), and
topohub 1.5.1 (the package, or its wheel unpacked; its files of the Zoo and of SNDlib are read).
Neither is part of this repository. The results, in `results/topology_collections.json`, list each
file that does not load with the reason; `tests/topologies/test_collections.py` goes by that list.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import topologies
from topologies import Rules, TopologyError

RESULTS = Path(__file__).with_name("results") / "topology_collections.json"
COLLECTIONS = {
    "zoo-graphml": ("zoo", "graphml/*.graphml"),
    "zoo-gml": ("zoo", "gml/*.gml"),
    "topohub-zoo": ("topohub", "data/topozoo/*.json"),
    "topohub-sndlib": ("topohub", "data/sndlib/*.json"),
}


def files(folder: Path, pattern: str) -> list[Path]:
    """The files of a collection, wherever in the folder its own folders lie."""
    return sorted(folder.glob(pattern)) or sorted(folder.glob(f"**/{pattern}"))


def reason(error: TopologyError) -> str:
    """Why a file is refused, without what is special to it."""
    parts = re.search(r"the network falls apart into \d+ parts", error.problem)
    return parts[0] if parts else error.problem


def check(paths: Iterable[Path]) -> dict[str, Any]:
    """How these files load by the usual rules, and with only the largest part of each kept."""
    refused: dict[str, str] = {}
    remedied = nodes = links = count = 0
    values: Counter[str] = Counter()
    begin = time.perf_counter()
    for path in paths:
        count += 1
        try:
            found = topologies.load(path)
        except TopologyError as error:
            refused[path.name] = reason(error)
            remedied += bool(topologies.load(path, Rules(disconnected="largest")).nodes)
            continue
        nodes += len(found.nodes)
        links += len(found.links)
        for link in found.links.values():
            for name in ("bandwidth_bps", "delay_s"):
                values[f"{name} {link.derived.get(name, 'stated')}"] += 1
    return {
        "files": count,
        "loaded": count - len(refused),
        "refused": refused,
        "refused_that_load_with_disconnected_largest": remedied,
        "nodes": nodes,
        "links": links,
        "values": dict(sorted(values.items())),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def main(folders: Mapping[str, Path]) -> None:
    """Checks the collections whose folders are given, and writes the results."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for name, (owner, pattern) in COLLECTIONS.items():
        if owner in folders:
            results[name] = check(files(folders[owner], pattern))
            print(f"{name}: {results[name]['loaded']} of {results[name]['files']} load")
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--topohub", type=Path)
    given = {name: path for name, path in vars(parser.parse_args()).items() if path}
    main(given)
