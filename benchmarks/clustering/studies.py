"""Deals of clients out of the pools, and what clustering, placing and drift make of them.

A client's half-signature is the mean of its examples' sketches, layer l counted l + 1 times, in 256
numbers: each parameter's 128 fall into one half of them, by the order of the parameters. That is
the product's sketch but for where the buckets lie. Every client has examples of its own.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score, silhouette_score

from atlas.semantics import (
    cluster,
    decode,
    drifted,
    encode,
    noise_multiplier,
    place,
    private_sum,
)
from benchmarks.clustering import text
from benchmarks.clustering.gradients import Pool

Halves = dict[str, NDArray[np.float32]]
SEEDS = 10
EACH = 4
BATCH = 8
DEALS: Mapping[str, tuple[str, ...]] = {
    "easy": tuple(f"easy-{name}" for name in text.EASY),
    "hard": tuple(f"hard-{domain}" for domain in text.DOMAINS),
    "labels": ("easy-news-topic", *(f"labels-{shift}" for shift in text.SHIFTS)),
    "subjects": tuple(f"subjects-{subject}" for subject in text.SUBJECTS),
}
Weighting = Callable[[int], float]
WEIGHTINGS: Mapping[str, Weighting] = {
    "all layers alike": lambda _: 1.0,
    "by depth": lambda layer: layer + 1.0,
    "upper half": lambda layer: float(layer >= 15),
}


def deal(
    pools: Sequence[Pool], seed: int, *, each: int = EACH, batch: int = BATCH
) -> tuple[NDArray[np.float32], list[int], NDArray[np.float32]]:
    """Sketches of every client's examples, [clients, 2, batch, p, d], the true groups, and the mean
    embeddings of the same examples.
    """
    generator = np.random.default_rng(seed)
    sketches, embeddings, groups = [], [], []
    for group, pool in enumerate(pools):
        drawn = generator.permutation(len(pool))[: each * 2 * batch]
        sketches.append(pool.sketches[drawn].reshape(each, 2, batch, *pool.sketches.shape[1:]))
        embeddings.append(pool.embeddings[drawn].reshape(each, 2 * batch, -1))
        groups += [group] * each
    return np.concatenate(sketches), groups, np.concatenate(embeddings)


def fold(
    sketches: NDArray[np.float32], weighting: Weighting, dimensions: int
) -> NDArray[np.float32]:
    """[..., p, 128] → [..., dimensions] for all parameters together."""
    parameters = sketches.shape[-2]
    weights = np.array([weighting(place // 2) for place in range(parameters)], np.float32)
    weighted = sketches * weights[:, None]
    if dimensions == 256:
        blocks = [weighted[..., n::4, :] + weighted[..., n + 1 :: 4, :] for n in (0, 2)]
        return np.concatenate([block.sum(axis=-2) for block in blocks], axis=-1)
    folded = weighted.sum(axis=-2)
    return folded.reshape(*folded.shape[:-1], -1, dimensions).sum(axis=-2)


def signatures(
    sketches: NDArray[np.float32],
    weighting: Weighting = WEIGHTINGS["by depth"],
    dimensions: int = 256,
) -> Halves:
    """What the coordinator gets of each client: through the encoding in which it is sent."""
    halves = fold(sketches.mean(axis=2), weighting, dimensions)
    return {f"{n}": decode(encode(both), dimensions) for n, both in enumerate(halves)}


def labels_of(members: Sequence[Sequence[str]]) -> list[int]:
    """The group of each client, in the order of their numbers."""
    found = {int(name): number for number, group in enumerate(members) for name in group}
    return [found[client] for client in range(len(found))]


def ours(halves: Halves, seed: int) -> list[int]:
    """The neighborhoods that the product finds."""
    return labels_of(cluster(halves, seed).members)


def summary(scores: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Adjusted Rand index over the deals, and how many groups there were."""
    return {
        "ari_mean": round(statistics.mean(scores), 3),
        "ari_min": round(min(scores), 3),
        "ari": [round(score, 3) for score in scores],
        "groups_mean": round(statistics.mean(counts), 2),
    }


def over_seeds(find: Callable[[int], tuple[list[int], list[int]]]) -> dict[str, Any]:
    """`find` gives the true groups and those found, of a deal."""
    scores, counts = [], []
    for seed in range(SEEDS):
        true, found = find(seed)
        scores.append(float(adjusted_rand_score(true, found)))
        counts.append(len(set(found)))
    return summary(scores, counts)


def settings(pools: Sequence[Pool]) -> dict[str, Any]:
    """Examples in a half, numbers in a half, weights of the layers."""

    def study(batch: int, dimensions: int, weighting: Weighting) -> dict[str, Any]:
        def find(seed: int) -> tuple[list[int], list[int]]:
            sketches, true, _ = deal(pools, seed, batch=batch)
            return true, ours(signatures(sketches, weighting, dimensions), seed)

        return over_seeds(find)

    depth = WEIGHTINGS["by depth"]
    found = {f"{batch} examples": study(batch, 256, depth) for batch in (2, 4, 8)}
    found |= {f"{numbers} numbers": study(BATCH, numbers, depth) for numbers in (32, 64, 128)}
    for name in ("all layers alike", "upper half"):
        found[name] = study(BATCH, 256, WEIGHTINGS[name])
    return found


def controls(pools: Sequence[Pool], *, each: int = EACH, batch: int = BATCH) -> dict[str, Any]:
    """The product beside what knows nothing, something else, or everything."""
    true = [group for group in range(len(pools)) for _ in range(each)]

    def dealt(seed: int) -> tuple[Halves, list[int], NDArray[np.float32]]:
        sketches, true, embeddings = deal(pools, seed, each=each, batch=batch)
        return signatures(sketches), true, embeddings

    def product(seed: int) -> tuple[list[int], list[int]]:
        halves, true, _ = dealt(seed)
        return true, ours(halves, seed)

    def told_how_many(seed: int) -> tuple[list[int], list[int]]:
        halves, true, _ = dealt(seed)
        tree = linkage(_centered(halves), "ward")
        return true, list(fcluster(tree, len(pools), "maxclust"))

    def as_before(seed: int) -> tuple[list[int], list[int]]:
        halves, true, _ = dealt(seed)
        return true, _average_linkage(_cosine_distances(_centered(halves)))

    def random(seed: int) -> tuple[list[int], list[int]]:
        return true, list(np.random.default_rng(seed).permutation(true))

    def by_size(seed: int) -> tuple[list[int], list[int]]:
        sizes = np.random.default_rng(seed).lognormal(size=len(true))
        return true, list(np.argsort(np.argsort(sizes)) // each)

    def pacfl(seed: int) -> tuple[list[int], list[int]]:
        _, true, embeddings = dealt(seed)
        tree = linkage(squareform(_principal_angles(embeddings), checks=False), "average")
        return true, list(fcluster(tree, len(pools), "maxclust"))

    return {
        "ATLAS": over_seeds(product),
        "ATLAS, told how many": over_seeds(told_how_many),
        "average linkage, best silhouette": over_seeds(as_before),
        "PACFL on embeddings, told how many": over_seeds(pacfl),
        "by number of examples": over_seeds(by_size),
        "random": over_seeds(random),
        "task-blind (one group)": over_seeds(lambda _: (true, [0] * len(true))),
        "oracle": over_seeds(lambda _: (true, true)),
    }


def fedlease(weights: Sequence[NDArray[np.float16]]) -> dict[str, Any]:
    """FedLEASE: B after a warm-up; 1 - mean cosine by layer, average linkage, best silhouette.

    One deal: every client has a training of its own, and there is no second.
    """
    stacked = np.concatenate(weights).astype(np.float64)
    true = [group for group, units in enumerate(weights) for _ in units]
    unit = stacked / np.linalg.norm(stacked, axis=2, keepdims=True)
    distance = 1.0 - np.einsum("ipe,jpe->ij", unit, unit) / stacked.shape[1]
    np.fill_diagonal(distance, 0.0)
    found = _average_linkage(np.clip(distance, 0.0, None))
    tree = linkage(squareform(distance, checks=False), "average")
    told = list(fcluster(tree, len(weights), "maxclust"))
    return {
        "FedLEASE": summary([float(adjusted_rand_score(true, found))], [len(set(found))]),
        "FedLEASE, told how many": summary(
            [float(adjusted_rand_score(true, told))], [len(weights)]
        ),
    }


def false_splits(pools: Mapping[str, Pool]) -> dict[str, Any]:
    """A hundred deals of one task each: how often clients who don't differ are divided."""
    found = {}
    for name, pool in pools.items():
        for clients, batch in ((8, BATCH), (16, BATCH), (32, 4)):
            splits = 0
            for seed in range(100):
                sketches, _, _ = deal([pool], seed, each=clients, batch=batch)
                splits += len(cluster(signatures(sketches), seed).members) > 1
            found[f"{name}, {clients} clients of 2 x {batch}"] = splits
    return found


def privacy(pools: Sequence[Pool]) -> dict[str, Any]:
    """The easy deal with sixteen examples in each half, each clipped, and noise for epsilon."""
    found = {}
    for epsilon in (1.0, 4.0, 8.0, 16.0, 32.0, None):
        multiplier = 0.0 if epsilon is None else noise_multiplier(epsilon, 1e-5)
        for numbers in (32, 256):

            def find(
                seed: int, multiplier: float = multiplier, numbers: int = numbers
            ) -> tuple[list[int], list[int]]:
                sketches, true, _ = deal(pools, seed, batch=16)
                rows = fold(sketches, WEIGHTINGS["by depth"], numbers)
                halves = {}
                for client, both in enumerate(rows):
                    noisy = [
                        private_sum(
                            half, clip=1.0, multiplier=multiplier, key=f"{seed} {client} {n}"
                        )
                        for n, half in enumerate(both)
                    ]
                    halves[f"{client}"] = decode(encode(np.stack(noisy)), numbers)
                return true, ours(halves, seed)

            found[f"epsilon {epsilon}, {numbers} numbers"] = over_seeds(find)
    return found


def joining(pools: Sequence[Pool]) -> dict[str, Any]:
    """Seven kinds are clustered, four clients each; then come four more of each, and four of the
    eighth, which nobody knows.
    """
    right = strangers_alone = known = strangers = 0
    for seed in range(SEEDS):
        sketches, true, _ = deal(pools, seed, each=7)
        halves = signatures(sketches)
        unknown = seed % len(pools)
        members = [n for n in range(len(true)) if n % 7 < 4 and true[n] != unknown]
        found = cluster({f"{n}": halves[f"{n}"] for n in members}, seed)
        home = {true[int(group[0])]: number for number, group in enumerate(found.members)}
        for n in range(len(true)):
            if n % 7 >= 4:
                placed = place(halves[f"{n}"], found.landmarks).neighborhood
                if true[n] == unknown:
                    strangers += 1
                    strangers_alone += placed is None
                else:
                    known += 1
                    right += placed is not None and placed == home.get(true[n])
    return {
        "of a known kind": known,
        "placed with it": right,
        "of an unknown kind": strangers,
        "left alone": strangers_alone,
    }


def drift(pools: Sequence[Pool], *, others: int = 160) -> dict[str, Any]:
    """Seven kinds are clustered, four clients each; then each client signs again: with other text
    of its kind, of another one, and of the eighth, which nobody knows. `others`: for how many looks
    at a client the chance of five in a hundred is shared.
    """
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        sketches, true, _ = deal(pools, seed, each=7)
        halves = signatures(sketches)
        unknown = seed % len(pools)
        members = [n for n in range(len(true)) if n % 7 < 4 and true[n] != unknown]
        found = cluster({f"{n}": halves[f"{n}"] for n in members}, seed)
        home = {int(name): place for place, group in enumerate(found.members) for name in group}
        kinds = {
            true[int(group[0])]: place
            for place, group in enumerate(found.members)
            if len(group) > 1
        }
        for member in members:
            if len(found.members[home[member]]) < 2:
                continue
            for now in (n for n in range(len(true)) if n % 7 in {5, 6}):
                kind = true[now]
                said = "same" if kind == true[member] else "unknown" if kind == unknown else "other"
                moved = drifted(
                    halves[f"{now}"], found.landmarks, home[member], significance=0.05 / others
                )
                counts[f"{said} kind"] += 1
                counts[f"{said} kind, noticed"] += moved is not None
                if moved is not None:
                    there = moved.neighborhood
                    counts[f"{said} kind, then alone"] += there is None
                    counts[f"{said} kind, then with it"] += there == kinds.get(kind, -1)
    return dict(sorted(counts.items()))


def load(folder: Path, name: str) -> Pool | None:
    """A pool that was gathered, or None."""
    file = folder / f"{name}.npz"
    if not file.is_file():
        return None
    with np.load(file) as kept:
        return Pool(kept["sketches"], kept["squares"], kept["embeddings"])


def _centered(halves: Halves) -> NDArray[np.float64]:
    """Signatures at length 1 about their common mean."""
    rows = np.stack(list(halves.values())).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    mean = rows.mean(axis=1) - rows.mean(axis=(0, 1))
    unit: NDArray[np.float64] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def _cosine_distances(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    return distance


def _average_linkage(distance: NDArray[np.float64]) -> list[int]:
    """As many groups as the silhouette likes best, from two on."""
    tree = linkage(squareform(distance, checks=False), "average")
    best = max(
        (fcluster(tree, count, "maxclust") for count in range(2, len(distance))),
        key=lambda found: (
            silhouette_score(distance, found, metric="precomputed")
            if 1 < len(set(found)) < len(found)
            else -1.0
        ),
    )
    return list(best)


def _principal_angles(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """PACFL (Vahidian et al., 2023): the smallest angle between the spaces that the three first
    left singular vectors of each client's data span, in degrees.
    """
    bases = [np.linalg.svd(rows.T, full_matrices=False)[0][:, :3] for rows in embeddings]
    angles = np.zeros((len(bases), len(bases)))
    for i, one in enumerate(bases):
        for j, other in enumerate(bases):
            if i != j:
                largest = min(float(np.abs(one.T @ other).max()), 1.0)
                angles[i, j] = np.degrees(np.arccos(largest))
    return angles
