"""Whole numbers in proportion to weights."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` divided in proportion to the weights, by largest remainder (ties: by name).

    Exact: no sum of floating-point numbers decides. Weights must not all be 0.
    """
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    whole = sum(exact.values())
    quotas = {name: total * weight / whole for name, weight in exact.items()}
    parts = {name: int(quota) for name, quota in quotas.items()}
    remainders = sorted(quotas, key=lambda name: (parts[name] - quotas[name], name))
    for name in remainders[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def apportion_above(weights: Mapping[str, float], total: int, least: int) -> dict[str, int]:
    """As `apportion`, but none gets fewer than `least`: who would, gets it; the others share the
    rest.

    Raises:
        ValueError: there is not so much for each.
    """
    if total < least * len(weights):
        raise ValueError(f"{total} is less than {least} for each of {len(weights)}")
    raised: dict[str, int] = {}
    while True:
        left = {name: weight for name, weight in weights.items() if name not in raised}
        parts = apportion(left, total - least * len(raised)) if left else {}
        few = [name for name, part in parts.items() if part < least]
        if not few:
            return {name: (raised | parts)[name] for name in weights}
        raised |= dict.fromkeys(few, least)
