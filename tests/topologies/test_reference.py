"""The published schema and the reference are what the models say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic_core import PydanticUndefined

import topologies
from topologies import reference, units
from topologies.document import parse_yaml
from topologies.rules import Rules

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "docs" / "schemas" / "topology.schema.json"
CATALOG = Path(topologies.__file__).with_name("catalog")


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schema_is_the_one_of_the_models():
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert published == reference.schema(), "python -m topologies.reference schema"


@pytest.mark.parametrize("name", topologies.catalog())
def test_every_bundled_topology_keeps_to_the_schema(name, validator):
    text = (CATALOG / f"{name}.yaml").read_text(encoding="utf-8")
    validator.validate(parse_yaml(text, name).value)


@pytest.mark.parametrize(
    "text",
    [
        "links: []",
        "nodes: {a: {role: 3}}",
        "nodes: {a: {latitude: north}}",
        "nodes: {}\nlinks: [{betwen: [a, b]}]",
        "nodes: {}\nlinks: [{between: [a]}]",
        "nodes: {}\nlinks: [{between: [a, b], bandwidth: 10}]",
        "nodes: {}\nlinks: [{between: [a, b], queue: {discipline: red}}]",
        "nodes: {}\ndevices: {camera: {memory: 1 GiB}}",
        "nodes: {}\ntransport: {congestion: vegas}",
        "nodes: {}\nrules: {parallel: add}",
    ],
)
def test_the_schema_refuses_what_an_editor_should_underline(text, validator):
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(parse_yaml(text, "x").value)


def test_the_page_has_the_reference_that_the_models_give():
    page = (REPOSITORY / "docs" / "topologies.md").read_text(encoding="utf-8")
    shown = page.split("<!-- reference -->")[1].split("<!-- /reference -->")[0].strip()
    assert shown == reference.reference().strip(), "python -m topologies.reference"


def test_the_defaults_that_the_rules_tell_are_theirs():
    shows = {
        "delay_per_km": units.show_duration,
        "least_delay": units.show_duration,
        "unplaced_delay": units.show_duration,
        "bandwidth": units.show_bandwidth,
    }
    for name, info in Rules.model_fields.items():
        assert info.default is not PydanticUndefined
        if name not in ("bandwidths", "ignore"):
            shown = shows.get(name, str)(info.default)
            assert info.description.endswith(f"`{shown}`"), name


def test_the_table_of_speed_is_what_the_benchmark_prints():
    command = [sys.executable, "benchmarks/topology_speed.py", "--table"]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    page = (REPOSITORY / "docs" / "topologies.md").read_text(encoding="utf-8")
    shown = page.split("<!-- topology_speed -->")[1].split("<!-- /topology_speed -->")[0]
    assert shown.strip() == printed.stdout.strip()


def test_the_page_names_every_bundled_topology_and_every_rule():
    page = (REPOSITORY / "docs" / "topologies.md").read_text(encoding="utf-8")
    for name in topologies.catalog():
        nodes = len(topologies.load(name).nodes)
        assert re.search(rf"^\| `{name}` \| .*; {nodes} nodes \|$", page, re.MULTILINE), name
    rules = set(re.findall(r"``([a-z]+(?:-[a-z]+)*)`` \|", topologies.rules.__doc__))
    rules |= {"parallel-derived"}
    assert len(rules) >= 12
    assert all(f"`{rule}`" in page for rule in rules)
