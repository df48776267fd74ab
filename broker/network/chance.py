"""What is left to chance: jitter and losses, each from a seeded stream of its own.

`stream` gives one generator per purpose and pair of nodes, seeded by name, so no draw of one moves
another's. Jitter is what netem's tables are (iproute2, `netem/*.c`): an inverse distribution
function, in units of the link's `jitter_s`. Each has a lower end, which lookahead relies on:

    uniform        -1 … 1
    normal         standard, cut at ±4, where a table of 16-bit values over 8192 ends
    pareto         (4/3) (u^(-1/3) - 1.5), from -2/3 to 4: mean 0, shape 3
    paretonormal   a quarter of the one and three quarters of the other at the same u, from -1.5
    table          the link's own values, each as likely

Losses are independent, or come in bursts: a Gilbert chain (Gilbert 1960) that loses everything in
its bad state, given by its mean loss p and its mean burst b, leaves it with 1 ÷ b and enters it
with p ÷ (b (1 - p)).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

from topologies import Link

Quantile = Callable[[float], float]

_STANDARD = NormalDist()
_END = 4.0
_TINY = 1e-12


def stream(seed: int, purpose: str, source: str, target: str) -> random.Random:
    """The generator for one purpose between two nodes."""
    return random.Random(f"{seed}:{purpose}:{source}:{target}")


def _uniform(u: float) -> float:
    return 2 * u - 1


def _normal(u: float) -> float:
    return min(max(_STANDARD.inv_cdf(min(max(u, _TINY), 1 - _TINY)), -_END), _END)


def _pareto(u: float) -> float:
    return min((1 / math.cbrt(max(1 - u, _TINY)) - 1.5) * (4 / 3), _END)


def _pareto_normal(u: float) -> float:
    return (_normal(u) + 3 * _pareto(u)) / 4


_SHAPES: dict[str, Quantile] = {
    "uniform": _uniform,
    "normal": _normal,
    "pareto": _pareto,
    "paretonormal": _pareto_normal,
}


def quantile(link: Link) -> Quantile:
    """The inverse distribution function of a link's jitter, in units of `jitter_s`."""
    if link.jitter_shape != "table":
        return _SHAPES[link.jitter_shape]
    table = link.jitter_table
    return lambda u: table[min(int(u * len(table)), len(table) - 1)]


def least_delay_s(link: Link) -> float:
    """The least that a packet can take over a link, its transmission not counted."""
    if link.reorder > 0:
        return 0.0
    if link.jitter_s == 0:
        return link.delay_s
    return max(link.delay_s + link.jitter_s * quantile(link)(0.0), 0.0)


class Losses:
    """Which packets of a flow are lost on its links: gaps between lost ones, drawn when needed."""

    __slots__ = ("_chains", "_left", "rate")

    def __init__(self, links: Sequence[tuple[float, float, random.Random]]) -> None:
        """`links` gives each link's loss, its burst, and its generator."""
        self._chains = [
            (loss if burst <= 1 else loss / (burst * (1 - loss)),
             loss if burst <= 1 else 1 - 1 / burst,
             chance)
            for loss, burst, chance in links
        ]  # fmt: skip
        self._left = [_geometric(chain[0], chain[2]) for chain in self._chains]
        self.rate = 1 - math.prod(1 - loss for loss, _, _ in links)

    def gap(self) -> int:
        """How many packets pass before the next lost one."""
        gap = min(self._left)
        for i, left in enumerate(self._left):
            if left > gap:
                self._left[i] = left - gap - 1
                continue
            enter, stay, chance = self._chains[i]
            # A chain that leaves its bad state lets one packet pass for certain.
            self._left[i] = 0 if chance.random() < stay else 1 + _geometric(enter, chance)
        return gap


_NEVER = 2.0**63
"""More packets than a run can have; a probability next to nothing asks for more than any number."""


def _geometric(probability: float, chance: random.Random) -> int:
    """How many trials fail before one succeeds."""
    if probability >= 1:
        return 0
    return int(min(math.log(1 - chance.random()) / math.log1p(-probability), _NEVER))
