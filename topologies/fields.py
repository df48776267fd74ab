"""The types of settings that are quantities: text with a unit in the file, SI in the program.

For the models of files (`topologies.document.Settings`). Each is written and read by
`topologies.units`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, WithJsonSchema

from topologies import units
from topologies.errors import InputError, did_you_mean

Seconds = Annotated[
    float,
    BeforeValidator(units.duration, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "examples": ["20 ms", "1.5 s"]}),
]
Nanoseconds = Annotated[
    int,
    BeforeValidator(units.nanoseconds, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "examples": ["20 ms", "2 min"]}),
]
BitsPerSecond = Annotated[
    float,
    BeforeValidator(units.bandwidth, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "examples": ["10 Mbit/s"]}),
]
Bytes = Annotated[
    int,
    BeforeValidator(units.size, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "examples": ["512 MiB"]}),
]
FlopsPerSecond = Annotated[
    float,
    BeforeValidator(units.flops, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "examples": ["12 GFLOP/s"]}),
]
Fraction = Annotated[
    float,
    BeforeValidator(units.fraction, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "examples": ["1 %"]}),
]


def one_of(words: Sequence[str], *, what: str) -> BeforeValidator:
    """For the annotation of a setting: one of these words, or an error that names the nearest."""

    def known(value: object) -> object:
        if isinstance(value, str) and value not in words:
            problem = f'"{value}" is none of the {what}'
            raise InputError(problem, remedy=did_you_mean(value, words, what=what))
        return value

    return BeforeValidator(known, json_schema_input_type=Literal.__getitem__(tuple(words)))
