"""What a method is made of, and which of these parts go together.

Every method that ATLAS can run is a choice of policies, each a value of the config; all of them run
on the same roles, bus and accounting, so what differs between two runs is what was chosen:

    placement     split.placement        peers | server | whole | gathered
    pairing       split.pairing          semantic | titanic | cheapest | random
    trunk         split.trunk            own | shared by the clients whom a host serves
    labels        split.labels           client | server
    grouping      aggregation.grouping   semantic | one | none; controls: random | oracle | noise
    aggregation   aggregation.method     how a neighborhood's adapters become one
    between       aggregation.between    how neighborhoods move towards each other
    recovery      recovery.lost          replay | skip

A method in which nothing is aggregated has no policy of its own: each client is a neighborhood by
itself (grouping none), and neighborhoods leave each other alone (between 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.config import Config

BY_SIGNATURE = ("semantic", "noise")
"""Groupings that signatures make; the others are settled before a run."""
WHOLE = ("whole", "gathered")
"""Placements in which nothing is split."""
Conflict = tuple[tuple[str, ...], str, str]
"""A key's place, the problem, and the remedy."""


def conflict(config: Config) -> Conflict | None:
    """The first two policies of a config that can't both be, or None."""
    return next(chain(_split(config), _shared(config)), None)


def _split(config: Config) -> Iterator[Conflict]:
    split, aggregation = config.split, config.aggregation
    if config.scored == "validation" and not config.validation:
        yield (
            ("scored",),
            "no rows are kept for validation",
            "Say validation: 48, or as many as there can be",
        )
    if split.placement != "peers" and split.pairing != "semantic":
        yield (
            ("split", "pairing"),
            f"with split.placement {split.placement} no hosts are chosen, by {split.pairing} or "
            "otherwise",
            "Leave it out, or split over peers",
        )
    if split.labels == "server" and split.placement != "server":
        yield (
            ("split", "labels"),
            f"with split.placement {split.placement} there is no server that could have the labels",
            "Say split.placement: server, or keep the labels at the client",
        )
    if split.labels == "server" and config.recovery.keep == "client":
        yield (
            ("recovery", "keep"),
            "a client whose labels are at the server is told no gradients of its parameters there",
            "Say host, or keep the labels at the client",
        )
    if split.placement == "gathered" and aggregation.grouping in (*BY_SIGNATURE, "none"):
        yield (
            ("aggregation", "grouping"),
            f"text is gathered before anything is known of it, so not by {aggregation.grouping}",
            "Say one, or oracle for one adapter for each task",
        )
    if config.drift.every and (split.trunk == "shared" or aggregation.grouping != "semantic"):
        yield (
            ("drift", "every"),
            "clients are moved between neighborhoods that signatures made, and whose trunks are "
            "their own",
            "Leave it out, or say aggregation.grouping: semantic and split.trunk: own",
        )


def _shared(config: Config) -> Iterator[Conflict]:
    """What a shared trunk doesn't go with: it needs one beginning for all whom a host serves, and
    can't be moved to another host.
    """
    split, aggregation, recovery = config.split, config.aggregation, config.recovery
    if split.trunk == "own":
        return
    if split.placement in WHOLE:
        yield (
            ("split", "trunk"),
            f"with split.placement {split.placement} there are no hosts to share a trunk on",
            "Say own, or split over peers or with the server",
        )
    inside = split.placement == "peers" and split.pairing == "semantic"
    if aggregation.grouping != "one" and not inside:
        yield (
            ("split", "trunk"),
            "clients of several neighborhoods, which begin rounds from different adapters, would "
            "share a trunk",
            "Say aggregation.grouping: one, or split.pairing: semantic",
        )
    if aggregation.method not in ("fedit", "median", "trimmed-mean", "clipped-mean"):
        yield (
            ("split", "trunk"),
            f"with aggregation.method {aggregation.method} not all clients begin a round from the "
            "same adapter",
            "Say aggregation.method: fedit, or split.trunk: own",
        )
    if recovery.lost != "replay" or recovery.keep != "host" or recovery.hedge:
        yield (
            ("split", "trunk"),
            "a shared trunk is with its host alone: it is repeated there, and nowhere else",
            "Leave recovery.lost, recovery.keep and recovery.hedge as they are by default",
        )
    if recovery.snapshot_every or config.membership.late != "wait":
        yield (
            ("split", "trunk"),
            "who shares a trunk waits for all the others, from each round's first step on",
            "Leave recovery.snapshot_every and membership.late as they are by default",
        )
