"""The types of settings in a scenario file: as people write them, checked, and written again.

Each is text with a unit in the file and a number in the program; `pydantic` dumps it as the text
it was read from, or one that means the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from faults.event import Amount, show_amount
from topologies import units
from topologies.errors import InputError

MOST_TIMES = 1_000_000


def _word(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        remedy = (
            "Write a name, a pattern such as edge-*, or attribute=value; quote a name of digits"
        )
        raise InputError("a node was expected here", remedy=remedy)
    return value.strip()


def _selector(value: object) -> tuple[str, ...]:
    return tuple(_word(item) for item in (value if isinstance(value, list | tuple) else (value,)))


def _positive(value: object) -> int:
    instant = units.nanoseconds(value)
    if instant <= 0:
        raise InputError(f'"{value}" is no time at all', remedy='Write it as "20 s"')
    return instant


def _slower(value: object) -> float:
    if isinstance(value, str) and not value.rstrip().endswith("x"):
        remedy = 'Write how many times slower, as "4x"'
        raise InputError(f'"{value}" doesn\'t say how much slower', remedy=remedy)
    times = units.factor(value)
    if not 1 <= times <= MOST_TIMES:
        remedy = f'Write "4x" for four times slower; at most {MOST_TIMES}x'
        raise InputError(f'"{value}" is no slowdown', remedy=remedy)
    return times


def _memory(value: object) -> Amount:
    if _relative(value):
        times = units.factor(value)
        if times >= 1:
            remedy = 'Write what is left, as "50 %" or "256 MiB"'
            raise InputError(f'"{value}" takes no memory away', remedy=remedy)
        return Amount("relative", times)
    return Amount("absolute", float(units.size(value)))


def _bandwidth(value: object) -> Amount:
    if _relative(value):
        times = units.factor(value)
        if not 1 / MOST_TIMES <= times <= 1:
            remedy = "Write 0.0001 % to 100 %; nothing at all is a cut"
            raise InputError(f'"{value}" doesn\'t degrade a bandwidth', remedy=remedy)
        return Amount("relative", times)
    amount = Amount("absolute", units.bandwidth(value))
    if amount.value <= 0:
        raise InputError("a link needs some bandwidth", remedy="Nothing at all is a cut")
    return amount


def _delay(value: object) -> Amount:
    if _relative(value):
        times = units.factor(value)
        if not 1 <= times <= MOST_TIMES:
            remedy = f'Write "3x" or "300 %" for three times as long; at most {MOST_TIMES}x'
            raise InputError(f'"{value}" makes no delay longer', remedy=remedy)
        return Amount("relative", times)
    return _plus(value, units.duration)


def _loss(value: object) -> Amount:
    amount = _plus(value, units.fraction)
    if amount.value >= 1:
        raise InputError("a link that loses everything is no link", remedy="Write a cut")
    return amount


def _chance(value: object) -> Amount:
    amount = _plus(value, units.fraction)
    if amount.value >= 1:
        raise InputError(f'"{value}" would be every packet', remedy="Write less than 100 %")
    return amount


def _burst(value: object) -> Amount:
    remedy = 'Write how many packets are lost in a row on average, as "5"; it is 1 or more'
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise InputError(f'"{value}" is no length of a burst', remedy=remedy)
    return Amount("absolute", float(value))


def _drift(value: object) -> float:
    part = units.drift(value)
    if part <= -1:
        remedy = "A clock loses less than 100 %: to freeze a node, write a pause"
        raise InputError(f'with "{value}" time would stand still or run backwards', remedy=remedy)
    return part


def _rate(value: object) -> float:
    rate = units.bandwidth(value)
    if rate <= 0:
        raise InputError(f'"{value}" is no traffic', remedy='Write it as "5 Mbit/s"')
    return rate


def _relative(value: object) -> bool:
    return isinstance(value, str) and value.rstrip().endswith(("%", "x"))


def _plus(value: object, read: Callable[[object], float]) -> Amount:
    if isinstance(value, str) and value.startswith("+"):
        return Amount("plus", read(value[1:].lstrip()))
    return Amount("absolute", read(value))


def _unit(value: object) -> float:
    if not isinstance(value, str):
        raise InputError("a unit was expected here", remedy='Write it as "Mbit/s"')
    return units.bandwidth(f"1 {value}")


def _shown(selector: tuple[str, ...]) -> str | list[str]:
    return selector[0] if len(selector) == 1 else list(selector)


def _text(*examples: str, what: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "title": what, "examples": list(examples)})


def _amount(name: str, read: Callable[[Any], Amount]) -> tuple[BeforeValidator, PlainSerializer]:
    return BeforeValidator(read), PlainSerializer(partial(show_amount, name))


_WORD_SCHEMA: dict[str, Any] = {"type": ["string", "integer"], "title": "name"}
_SELECTOR_SCHEMA: dict[str, Any] = {
    "title": "nodes",
    "anyOf": [_WORD_SCHEMA, {"type": "array", "items": _WORD_SCHEMA}],
    "examples": ["client-3", "edge-*", "role=client", "any 30 %", "host of client-3"],
}

Selector = Annotated[
    tuple[str, ...],
    BeforeValidator(_selector),
    PlainSerializer(_shown),
    WithJsonSchema(_SELECTOR_SCHEMA),
]
Name = Annotated[str, BeforeValidator(_word), WithJsonSchema(_WORD_SCHEMA)]
Instant = Annotated[
    int,
    BeforeValidator(units.nanoseconds),
    PlainSerializer(units.show_nanoseconds),
    _text("30 s", "1.5 min", what="time"),
]
Span = Annotated[
    int,
    BeforeValidator(_positive),
    PlainSerializer(units.show_nanoseconds),
    _text("30 s", "1.5 min", what="time"),
]
Share = Annotated[
    float,
    BeforeValidator(units.fraction),
    PlainSerializer(units.show_fraction),
    _text("20 %", what="share"),
]
Slower = Annotated[
    float, BeforeValidator(_slower), PlainSerializer(units.show_factor), _text("4x", what="factor")
]
Offset = Annotated[
    int,
    BeforeValidator(units.offset),
    PlainSerializer(units.show_offset),
    _text("+200 ms", "-1 s", what="time"),
]
Drift = Annotated[
    float,
    BeforeValidator(_drift),
    PlainSerializer(units.show_drift),
    _text("50 ppm", "-1 %", what="drift"),
]
Rate = Annotated[
    float,
    BeforeValidator(_rate),
    PlainSerializer(units.show_bandwidth),
    _text("5 Mbit/s", what="bandwidth"),
]
Unit = Annotated[
    float,
    BeforeValidator(_unit),
    PlainSerializer(lambda one: units.show_bandwidth(one).removeprefix("1 ")),
    _text("Mbit/s", "kbit/s", what="unit"),
]
MemoryChange = Annotated[
    Amount, *_amount("memory", _memory), _text("50 %", "256 MiB", what="memory")
]
BandwidthChange = Annotated[
    Amount, *_amount("bandwidth", _bandwidth), _text("10 %", "1 Mbit/s", what="bandwidth")
]
DelayChange = Annotated[
    Amount, *_amount("delay", _delay), _text("+150 ms", "3x", "1 s", what="time")
]
LossChange = Annotated[Amount, *_amount("loss", _loss), _text("2 %", "+2 %", what="share")]
ChanceChange = Annotated[Amount, *_amount("corrupt", _chance), _text("1 %", "+1 %", what="share")]
BurstChange = Annotated[
    Amount,
    BeforeValidator(_burst),
    PlainSerializer(lambda amount: amount.value),
    WithJsonSchema({"type": "number", "minimum": 1, "title": "packets", "examples": [5]}),
]
