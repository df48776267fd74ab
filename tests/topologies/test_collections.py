"""Every network of the Topology Zoo and of topohub loads, or is refused for a reason listed here.

The files are not stored here. `ATLAS_TOPOLOGY_ZOO` is the folder with those of the Internet
Topology Zoo (graphml/, gml/), `ATLAS_TOPOHUB` that of topohub 1.5.1; without them what needs them
is skipped.
`benchmarks/topology_collections.py` does the same and writes down what it found.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import topologies
from topologies import Rules, TopologyError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "topology_collections.json"
FOLDERS = {"zoo": "ATLAS_TOPOLOGY_ZOO", "topohub": "ATLAS_TOPOHUB"}

# Networks that fall apart, and into how many parts: nodes without any link, or islands.
DISCONNECTED = {
    "Bandcon": 2, "BtLatinAmerica": 7, "DeutscheTelekom": 4,
    "DeutscheTelekomIpTransitIpPopsOnly": 4, "DialtelecomCz": 56, "Eunetworks": 2, "Geant2011": 2,
    "IntNetworkmap": 2, "JanetExternal": 2, "KentmanApr2007": 2, "KentmanAug2005": 2,
    "Nordu2010": 2, "Nsfcnet": 2, "Ntelos": 2, "Ntt": 16, "Opteglobe": 7, "Oteglobe": 7, "Padi": 9,
    "Telcove": 3, "Tw": 6, "Uninett": 4, "UsSignal": 3, "Zamren": 2,
}  # fmt: skip
COLLECTIONS = [
    ("zoo", "graphml/*.graphml", 276, DISCONNECTED),
    ("zoo", "gml/*.gml", 276, DISCONNECTED),
    ("topohub", "data/topozoo/*.json", 203, {}),
    ("topohub", "data/sndlib/*.json", 26, {}),
]


def found(owner: str, pattern: str) -> list[Path]:
    folder = os.environ.get(FOLDERS[owner])
    if not folder:
        pytest.skip(f"{FOLDERS[owner]} is not set")
    return sorted(Path(folder).glob(pattern)) or sorted(Path(folder).glob(f"**/{pattern}"))


@pytest.mark.parametrize(("owner", "pattern", "count", "refused"), COLLECTIONS)
def test_every_file_loads_or_is_refused_for_a_reason_that_is_listed(owner, pattern, count, refused):
    paths = found(owner, pattern)
    assert len(paths) == count
    errors = {path: error for path in paths if (error := refusal(path))}
    parts = {path: re.match(r"the network falls apart into (\d+) parts: ", error.problem)
             for path, error in errors.items()}  # fmt: skip
    assert {path.stem: int(match[1]) for path, match in parts.items() if match} == refused
    for path, error in errors.items():
        assert parts[path], error
        assert error.file == str(path)
        assert 'Rules(disconnected="largest")' in error.remedy
        assert topologies.load(path, Rules(disconnected="largest")).links
        assert topologies.load(path, Rules(disconnected="keep")).nodes


def refusal(path: Path) -> TopologyError | None:
    try:
        return None if topologies.load(path).links else TopologyError("no links")
    except TopologyError as error:
        return error


def test_the_zoos_two_formats_say_the_same():
    for path in found("zoo", "graphml/*.graphml"):
        rules = Rules(disconnected="keep")
        gml = path.parents[1] / "gml" / f"{path.stem}.gml"
        assert topologies.load(path, rules) == topologies.load(gml, rules), path.stem


def test_the_results_that_are_kept_list_the_same_files():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for name, (_, _, count, refused) in zip(
        ("zoo-graphml", "zoo-gml", "topohub-zoo", "topohub-sndlib"), COLLECTIONS, strict=True
    ):
        assert results[name]["files"] == count
        told = {
            Path(file).stem: int(re.findall(r"\d+", reason)[0])
            for file, reason in results[name]["refused"].items()
        }
        assert told == refused
        assert results[name]["refused_that_load_with_disconnected_largest"] == len(refused)
