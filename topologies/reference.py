"""What a file can say, told by the models that read it: a JSON Schema, and tables for the docs.

```sh
python -m topologies.reference schema > docs/schemas/topology.schema.json
python -m topologies.reference > reference.md     # what stands in docs/topologies.md
```

Editors that know JSON Schema complete and check a file that names it in its first line:
``# yaml-language-server: $schema=…/topology.schema.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from topologies.access import access
from topologies.devices import DiskSettings, Profile, devices
from topologies.document import Settings
from topologies.layout import ALWAYS, Layout, LinkSettings, NodeSettings
from topologies.link_settings import (
    Direction,
    JitterSettings,
    LinkKind,
    LossSettings,
    QueueSettings,
    TransportSettings,
    describe_kind,
)
from topologies.rules import LinkRules, Rules
from topologies.units import show_flops, show_size

_TABLES: tuple[tuple[str, type[Settings]], ...] = (
    ("The file", Layout),
    ("A node", NodeSettings),
    ("A link", LinkSettings),
    ("Either direction of a link", Direction),
    ("`jitter`", JitterSettings),
    ("`loss`", LossSettings),
    ("`queue`", QueueSettings),
    ("`transport`", TransportSettings),
    ("A device", Profile),
    ("Its `disk`", DiskSettings),
    ("`rules`", LinkRules),
    ("Rules for graphs", Rules),
)


def schema() -> dict[str, Any]:
    """The JSON Schema of a topology file (draft 2020-12)."""
    whole = schema_of(Layout, "ATLAS topology")
    node = whole["$defs"]["NodeSettings"]
    for name in ALWAYS:
        kinds = ["string", "number"] if name == "cluster" else ["number"]
        node["properties"][name] = {"type": kinds}
    # Attributes have names of one's own, so that here a misspelt setting is told only on loading.
    node["additionalProperties"] = {"type": ["string", "number"]}
    return whole


def schema_of(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The JSON Schema of files that are read into this model."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(by_alias=True),
        "title": title,
    }


def table(model: type[Settings], *, without: type[Settings] | None = None) -> str:
    """The settings of a model as a Markdown table; those of another one left out."""
    known = without.model_fields if without else {}
    lines = ["| key | what it says | as in |", "|---|---|---|"]
    whole = model.model_json_schema(by_alias=True)
    properties = whole["anyOf"][-1]["properties"] if model.shorthand else whole["properties"]
    for name, info in model.model_fields.items():
        if name not in known:
            key = info.alias or name
            example = _example(properties[key], whole.get("$defs", {}))
            needed = "**needed.** " if info.is_required() else ""
            lines.append(f"| `{key}` | {needed}{info.description} | {example} |")
    return "\n".join(lines)


def reference() -> str:
    """All tables of the reference, as they stand in the docs."""
    parts: list[str] = []
    for title, model in _TABLES:
        inherited: dict[type[Settings], type[Settings]] = {LinkSettings: LinkKind, Rules: LinkRules}
        without = inherited.get(model)
        parts += [f"### {title}", "", table(model, without=without), ""]
    parts += ["### Devices by name", "", *_devices(), ""]
    parts += ["### Access networks by name", "", *_access()]
    return "\n".join(parts)


def _devices() -> Iterator[str]:
    yield "| device | memory | grants | computes | disk: size, read, write | networks |"
    yield "|---|---|---|---|---|---|"
    for device in devices().values():
        disk = ""
        if device.disk_bytes and device.disk_read_bps and device.disk_write_bps:
            speeds = (device.disk_read_bps, device.disk_write_bps)
            disk = ", ".join([show_size(device.disk_bytes), *(f"{x / 8e6:g} MB/s" for x in speeds)])
        yield (
            f"| `{device.name}` | {show_size(device.memory_bytes)} | "
            f"{show_size(device.grant_bytes)} | {show_flops(device.flops)} | {disk} | "
            f"{', '.join(device.networks)} |"
        )


def _access() -> Iterator[str]:
    yield "| kind | up | down | both | source |"
    yield "|---|---|---|---|---|"
    for one in access().values():
        both, up, down = describe_kind(one.link)
        yield f"| `{one.name}` | {up} | {down} | {both} | {one.source} |"


def _example(said: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value of this schema looks like."""
    if "$ref" in said:
        return _example(definitions[said["$ref"].rpartition("/")[2]], definitions)
    if "enum" in said:
        return ", ".join(f"`{word}`" for word in said["enum"])
    if "const" in said:
        return f"`{said['const']}`"
    if "examples" in said:
        return ", ".join(f"`{example}`" for example in said["examples"])
    if "anyOf" in said:
        kinds = [one for one in said["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(_example(one, definitions) for one in kinds))
    names = {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "array": "a list",
        "object": "a mapping",
    }
    return names[said["type"]]


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False) if sys.argv[1:] else reference())
