"""Later joiners and drift: whether a client's signature fits a neighborhood, and which.

A member's distance is 1 - cosine between its signature and the mean of the *other* members'
signatures. For a later joiner the spread of these distances, each about the mean of its own
neighborhood and pooled over all, gives a one-sided prediction interval (Student's t), so that a few
members are not taken for many. Drift is found by the same means, which stay as they were: of a new
signature of a client's text, taken as its first one was. Nothing here changes what is already
decided for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Vector = tuple[float, ...]


@dataclass(frozen=True)
class Landmarks:
    """What clustering hands on to place whoever comes later: as it was then, and never changed.

    Attributes:
        center: what was taken off every signature, [dimensions]; zeros where nothing was.
        centroids: sum of each neighborhood's signatures, each of unit length, [n, dimensions].
        sizes: members of each neighborhood.
        within: mean distance of a member to the mean of the others, of each neighborhood; of those
            with one member the mean over the neighborhoods with more.
        spread: deviation of a member's distance about its neighborhood's mean, pooled.
        freedom: degrees of freedom of `spread`. At 0 nothing is known about it.
    """

    center: Vector
    centroids: tuple[Vector, ...]
    sizes: tuple[int, ...]
    within: tuple[float, ...]
    spread: float
    freedom: int

    @classmethod
    def of(cls, signatures: Floats, groups: Sequence[Sequence[int]], center: Floats) -> Self:
        """The landmarks of groups of rows of `signatures`, [clients, dimensions], centered."""
        rows = unit(signatures)
        known = _distances(rows, groups)
        spread, freedom = _pooled(known)
        usual = float(np.mean(np.concatenate(known))) if freedom else 0.0
        return cls(
            center=tuple(center.tolist()),
            centroids=tuple(tuple(rows[list(group)].sum(axis=0).tolist()) for group in groups),
            sizes=tuple(map(len, groups)),
            within=tuple(float(one.mean()) if len(one) else usual for one in known),
            spread=spread,
            freedom=freedom,
        )

    def p_value(self, number: int, similarity: float) -> float:
        """How likely a member of that neighborhood would lie as far off its mean."""
        return tail(
            1.0 - similarity, self.within[number], self.sizes[number], self.spread, self.freedom
        )

    def alone(self, halves: NDArray[np.floating]) -> Self:
        """These, and behind them those of a neighborhood of one client, [2, dimensions], who is
        thought to differ from its like as clients usually do.
        """
        rows = unit(np.asarray(halves, dtype=np.float64))
        signature = unit(rows.mean(axis=0) - np.array(self.center))
        weights = [max(size, 1) for size in self.sizes]
        return replace(
            self,
            centroids=(*self.centroids, tuple(signature.tolist())),
            sizes=(*self.sizes, 1),
            within=(*self.within, float(np.average(self.within, weights=weights))),
        )

    def plain(self) -> dict[str, Any]:
        """As data that JSON and msgpack can write."""
        return asdict(self)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """Out of what `plain` made, also after JSON or msgpack turned its tuples into lists."""
        return cls(
            center=tuple(data["center"]),
            centroids=tuple(map(tuple, data["centroids"])),
            sizes=tuple(data["sizes"]),
            within=tuple(data["within"]),
            spread=data["spread"],
            freedom=data["freedom"],
        )


@dataclass(frozen=True)
class Placement:
    """Where a client belongs.

    Attributes:
        neighborhood: its number; None if it fits none, and so is alone.
        nearest: number of the nearest, whether it fits or not.
        p_value: probability that a member of the nearest would lie as far off.
        similarity: cosine to the mean of each neighborhood, -1 to 1.
    """

    neighborhood: int | None
    nearest: int
    p_value: float
    similarity: tuple[float, ...]


def place(
    halves: NDArray[np.floating], landmarks: Landmarks, *, significance: float = 0.01
) -> Placement:
    """Where a client that joins later belongs, by its half-signatures, [2, dimensions].

    The nearest neighborhood, unless a member of it would lie as far off with a probability below
    `significance`: then the client is alone. Raises ValueError if the halves are not finite or not
    of the landmarks' dimensions.
    """
    rows = np.asarray(halves, dtype=np.float64)
    if rows.shape != (2, len(landmarks.center)) or not np.isfinite(rows).all():
        raise ValueError(
            f"a client is placed by two finite halves, [2, {len(landmarks.center)}], not by "
            f"{list(rows.shape)}"
        )
    signature = unit(unit(rows).mean(axis=0) - np.array(landmarks.center))
    similarity = unit(np.array(landmarks.centroids)) @ signature
    nearest = int(similarity.argmax())
    p_value = landmarks.p_value(nearest, float(similarity[nearest]))
    return Placement(
        nearest if p_value >= significance else None,
        nearest,
        p_value,
        tuple(float(value) for value in similarity),
    )


def drifted(
    halves: NDArray[np.floating],
    landmarks: Landmarks,
    home: int,
    *,
    significance: float,
    fitting: float = 0.01,
) -> Placement | None:
    """Where a client belongs now, if it no longer belongs to neighborhood number `home`.

    `halves` are a new signature, [2, dimensions], taken as the first one was: from the adapter that
    all start from. None if it still belongs there: a member of `home`, as that was when the clients
    were divided, would lie as far off with a probability of at least `significance`, or who joined
    by this signature would come there (`fitting`). Raises ValueError as `place` does.
    """
    found = place(halves, landmarks, significance=fitting)
    p_value = landmarks.p_value(home, found.similarity[home])
    if p_value >= significance or found.neighborhood == home:
        return None
    return replace(found, p_value=p_value)


def unit(rows: Floats) -> Floats:
    """Each row (last axis) at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Floats = rows / np.where(lengths > 0, lengths, 1.0)
    return scaled


def _distances(rows: Floats, groups: Sequence[Sequence[int]]) -> list[Floats]:
    """Of each member to the mean of the others of its group; nothing for a group of one.

    `rows` are of length 1.
    """
    found = []
    for group in groups:
        own = rows[list(group)]
        others = unit(own.sum(axis=0) - own)
        found.append(1.0 - (own * others).sum(axis=1) if len(own) > 1 else np.zeros(0))
    return found


def _pooled(known: Sequence[Floats]) -> tuple[float, int]:
    """Deviation of the values about the mean of their own group, and its degrees of freedom."""
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in known if len(one))
    freedom = sum(len(one) - 1 for one in known if len(one))
    return (math.sqrt(squares / freedom) if freedom > 0 else 0.0), max(freedom, 0)


def tail(value: float, mean: float, count: int, spread: float, freedom: int) -> float:
    """Probability of one more value as high, of a normal population known by `count` values."""
    if freedom < 1:
        return 1.0
    if spread == 0.0:
        return 1.0 if value <= mean + 1e-12 else 0.0
    return float(student.sf((value - mean) / (spread * math.sqrt(1 + 1 / count)), freedom))
