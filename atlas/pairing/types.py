"""What pairing is told and what it answers: devices, ways, costs; chains, and a plan of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from topologies import InputError


@dataclass(frozen=True)
class Capability:
    """What a device says of itself: memory it has left to host with, speed, and its way to the
    network.
    """

    name: str
    free_bytes: int
    flops: float
    uplink_bps: float
    downlink_bps: float
    delay_s: float


class Way(NamedTuple):
    """The route from one device to another: its narrowest link, and its delay one way."""

    bandwidth_bps: float
    delay_s: float


Ways = Mapping[tuple[str, str], Way]
"""What is known of (source, target). Of other pairs it is what their ends say of themselves."""


@dataclass(frozen=True)
class SpanCost:
    """What hosting layers `first` … `last - 1` costs: the base once a host, the rest for each
    client. The adapter comes when a round begins and goes when it ends.
    """

    first: int
    last: int
    base_bytes: int
    session_bytes: int
    step_flops: float
    adapter_bytes: int = 0


@dataclass(frozen=True)
class StepCost:
    """What is the same for every client: its own part of a step, a boundary tensor, and how many
    steps a round has (every batch counted, where several make up one).
    """

    own_flops: float
    boundary_bytes: int
    spans: tuple[SpanCost, ...]
    steps: int = 1


@dataclass(frozen=True)
class Hosting:
    """One client's hosts. `stand_ins` and `fallbacks` are ranked, per span."""

    hosts: tuple[str, ...]
    stand_ins: tuple[tuple[str, ...], ...]
    fallbacks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plan:
    """Who hosts what for whom. `cost` says into how many spans the layers are cut.

    `lent` are the hosts of each neighborhood, in the order of the neighborhoods; `round_s` is what
    the slowest client's round is predicted to take.
    """

    cost: StepCost
    lent: tuple[tuple[str, ...], ...]
    chains: dict[str, Hosting]
    round_s: float


class PairingError(InputError):
    """The devices can't host the clients' layers; says for whom and what would help.

    Args:
        client, span: The first client, by the order given, whose span has no place.
        more_bytes: By host, what it would have to grant more. With all of it there is a plan.
        shortage: Works that out, which can take long.
        more_hosts: How many more hosts would do, and of how many bytes each.
        rule: Whose rule it is that leaves no place, where it is not for memory alone.
    """

    def __init__(
        self,
        client: str,
        span: SpanCost,
        why: str,
        *,
        more_bytes: Mapping[str, int] | None = None,
        more_hosts: tuple[int, int] | None = None,
        rule: str | None = None,
        shortage: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self._shortage = shortage
        self.client, self.span, self.why, self.rule = client, span, why, rule
        self.more_bytes, self.more_hosts = dict(more_bytes or {}), more_hosts
        remedies = []
        if self.more_bytes:
            grants = [f"{size:,} bytes more on {host}" for host, size in self.more_bytes.items()]
            remedies.append("grant " + " and ".join(grants))
        if more_hosts is not None:
            count, size = more_hosts
            what = "host that grants" if count == 1 else "hosts that grant"
            remedies.append(f"add {count} {what} {size:,} bytes")
        if rule is not None:
            remedies.append(f"add hosts, or pair by another rule than {rule}")
        remedies.append("cut into more spans")
        text = ", or ".join(remedies)
        super().__init__(
            f"no host has room for layers {span.first}-{span.last - 1} of {client}: {why}",
            key="split.spans",
            remedy=text[0].upper() + text[1:],
        )

    def lacking(self) -> Mapping[str, int]:
        """By host, the bytes that are lacking."""
        return self.more_bytes if self._shortage is None else self._shortage()

    def told(self) -> PairingError:
        """The same, with what is lacking."""
        return PairingError(
            self.client,
            self.span,
            self.why,
            more_bytes=self.lacking(),
            more_hosts=self.more_hosts,
            rule=self.rule,
        )
