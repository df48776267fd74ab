"""Numbers as other programs write them, sometimes between quotes."""

from __future__ import annotations

from collections.abc import Callable

from topologies.document import Document, Place
from topologies.errors import InputError


def number(value: object) -> float | None:
    """A number, or one that a file had to write as text; None for all else."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def quantity(
    document: Document,
    read: Callable[..., float],
    value: object,
    unit: str | None,
    place: Place,
    *,
    positive: bool = False,
) -> float:
    """What *read*, a function of `topologies.units`, makes of this value and unit.

    Raises the document's error about this place, also where something *positive* is zero.
    """
    plain = number(value) if isinstance(value, str) else None
    try:
        found = read(value) if unit is None else read(value if plain is None else plain, unit)
    except InputError as error:
        raise document.error(error.problem, place, error.remedy) from None
    if positive and found <= 0:
        problem = f"a bandwidth is greater than 0, unlike {value}"
        raise document.error(problem, place, "Leave out links that carry nothing")
    return found


def share(value: object) -> float:
    """A probability of loss, 0 to less than 1. Raises InputError."""
    part = number(value)
    if part is None or not 0 <= part < 1:
        raise InputError(f"a loss is 0 to less than 1, unlike {value}", remedy="1 % is 0.01")
    return part
