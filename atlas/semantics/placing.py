"""Later joiners and drift: whether a client's signature fits a neighborhood, and which.

Both ask the same: does the client lie farther from the members of a neighborhood than they lie from
one another? A member's distance is 1 - cosine between its signature and the mean of the *other*
members' signatures. The spread of these distances, each about the mean of its own neighborhood and
pooled over all, gives a one-sided prediction interval (Student's t), so that a few members are not
taken for many. Nothing here changes what is already decided for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Drift:
    """A client that no longer belongs where it is.

    Attributes:
        p_value: probability that a member would lie as far off, before correction for how many
            clients were looked at.
        neighborhood: the one that it belongs to now; None if it fits none.
    """

    p_value: float
    neighborhood: int | None


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
    p_value = tail(
        1.0 - similarity[nearest],
        landmarks.within[nearest],
        landmarks.sizes[nearest],
        landmarks.spread,
        landmarks.freedom,
    )
    return Placement(
        nearest if p_value >= significance else None,
        nearest,
        p_value,
        tuple(float(value) for value in similarity),
    )


def drifted(
    rounds: Sequence[Mapping[str, NDArray[np.floating]]],
    members: Sequence[Sequence[str]],
    *,
    significance: float = 0.05,
) -> dict[str, Drift]:
    """Which clients no longer belong to their neighborhood, by sketches out of training.

    `rounds` are the rounds that were measured since the last answer, each with every client's
    sketch, [dimensions], of the gradients of its first step: there all members of a neighborhood
    start from the same adapter. A client's distance to the mean of the others is averaged over the
    rounds, and set against how the distances of all others spread, each about the mean of its own
    neighborhood. The chance that anybody is named although nobody has drifted is at most
    `significance` (Holm, 1979). A client alone is never named, having nothing to lie far from.

    What a client that drifted belongs to now is the neighborhood whose mean is nearest in these
    rounds, if it fits there, and none otherwise. Raises ValueError if a client is missing in a
    round.
    """
    names = [name for group in members for name in group]
    if not rounds or any(name not in found for found in rounds for name in names):
        raise ValueError("drift is measured by sketches of every member, from one round or more")
    groups: list[list[int]] = []
    for some in members:
        start = sum(map(len, groups))
        groups.append(list(range(start, start + len(some))))
    stacked = np.stack(
        [unit(np.stack([np.asarray(found[name], float) for name in names])) for found in rounds]
    )
    p_values = {}
    for number, group in enumerate(groups):
        for row in group if len(group) > 2 else ():
            others = [[other for other in one if other != row] for one in groups]
            p_values[row] = _misfit(stacked, row, others, number)
    named: dict[int, float] = {}
    for rank, row in enumerate(sorted(p_values, key=lambda row: (p_values[row], row))):
        if p_values[row] * (len(p_values) - rank) > significance:
            break
        named[row] = p_values[row]
    staying = [[row for row in group if row not in named] for group in groups]
    return {
        names[row]: Drift(p_value, _where(stacked, row, groups, staying, significance))
        for row, p_value in named.items()
    }


def unit(rows: Floats) -> Floats:
    """Each row (last axis) at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Floats = rows / np.where(lengths > 0, lengths, 1.0)
    return scaled


def _misfit(stacked: Floats, row: int, others: Sequence[Sequence[int]], number: int) -> float:
    """Probability that a member of `others[number]` would lie as far off as `row`, in all rounds.

    `stacked` [rounds, clients, dimensions] are of length 1; `row` is in none of `others`.
    """
    known = [
        np.mean(rounds, axis=0)
        for rounds in zip(*(_distances(rows, others) for rows in stacked), strict=True)
    ]
    spread, freedom = _pooled(known)
    own = known[number]
    if not len(own):
        own = np.concatenate(known)
    usual = float(own.mean()) if len(own) else 0.0
    return tail(_apart(stacked, row, others[number]), usual, max(len(own), 1), spread, freedom)


def _where(
    stacked: Floats,
    row: int,
    groups: Sequence[Sequence[int]],
    staying: Sequence[Sequence[int]],
    significance: float,
) -> int | None:
    """The nearest other neighborhood in these rounds, None if `row` doesn't fit there."""
    apart = {
        number: _apart(stacked, row, group)
        for number, group in enumerate(staying)
        if group and row not in groups[number]
    }
    if not apart:
        return None
    nearest = min(apart, key=lambda number: apart[number])
    return nearest if _misfit(stacked, row, staying, nearest) >= significance else None


def _apart(stacked: Floats, row: int, group: Sequence[int]) -> float:
    """Distance of `row` to the mean of a group that it isn't in, averaged over the rounds."""
    means = unit(stacked[:, list(group)].sum(axis=1))
    return float(np.mean(1.0 - (means * stacked[:, row]).sum(axis=1)))


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
