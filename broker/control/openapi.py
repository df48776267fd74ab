"""The control interface as OpenAPI 3.1 has it, made from the models that it speaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from broker.control.models import Cleared, Faults, Problem, State
from faults import KINDS
from faults.schema import schema as schema_of_scenarios

_SCHEMAS = "#/components/schemas/"


@cache
def document() -> dict[str, Any]:
    """The document that ``/openapi.json`` serves."""
    _, defined = models_json_schema(
        [(model, "serialization") for model in (Cleared, Faults, Problem, State)],
        ref_template=_SCHEMAS + "{model}",
    )
    schemas = defined["$defs"] | _injection()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A bus in wall time",
            "version": "1",
            "description": "What goes over the network that a bus serves, and what goes wrong.",
        },
        "paths": {
            "/v1/state": {"get": _call("Everything that the live page shows", State)},
            "/v1/faults": {
                "get": _call("The faults that hold and those to come", Faults),
                "post": _call(
                    "Inject a fault",
                    Faults,
                    "It is an entry of a scenario's timeline; `at` counts from now, and may be "
                    "left out. It strikes a tenth of a second later than that.",
                    status="201",
                    wants=True,
                    fails=("400", "415", "422"),
                ),
                "delete": _call("Clear all faults, those of the scenario too", Cleared),
            },
            "/v1/faults/{id}": {
                "parameters": [
                    {
                        "name": "id",
                        "in": "path",
                        "required": True,
                        "description": "a fault's name; that of a flap or a process means all",
                        "schema": {"type": "string"},
                    }
                ],
                "delete": _call("Clear a fault", Cleared, fails=("404",)),
            },
            "/metrics": {"get": _plain("Counters for Prometheus")},
            "/healthz": {"get": _plain("Whether the bus's own thread answers") | {"security": []}},
        },
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _injection() -> dict[str, Any]:
    """What can be injected: an entry of a timeline as the schema of scenarios has it, with all that
    it refers to; `at` may be left out, and a trace is a file.
    """
    known = json.loads(json.dumps(schema_of_scenarios()["$defs"]).replace("#/$defs/", _SCHEMAS))
    entry = known.pop("Fault")
    del entry["properties"]["trace"]
    entry["properties"]["at"]["description"] = "when it begins, after now; else at once"
    entry["required"] = [key for key in entry.get("required", ()) if key != "at"]
    entry["oneOf"] = [{"required": [kind]} for kind in KINDS if kind != "trace"]
    entry["description"] = "A fault to inject: an entry of a scenario's timeline."
    found = {"Injection": entry}
    open_ = [entry]
    while open_:
        for name in _references(open_.pop()):
            if name not in found:
                found[name] = known[name]
                open_.append(known[name])
    return found


def _references(schema: Any) -> Iterator[str]:
    """The names of the schemas that this one refers to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].removeprefix(_SCHEMAS)
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _call(
    summary: str,
    answer: type[BaseModel],
    description: str = "",
    *,
    status: str = "200",
    wants: bool = False,
    fails: tuple[str, ...] = (),
) -> dict[str, Any]:
    call: dict[str, Any] = {"summary": summary}
    if description:
        call["description"] = description
    if wants:
        content = _json("Injection")
        content["application/json"]["example"] = {"crash": "edge-3", "for": "20 s"}
        call["requestBody"] = {"required": True, "content": content}
    call["responses"] = {status: {"description": "done", "content": _json(answer.__name__)}}
    for code in (*fails, "401", "503"):
        call["responses"][code] = {"description": _WHY[code], "content": _json("Problem")}
    return call


def _plain(summary: str) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {"summary": summary, "responses": {"200": {"description": "ok", "content": content}}}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMAS + name}}}


_WHY = {
    "400": "not JSON",
    "401": "without the token",
    "404": "no such fault",
    "415": "not said to be JSON",
    "422": "no fault that this network can have; it says what would be right",
    "503": "the bus has stopped",
}
