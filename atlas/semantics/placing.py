"""Later joiners and drift: whether a client's signature fits a neighborhood, and which.

A member's distance is 1 - cosine between its signature and the mean of the *other* members'
signatures. For a later joiner the spread of these distances, each about the mean of its own
neighborhood and pooled over all, gives a one-sided prediction interval (Student's t), so that a few
members are not taken for many. For drift the distances change with the training, and only their
ranks are used. Nothing here changes what is already decided for others.
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

    `rounds` are the rounds that were measured since clustering or the last move, each with every
    client's sketch, [dimensions], of the gradients of its first step: there all members of a
    neighborhood start from the same adapter. In each round a client has a rank among its
    neighborhood by its distance to the mean of the others. If all have text of one kind every rank
    is as likely as any other, whatever the distances are like, so the chance of a sum of ranks is
    known exactly; the chance that anybody is named although nobody has drifted is at most
    `significance` (Holm, 1979). One of m members can be named after no fewer rounds than make
    m to the power of rounds exceed clients / `significance`.

    What a client that drifted belongs to now is the other neighborhood whose mean is nearest in
    these rounds, if it isn't farther off than all members there, and none otherwise. Raises
    ValueError if a client is missing in a round.
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
    p_values: dict[int, float] = {}
    for group in groups:
        if len(group) > 2:
            distances = np.stack([_distances(rows, [group])[0] for rows in stacked])
            ranks = (distances[:, None, :] >= distances[:, :, None]).sum(axis=2).sum(axis=0)
            chances = _chances_of_rank_sums(len(group), len(rounds))
            for row, rank in zip(group, ranks, strict=True):
                p_values[row] = float(chances[: rank + 1].sum())
    named: dict[int, float] = {}
    for position, row in enumerate(sorted(p_values, key=lambda row: (p_values[row], row))):
        if p_values[row] * (len(p_values) - position) > significance:
            break
        named[row] = p_values[row]
    staying = [[row for row in group if row not in named] for group in groups]
    return {
        names[row]: Drift(p_value, _where(stacked, row, groups, staying))
        for row, p_value in named.items()
    }


def unit(rows: Floats) -> Floats:
    """Each row (last axis) at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Floats = rows / np.where(lengths > 0, lengths, 1.0)
    return scaled


def _chances_of_rank_sums(members: int, rounds: int) -> Floats:
    """Chance of each sum, from 0 on, of as many ranks as rounds, each 1 … members."""
    chances: Floats = np.ones(1)
    for _ in range(rounds):
        chances = np.convolve(chances, np.concatenate([[0.0], np.full(members, 1.0 / members)]))
    return chances


def _where(
    stacked: Floats, row: int, groups: Sequence[Sequence[int]], staying: Sequence[Sequence[int]]
) -> int | None:
    """The nearest other neighborhood, None if `row` is farther off than all members there."""
    apart = {}
    for number, group in enumerate(staying):
        if len(group) > 1 and row not in groups[number]:
            means = unit(stacked[:, list(group)].sum(axis=1))
            apart[number] = float(np.mean(1.0 - (means * stacked[:, row]).sum(axis=1)))
    if not apart:
        return None
    nearest = min(apart, key=lambda number: apart[number])
    own = np.mean([_distances(rows, [staying[nearest]])[0] for rows in stacked], axis=0)
    return nearest if apart[nearest] <= own.max() else None


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
