"""What a network is: nodes, the devices they are, and links, each direction on its own.

All of it is frozen, in SI units (bytes, seconds, bit/s where a name ends in ``_bps``) and in the
order of the file it came from. A `Topology` says what there is; how it is doing at an instant is
told by `faults.Conditions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from topologies.errors import InputError

if TYPE_CHECKING:
    import networkx

    from topologies.rules import Rules

Attribute = str | int | float
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Frozen(dict[_Key, _Value]):
    """A dict that can't be changed any more; as fast to read, and it crosses to other processes."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a topology can't be changed; make another one")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))


_Nodes = Annotated[Mapping[str, "Node"], AfterValidator(_Frozen)]
_Links = Annotated[Mapping[tuple[str, str], "Link"], AfterValidator(_Frozen)]
_Attributes = Annotated[Mapping[str, Attribute], AfterValidator(_Frozen)]
_Derived = Annotated[Mapping[str, str], AfterValidator(_Frozen)]
_NONE: Any = _Frozen()

_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RULE = re.compile(r"[a-z][a-z0-9-]*")
RESERVED = frozenset({
    "id", "name", "role", "device", "grant", "derived", "memory_bytes", "grant_bytes", "flops",
    "device_source", "disk_bytes", "disk_read_bps", "disk_write_bps", "networks",
})  # fmt: skip


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _name(text: str) -> str:
    if not text or text != text.strip() or not text.isprintable() or len(text) > 200:
        raise ValueError(
            f"{text!r} can't be a name: 1 to 200 printable characters, no space around"
        )
    if "/" in text or "\\" in text or text in (".", ".."):
        raise ValueError(f"{text!r} can't be a name: a node's name is also that of its folder")
    return text


_Name = Annotated[str, AfterValidator(_name)]


def can_be_an_attribute(name: str) -> bool:
    """Whether a node can have an attribute of this name: a word that is not a setting already."""
    return _ATTRIBUTE.fullmatch(name) is not None and name not in RESERVED


def _check_derived(derived: Mapping[str, str], fields: Iterable[str]) -> None:
    for field, rule in derived.items():
        if field not in fields or not _RULE.fullmatch(rule):
            raise ValueError(f"{field}={rule} is no field and the name of a rule")


@lru_cache(maxsize=64)
def _shared(table: tuple[float, ...]) -> tuple[float, ...]:
    """This table; links of one distribution share one object, which has to ascend."""
    if any(a > b for a, b in pairwise(table)):
        raise ValueError("a table of jitter ascends")
    return table


_Table = Annotated[tuple[float, ...], Field(max_length=16_384), AfterValidator(_shared)]


class Device(_Model):
    """A kind of machine.

    Attributes:
        name: as in the catalog, such as ``raspberry-pi-4``.
        memory_bytes: all the memory it has.
        grant_bytes: what of it its owner lends to training.
        flops: FLOP/s in fp32 that it sustains on products of matrices; not the peak of its data
            sheet.
        source: where these numbers come from.
        disk_bytes, disk_read_bps, disk_write_bps: what it stores on, and how fast that is in a
            row; None where that is not known.
        networks: the names of the access networks it is commonly on, the most common first; see
            `topologies.access`.
    """

    name: str = Field(min_length=1)
    memory_bytes: int = Field(gt=0)
    grant_bytes: int = Field(ge=0)
    flops: float = Field(gt=0)
    source: str
    disk_bytes: int | None = Field(default=None, gt=0)
    disk_read_bps: float | None = Field(default=None, gt=0)
    disk_write_bps: float | None = Field(default=None, gt=0)
    networks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _grants_what_it_has(self) -> Self:
        if self.grant_bytes > self.memory_bytes:
            raise ValueError(
                f"{self.name} can't grant {self.grant_bytes} of its {self.memory_bytes} bytes"
            )
        return self


class Node(_Model):
    """A vertex of the network.

    Attributes:
        role: what it is there for: ``coordinator``, ``gateway``, ``client``, ``host``, or a word of
            your own.
        device: the machine it is; None where it only forwards, or is never short of anything.
        attributes: what else the file says of it, such as ``cluster``; selectors of fault scenarios
            choose by these. ``latitude`` and ``longitude``, in degrees, are its place.
        derived: which of its fields no file states, and by which of `topologies.Rules` they are.
    """

    name: _Name
    role: str = Field(default="node", min_length=1)
    device: Device | None = None
    attributes: _Attributes = _NONE
    derived: _Derived = _NONE

    @model_validator(mode="after")
    def _attributes_are_its_own(self) -> Self:
        for name in self.attributes:
            if not can_be_an_attribute(name):
                raise ValueError(f'node {self.name}: "{name}" can\'t be the name of an attribute')
        if self.derived:
            _check_derived(self.derived, type(self).model_fields)
        for name, most in (("latitude", 90), ("longitude", 180)):
            degrees = self.attributes.get(name, 0)
            if isinstance(degrees, str) or not -most <= degrees <= most:
                raise ValueError(f"node {self.name}: a {name} is -{most} to {most} degrees")
        return self

    @property
    def place(self) -> tuple[float, float] | None:
        """Its latitude and longitude in degrees, where it has them."""
        north, east = self.attributes.get("latitude"), self.attributes.get("longitude")
        if north is None or east is None:
            return None
        return float(north), float(east)

    def attribute(self, name: str) -> Attribute | None:
        """What a selector ``name=value`` asks for: role, device's name, or an attribute."""
        if name == "role":
            return self.role
        if name == "device":
            return self.device.name if self.device else None
        return self.attributes.get(name)


class Link(_Model):
    """One direction of a link.

    Attributes:
        bandwidth_bps: what is on the wire, headers counted.
        delay_s: propagation, without transmission and without queues.
        jitter_s: how far the delay of one packet strays from that: at most so far where it is
            uniform, else its standard deviation. As netem has it.
        jitter_shape: how it is distributed; ``table`` is *jitter_table*.
        jitter_table: a measured distribution: its values at equally spaced probabilities,
            ascending, in units of *jitter_s*. What netem's ``.dist`` files hold, over 8192.
        loss: the probability that a packet is lost, 0 ≤ loss < 1.
        burst: how many packets in a row a loss takes on average; 1 is independent losses
            (a Gilbert model with this mean length, and *loss* as its long-run share; gaps between
            bursts are a packet at least, so a burst above 1 is no shorter than loss / (1 - loss)).
        duplicate, corrupt: the probability that a packet comes twice, or damaged.
        reorder: the probability that a packet overtakes those before it, by skipping the delay.
        queue_bytes: how many bytes can wait before this link; None is what the network model
            gives a link of this bandwidth.
        queue: who goes when the queue is full (``drop-tail``) or stands too long (``codel``,
            RFC 8289).
        medium: links of one medium take turns, as stations of one Wi-Fi do; empty: this one is
            alone.
        derived: which of its fields no file states, and by which of `topologies.Rules` they are.
    """

    source: _Name
    target: _Name
    bandwidth_bps: float = Field(gt=0)
    delay_s: float = Field(ge=0)
    jitter_s: float = Field(default=0.0, ge=0)
    jitter_shape: Literal["uniform", "normal", "pareto", "paretonormal", "table"] = "uniform"
    jitter_table: _Table = ()
    loss: float = Field(default=0.0, ge=0, lt=1)
    burst: float = Field(default=1.0, ge=1)
    duplicate: float = Field(default=0.0, ge=0, lt=1)
    reorder: float = Field(default=0.0, ge=0, lt=1)
    corrupt: float = Field(default=0.0, ge=0, lt=1)
    queue_bytes: int | None = Field(default=None, gt=0)
    queue: Literal["drop-tail", "codel"] = "drop-tail"
    medium: str = ""
    derived: _Derived = _NONE

    @model_validator(mode="after")
    def _has_two_ends(self) -> Self:
        if self.source == self.target:
            raise ValueError(f"a link from {self.source} to itself is no link")
        if self.derived:
            _check_derived(self.derived, type(self).model_fields)
        return self

    @model_validator(mode="after")
    def _has_a_table_or_a_shape(self) -> Self:
        if (self.jitter_shape == "table") != bool(self.jitter_table):
            raise ValueError(
                f"link {self.source} → {self.target}: a jitter of shape table has a table, and "
                "only that has one"
            )
        return self

    @model_validator(mode="after")
    def _can_be_honoured(self) -> Self:
        if self.burst > 1 and self.loss / (1 - self.loss) > self.burst:
            least = self.loss / (1 - self.loss)
            raise InputError(
                f"link {self.source} → {self.target}: losses of {self.loss:.4g} can't come in "
                f"bursts of {self.burst:.4g}, for the gaps between would be shorter than a packet",
                remedy=f"Make the bursts {least:.4g} or longer, or 1 for independent losses",
            )
        if self.reorder and not self.delay_s and not self.jitter_s:
            raise InputError(
                f"link {self.source} → {self.target}: a packet overtakes others by skipping the "
                "delay, and this link has none",
                remedy="Give the link a delay, or leave reorder out",
            )
        return self

    @property
    def ends(self) -> tuple[str, str]:
        """``(source, target)``, its key in `Topology.links`."""
        return (self.source, self.target)


class Transport(_Model):
    """How streams behave on this network: the settings of its hosts' TCP.

    Attributes:
        congestion: the law by which a sender finds its rate: ``cubic`` (RFC 9438, what Linux, macOS
            and Windows use) or ``reno`` (RFC 5681).
        segment_bytes: payload of a full segment (Ethernet's 1500, less IPv4, TCP and time stamps).
        header_bytes: what each segment has on the wire beside its payload (Ethernet 14, IPv4 20,
            TCP 20, time stamps 12).
        initial_window: segments that may be under way at first (RFC 6928), and after an idle time.
        minimum_rto_s: the shortest retransmission timeout (Linux: 200 ms).
        send_buffer_bytes: what a sender may have under way to one peer before ``send`` waits.
        timeout_s: how long a stream waits for a path before it gives up.
    """

    congestion: Literal["cubic", "reno"] = "cubic"
    segment_bytes: int = Field(default=1_448, ge=1)
    header_bytes: int = Field(default=66, ge=0)
    initial_window: int = Field(default=10, ge=1)
    minimum_rto_s: float = Field(default=0.2, gt=0)
    send_buffer_bytes: int = Field(default=4 * 2**20, gt=0)
    timeout_s: float = Field(default=600.0, gt=0)


class Topology(_Model):
    """A network: nodes by name and links by ``(source, target)``, in the order of the file.

    `transport` is how streams behave on it.

    Raises ``ValueError`` (pydantic's) when there is no node, when a key is not the name of what it
    holds, or when a link ends at a node that is not there.
    """

    name: str = Field(min_length=1)
    nodes: _Nodes = Field(min_length=1)
    links: _Links = Field(default_factory=dict, validate_default=True)
    transport: Transport = Transport()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name, node in self.nodes.items():
            if name != node.name:
                raise ValueError(f"node {node.name} is filed under {name}")
        for ends, link in self.links.items():
            if ends != link.ends:
                raise ValueError(f"link {link.source} → {link.target} is filed under {ends}")
            for end in ends:
                if end not in self.nodes:
                    raise ValueError(f"link {link.source} → {link.target}: there is no node {end}")
        return self

    @classmethod
    def of(
        cls,
        name: str,
        nodes: Iterable[Node],
        links: Iterable[Link],
        transport: Transport | None = None,
    ) -> Self:
        """A topology of these nodes and links, with their keys made for you.

        Raises ``ValueError`` also when two nodes have one name, or two links one direction.
        """
        by_name: dict[str, Node] = {}
        by_ends: dict[tuple[str, str], Link] = {}
        for node in nodes:
            if by_name.setdefault(node.name, node) is not node:
                raise ValueError(f"there are two nodes {node.name}")
        for link in links:
            if by_ends.setdefault(link.ends, link) is not link:
                raise ValueError(f"there are two links {link.source} → {link.target}")
        return cls(name=name, nodes=by_name, links=by_ends, transport=transport or Transport())

    def neighbors(self, name: str) -> tuple[str, ...]:
        """The nodes at the other end of this node's links, in the order of the nodes."""
        found = {b for a, b in self.links if a == name} | {a for a, b in self.links if b == name}
        return tuple(node for node in self.nodes if node in found)

    def links_of(self, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """The links that begin or end at one of these nodes, in the order of the links."""
        wanted = frozenset(names)
        return tuple(ends for ends in self.links if not wanted.isdisjoint(ends))

    def to_networkx(self) -> networkx.DiGraph[str]:
        """This topology as a directed NetworkX graph, without loss; see `topologies.graphs`."""
        from topologies.graphs import to_networkx  # noqa: PLC0415  (it imports this module)

        return to_networkx(self)

    @classmethod
    def from_networkx(cls, graph: networkx.Graph[Any], rules: Rules | None = None) -> Topology:
        """The topology of a NetworkX graph; the inverse of `to_networkx`.

        A graph need not say everything: what it leaves out is derived by the rules, and marked.
        Raises TopologyError.
        """
        from topologies.graphs import from_networkx  # noqa: PLC0415

        return from_networkx(graph, rules)
