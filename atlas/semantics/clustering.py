"""From signatures to neighborhoods: whether there is more than one, how many, and how sure.

Each client gives two half-signatures from disjoint batches. How far a client's halves lie apart is
how much it differs from itself; only where clients differ from each other by more than that is
anything divided: an index such as the silhouette always finds two. The same question is asked of
all clients, and then of each part again, so it also says when to stop. Everything here is a
function of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import ClusterNode, fcluster, linkage, to_tree
from sklearn.metrics import adjusted_rand_score

from atlas.semantics.placing import Landmarks, tail, unit

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, NDArray[np.int64]], Floats]

CENTER_FROM = 6
"""With fewer clients, taking off their mean takes off what they differ by."""

DEALS = 1999
"""Deals of halves to imaginary clients that the permutation test draws."""

PART_SIGNIFICANCE = 0.05
"""For parts to be divided further, once the whole is: a needless division costs little, and of two
kinds with four clients each many would be missed.
"""

ALONE_SIGNIFICANCE = 0.02
"""For a single client to be divided off from one part: many are looked at."""

DEALT = range(4, 65)
"""Parts of how many clients the largest eigenvalue tests: 2 clients have but 3 deals, 3 have 15;
and with more it takes long, and the mean cosine is sensitive enough.
"""

AGREEMENT = 0.2
"""Adjusted Rand index that the divisions by either half alone reach, for one to count at once."""

CERTAIN = 0.01
"""A p-value of the whole up to which a division counts although the halves alone don't show it."""


@dataclass(frozen=True)
class Neighborhoods:
    """Which clients belong together, and how sure that is.

    Attributes:
        members: clients of each neighborhood, each in the given order; neighborhoods in the order
            of their first client.
        silhouette: mean silhouette of the clients, -1 to 1, as `cluster` has it; None if there is
            one neighborhood.
        p_value: probability that clients who don't differ would look as different as these do.
        confidence: adjusted Rand index between the divisions by the first halves alone and by the
            second alone, 1 if they agree; None if there is one neighborhood.
        similarity: [clients, clients], in the given order: cosine between signatures, -1 to 1.
        landmarks: what `place` needs to find the neighborhood of who comes later.
    """

    members: tuple[tuple[str, ...], ...]
    silhouette: float | None
    p_value: float
    confidence: float | None
    similarity: Floats
    landmarks: Landmarks


def cluster(
    halves: Mapping[str, NDArray[np.floating]], seed: int, *, significance: float = 0.05
) -> Neighborhoods:
    """Find the neighborhoods of clients from their half-signatures, [2, dimensions] each.

    1. Halves are brought to length 1. From six clients on, their mean is taken off each.
    2. Test: halves are dealt to pairs at random; the statistic is the mean cosine within pairs.
       Clients differ if their own pairs are in the top `significance` of the deals. If they
       don't: one neighborhood.
    3. Otherwise a tree of merges by Ward's method (1963) over the signatures (mean of the halves,
       at length 1). From its top, each part is divided in two as long as its clients differ, by
       deals of their halves alone. Here the statistic is the largest eigenvalue of the cosines
       between first and second halves (symmetric part): the most that both halves agree on in any
       one direction, which is what two kinds of clients make large. Two or three clients, who are
       too few for deals, differ if they lie farther from the others' halves than clients lie from
       their own, by a prediction interval (Student's t).
    4. The first halves alone and the second alone are divided into as many clusters. If these
       divisions don't agree, and the test was not passed by far, what was found is noise: one
       neighborhood.

    A neighborhood can be one client. The silhouette (Rousseeuw, 1987) of a client alone sets the
    distance of its own halves against that to the nearest cluster. `seed` draws the deals. Raises
    ValueError if there is no client, a half is not finite, or shapes differ.
    """
    names = list(halves)
    if not names:
        raise ValueError("there is no client to find neighborhoods for")
    given = np.stack([np.asarray(halves[name], dtype=np.float64) for name in names])
    if given.ndim != 3 or given.shape[1] != 2 or not np.isfinite(given).all():
        raise ValueError("each client gives two finite half-signatures, [2, dimensions]")
    given = unit(given)
    center = given.mean(axis=(0, 1)) * (len(names) >= CENTER_FROM)
    stacked = given - center
    signatures = stacked.mean(axis=1)
    similarity = _cosines(signatures)
    generator = np.random.Generator(np.random.Philox(key=seed % 2**128))
    p_value = _p_value(stacked, generator, _mean_cosine)
    everybody = Landmarks.of(given.mean(axis=1), [range(len(names))], np.zeros_like(center))
    one = Neighborhoods((tuple(names),), None, p_value, None, similarity, everybody)
    if p_value > significance:
        return one
    groups = _divided(stacked, generator)
    first, second = (_labels(stacked[:, half], len(groups)) for half in (0, 1))
    confidence = float(adjusted_rand_score(first, second))
    if confidence < AGREEMENT and p_value > CERTAIN:
        return one
    return Neighborhoods(
        tuple(tuple(names[row] for row in group) for group in groups),
        _silhouette(stacked, similarity, groups),
        p_value,
        confidence,
        similarity,
        Landmarks.of(signatures, groups, center),
    )


def _p_value(stacked: Floats, generator: np.random.Generator, statistic: Statistic) -> float:
    """How often halves dealt to pairs at random reach the statistic of the clients' own pairs.

    If clients don't differ, every way to pair the 2n halves is as likely as the real one, so the
    test is exact.
    """
    clients = len(stacked)
    similarity = _cosines(stacked.reshape(2 * clients, -1))
    own = np.arange(2 * clients)
    deals = generator.permuted(np.tile(own, (DEALS, 1)), axis=1)
    observed = statistic(similarity, own[None])[0]
    values = statistic(similarity, deals)
    return float((1 + (values >= observed - 1e-12).sum()) / (1 + DEALS))


def _mean_cosine(similarity: Floats, deals: NDArray[np.int64]) -> Floats:
    """Mean cosine within the pairs of each deal, [deals]."""
    within: Floats = similarity[deals[:, 0::2], deals[:, 1::2]]
    return np.asarray(within.mean(axis=1), dtype=np.float64)


def _largest_agreement(similarity: Floats, deals: NDArray[np.int64]) -> Floats:
    """Largest eigenvalue of the cosines between first and second halves of each deal, [deals]."""
    across = similarity[deals[:, 0::2, None], deals[:, None, 1::2]]
    values = np.linalg.eigvalsh((across + across.transpose(0, 2, 1)) / 2)
    return np.asarray(values[:, -1], dtype=np.float64)


def _divided(stacked: Floats, generator: np.random.Generator) -> list[list[int]]:
    """Rows that belong together, in the order of their first. The whole is known to be divided."""
    apart = ((stacked[:, None, 0] - stacked[None, :, 1]) ** 2).sum(axis=2)
    found: list[list[int]] = []

    def differ(one: list[int], other: list[int]) -> bool:
        rows = one + other
        if len(rows) >= DEALT.start:
            about = stacked[rows] - stacked[rows].mean(axis=(0, 1))
            statistic = _largest_agreement if len(rows) in DEALT else _mean_cosine
            if _p_value(about, generator, statistic) <= PART_SIGNIFICANCE:
                return True
        return min(len(one), len(other)) == 1 and _strange(apart, one, other) <= ALONE_SIGNIFICANCE

    def descend(node: ClusterNode) -> None:
        one, other = node.get_left(), node.get_right()
        if one is None or other is None:
            found.append([node.id])
            return
        parts = sorted(one.pre_order()), sorted(other.pre_order())
        if node.get_count() == len(stacked) or differ(*parts):
            descend(one)
            descend(other)
        else:
            found.append(sorted(parts[0] + parts[1]))

    descend(to_tree(linkage(unit(stacked.mean(axis=1)), "ward")))
    return sorted(found)


def _strange(apart: Floats, one: Sequence[int], other: Sequence[int]) -> float:
    """Probability that two parts of one kind would be as far apart as these.

    `apart` [clients, clients] are squared distances between first and second halves. Those of all
    clients between their own halves say how far apart chance sets what is the same; their
    logarithms are taken as normal.
    """
    across = np.concatenate([apart[np.ix_(one, other)].ravel(), apart[np.ix_(other, one)].ravel()])
    own = np.log(np.maximum(apart.diagonal(), 1e-12))
    mean, spread = float(own.mean()), float(own.std(ddof=1))
    return tail(float(np.log(max(across.mean(), 1e-12))), mean, len(own), spread, len(own) - 1)


def _labels(signatures: Floats, count: int) -> list[int]:
    """Cluster of each row, for a given number of them."""
    return list(fcluster(linkage(unit(signatures), "ward"), count, "maxclust"))


def _silhouette(stacked: Floats, similarity: Floats, groups: Sequence[Sequence[int]]) -> float:
    """Mean silhouette, (b - a) / max(a, b) for each client, of distance 1 - cosine.

    a is the mean distance to the others of its cluster, b to those of the nearest other cluster. A
    client alone has no others; its a is how far its own halves lie apart.
    """
    distance = 1.0 - similarity
    values = []
    for own in groups:
        for row in own:
            others = [other for other in own if other != row]
            within = distance[row, others].mean() if others else 1 - _cosines(stacked[row])[0, 1]
            nearest = min(distance[row, list(group)].mean() for group in groups if group is not own)
            values.append((nearest - within) / max(nearest, within, 1e-12))
    return float(np.mean(values))


def _cosines(rows: Floats) -> Floats:
    """Cosine between each two rows; 0 with a row of zeros."""
    rows = unit(rows)
    cosines: Floats = np.clip(rows @ rows.T, -1.0, 1.0)
    return cosines
