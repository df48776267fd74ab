"""From signatures to neighborhoods: whether there is more than one, how many, and how sure.

Each client gives two half-signatures from disjoint batches. How far a client's halves lie apart is
how much it differs from itself; only if clients differ from each other by more than that, by a
permutation test, is there more than one neighborhood: an index such as the silhouette always finds
two. Everything here is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

Floats = NDArray[np.float64]

CENTRE_FROM = 6
"""With fewer clients, taking off their mean takes off what they differ by."""

DEALS = 1999
"""Deals of halves to imaginary clients that the permutation test draws."""

AGREEMENT = 0.2
"""Adjusted Rand index that the divisions by either half alone reach at least, for one to count."""


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
    """

    members: tuple[tuple[str, ...], ...]
    silhouette: float | None
    p_value: float
    confidence: float | None
    similarity: Floats


def cluster(
    halves: Mapping[str, NDArray[np.floating]], seed: int, *, significance: float = 0.05
) -> Neighborhoods:
    """Find the neighborhoods of clients from their half-signatures, [2, dimensions] each.

    1. From six clients on, the mean of all halves is taken off each.
    2. Test: halves are dealt to pairs at random; the statistic is the mean cosine within pairs.
       Clients differ if their own pairs are in the top `significance` of the deals. If they
       don't: one neighborhood.
    3. Otherwise average-linkage clustering (UPGMA) on 1 - cosine between signatures (mean of the
       halves), for each number of clusters; the number with the best silhouette (Rousseeuw, 1987)
       is taken, the fewest if equal. The silhouette of a client alone sets the distance of its own
       halves against that to the nearest cluster, so an outlier can stay alone.
    4. The first halves alone and the second alone are divided into as many clusters. If these
       divisions don't agree, what was found is noise: one neighborhood.

    A neighborhood can be one client. `seed` draws the deals. Raises ValueError if there is no
    client, a half is not finite, or shapes differ.
    """
    names = list(halves)
    if not names:
        raise ValueError("there is no client to find neighborhoods for")
    stacked = np.stack([np.asarray(halves[name], dtype=np.float64) for name in names])
    if stacked.ndim != 3 or stacked.shape[1] != 2 or not np.isfinite(stacked).all():
        raise ValueError("each client gives two finite half-signatures, [2, dimensions]")
    if len(names) >= CENTRE_FROM:
        stacked = stacked - stacked.mean(axis=(0, 1))
    similarity = _cosines(stacked.mean(axis=1))
    p_value = _p_value(stacked, seed)
    one = Neighborhoods((tuple(names),), None, p_value, None, similarity)
    if p_value > significance:
        return one
    labels, silhouette = _best_labels(stacked, similarity)
    count = len(set(labels))
    first, second = (_labels(_cosines(stacked[:, half]), count) for half in (0, 1))
    confidence = float(adjusted_rand_score(first, second))
    if confidence < AGREEMENT:
        return one
    return Neighborhoods(_members(names, labels), silhouette, p_value, confidence, similarity)


def _p_value(stacked: Floats, seed: int) -> float:
    """How often halves dealt to pairs at random are as alike within pairs as the clients' own are.

    If clients don't differ, every way to pair the 2n halves is as likely as the real one, so the
    test is exact.
    """
    clients = len(stacked)
    similarity = _cosines(stacked.reshape(2 * clients, -1))
    observed = similarity[0::2, 1::2].trace()
    generator = np.random.Generator(np.random.Philox(key=seed % 2**128))
    deals = generator.permuted(np.tile(np.arange(2 * clients), (DEALS, 1)), axis=1)
    sums = similarity[deals[:, 0::2], deals[:, 1::2]].sum(axis=1)
    return float((1 + (sums >= observed - 1e-12).sum()) / (1 + DEALS))


def _best_labels(stacked: Floats, similarity: Floats) -> tuple[list[int], float]:
    """Labels with the best silhouette over all numbers of clusters from two on."""
    halves = np.array([_cosines(both)[0, 1] for both in stacked])
    found: tuple[list[int], float] | None = None
    for count in range(2, len(similarity) + 1):
        labels = _labels(similarity, count)
        silhouette = _silhouette(1.0 - similarity, 1.0 - halves, labels)
        if found is None or silhouette > found[1] + 1e-12:
            found = labels, silhouette
    assert found is not None, "a test that one client passes is broken"
    return found


def _silhouette(distance: Floats, apart: Floats, labels: Sequence[int]) -> float:
    """Mean silhouette, (b - a) / max(a, b) for each client.

    a is the mean distance to the others of its cluster, b to those of the nearest other cluster. A
    client alone has no others; its a is how far its own halves lie apart, `apart` [clients].
    """
    clusters = np.array(labels)[None, :] == np.arange(max(labels) + 1)[:, None]
    values = []
    for client, own in enumerate(labels):
        others = clusters[own].copy()
        others[client] = False
        within = distance[client, others].mean() if others.any() else apart[client]
        nearest = min(distance[client, row].mean() for n, row in enumerate(clusters) if n != own)
        values.append((nearest - within) / max(nearest, within, 1e-12))
    return float(np.mean(values))


def _labels(similarity: Floats, count: int) -> list[int]:
    """Cluster of each client, by average linkage."""
    model = AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average")
    return [int(label) for label in model.fit_predict(_distance(similarity))]


def _members(names: Sequence[str], labels: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(label, []).append(name)
    return tuple(tuple(group) for group in groups.values())


def _distance(similarity: Floats) -> Floats:
    distance: Floats = np.clip(1.0 - similarity, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    return distance


def _cosines(rows: Floats) -> Floats:
    """Cosine between each two rows; 0 with a row of zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1.0)
    cosines: Floats = np.clip(unit @ unit.T, -1.0, 1.0)
    return cosines
