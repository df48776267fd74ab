"""The JSON schema of scenario files, for editors: made from the models that read them.

It is published as ``docs/schemas/scenario.schema.json``. An editor that knows YAML schemas
completes and checks a file that begins with ``# yaml-language-server: $schema=…``. What a schema
can't say (whether a selector fits a topology, whether a quantity makes sense) `faults.load` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from faults.entries import KINDS
from faults.processes import PROCESSES
from faults.scenario import ScenarioFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema, in plain dicts and lists."""
    whole: dict[str, Any] = _plain(ScenarioFile.model_json_schema(by_alias=True))
    models = whole["$defs"]
    for model in models_of(ScenarioFile):
        said = whole if model is ScenarioFile else models[model.__name__]
        for name, default in defaults(model).items():
            if default is not None:
                said["properties"][name]["default"] = default
    for name, kinds in (("Fault", KINDS), ("Process", PROCESSES)):
        models[name]["oneOf"] = [{"required": [kind]} for kind in kinds]
    partition = models["Partition"]
    models["Partition"] = {
        "description": partition.pop("description"),
        "anyOf": [partition["properties"]["groups"], partition],
    }
    whole["anyOf"] = [{"required": ["timeline"]}, {"required": ["processes"]}]
    return {"$schema": DIALECT, "title": "fault scenario", **whole}


def models_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """This model, and those that its settings are, each once."""
    yield model
    found = dict.fromkeys(
        part
        for info in model.model_fields.values()
        for part in _parts(info.annotation)
        if isinstance(part, type) and issubclass(part, BaseModel)
    )
    for part in found:
        yield from models_of(part)


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The settings that may be left out, with what they are then, as a file would write it."""
    return model.model_construct().model_dump(mode="json", by_alias=True)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)


def _plain(value: Any) -> Any:
    """Without what pydantic adds by itself: that what may be left out may be null, and titles."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return " ".join(value.split()) if isinstance(value, str) else value
    clean = {key: _plain(item) for key, item in value.items() if (key, item) != ("default", None)}
    title = clean.get("title")
    if isinstance(title, str) and title[:1].isupper():
        del clean["title"]
    if "anyOf" in clean:
        clean["anyOf"] = [one for one in clean["anyOf"] if one != {"type": "null"}]
        if len(clean["anyOf"]) == 1:
            clean = {**clean.pop("anyOf")[0], **clean}
    return clean
