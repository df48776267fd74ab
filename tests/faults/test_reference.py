"""The schema and the reference are those of the models, and the schema says what files may say."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import get_args

import pytest

import faults
import faults.scenario
from faults.schema import schema
from topologies.document import parse_yaml

REPOSITORY = Path(__file__).parents[2]
CATALOG = sorted((REPOSITORY / "faults" / "catalog").glob("*.yaml"))


@pytest.fixture(scope="module")
def reference():
    path = REPOSITORY / "docs" / "faults_reference.py"
    spec = importlib.util.spec_from_file_location("faults_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_published_is_what_the_models_say(reference):
    for path, text in reference.files().items():
        assert path.read_text(encoding="utf-8") == text, "run python docs/faults_reference.py"
    published = json.loads(reference.SCHEMA.read_text(encoding="utf-8"))
    assert published == schema()


def test_every_kind_has_a_proof_that_is_a_test(reference):
    assert {kind for tests in reference.PROOFS.values() for kind in tests} == set(faults.KINDS)
    for file, tests in reference.PROOFS.items():
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        for test in tests.values():
            assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file}::{test}"


def test_the_page_has_every_kind_process_and_bundled_scenario(reference):
    page = reference.PAGE.read_text(encoding="utf-8")
    for name in (*faults.KINDS, *faults.PROCESSES, *faults.catalog()):
        assert f"\n| `{name}` |" in page


def test_each_setting_of_each_kind_and_process_stands_in_its_row(reference):
    rows = {}
    for table in (reference.kinds(), reference.processes()):
        for cells in (row.split(" | ") for row in list(table)[2:]):
            rows[cells[0].strip("| `")] = cells[2]
    where = {"link", "nodes", "oneway"}
    for model in (faults.scenario.Fault, faults.scenario.Process):
        for info_of, info in model.model_fields.items():
            kinds = [part for part in get_args(info.annotation) if hasattr(part, "settings")]
            for name in kinds[0].settings() if kinds else ():
                row = rows[info_of]
                assert f"`{name}`" in row or ("*where*" in row and name in where), (info_of, name)
    assert "`oneway`?" in rows["partition"]
    assert "`nodes`?" in rows["trace"]


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float}


def is_a(value, name: str) -> bool:
    if isinstance(value, bool) or name == "boolean":
        return isinstance(value, bool) and name == "boolean"
    return isinstance(value, TYPES[name])


def complaints(value, model, root=None) -> list[object]:
    """What a JSON schema finds wrong: as much of its language as ours needs."""
    root = root or model
    if "$ref" in model:
        model = model | root["$defs"][model["$ref"].rpartition("/")[2]]
    wanted = model.get("type", ())
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    if wanted and not any(is_a(value, name) for name in wanted):
        return [(value, wanted)]
    found = inside(value, model, root)
    if value not in model.get("enum", [value]):
        found.append(value)
    if "minimum" in model and value < model["minimum"]:
        found.append(value)
    for key, most in (("anyOf", 99), ("oneOf", 1)):
        fits = sum(not complaints(value, one, root) for one in model.get(key, ()))
        if key in model and not 1 <= fits <= most:
            found.append((key, fits))
    return found


def inside(value, model, root) -> list[object]:
    """What it finds wrong within a mapping or a list."""
    found: list[object] = []
    if isinstance(value, dict):
        known = model.get("properties", {})
        found += [key for key in model.get("required", ()) if key not in value]
        if model.get("additionalProperties", True) is False:
            found += [key for key in value if key not in known]
        for key in value.keys() & known.keys():
            found += complaints(value[key], known[key], root)
    if isinstance(value, list):
        if not model.get("minItems", 0) <= len(value) <= model.get("maxItems", len(value)):
            found.append(value)
        for item in value if "items" in model else ():
            found += complaints(item, model["items"], root)
    return found


@pytest.mark.parametrize("path", CATALOG, ids=lambda path: path.stem)
def test_every_bundled_scenario_is_what_the_schema_says(path):
    content = parse_yaml(path.read_text(encoding="utf-8"), path.name).value
    assert complaints(content, schema()) == []


@pytest.mark.parametrize(
    "text",
    [
        "name: x",
        "timeline: {}",
        "timeline: [{crash: a}]",
        "timeline: [{at: 1 s}]",
        "timeline: [{at: 1, crash: a}]",
        "timeline: [{at: 1 s, crash: a, pause: a}]",
        "timeline: [{at: 1 s, crush: a}]",
        "timeline: [{at: 1 s, crash: {nodes: a}}]",
        "timeline: [{at: 1 s, slow: {nodes: a}}]",
        "timeline: [{at: 1 s, degrade: {link: [a], delay: 1 s}}]",
        "timeline: [{at: 1 s, degrade: {nodes: a, burst: 0.5}}]",
        "timeline: [{at: 1 s, degrade: {nodes: a, oneway: yes, delay: 1 s}}]",
        "timeline: [{at: 1 s, partition: {oneway: true}}]",
        "timeline: [{at: 1 s, trace: {file: a, nodes: b, as: leaf}}]",
        "processes: [{churn: {nodes: a}}]",
        "processes: [{}]",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(text):
    assert complaints(parse_yaml(text, "x").value, schema())
    with pytest.raises(faults.ScenarioError):
        faults.parse(text)


def test_the_schema_shows_defaults_as_a_file_would_write_them():
    models = schema()["$defs"]
    assert models["Trace"]["properties"]["window"]["default"] == "1 s"
    assert models["Trace"]["properties"]["unit"]["default"] == "Mbit/s"
    assert models["Churn"]["properties"]["until"]["default"] == "1 h"
