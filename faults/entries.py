"""What can go wrong, as a scenario file writes it: a model for each kind of fault.

The descriptions here are those of the reference and of the JSON schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from faults.event import Change
from faults.values import (
    BandwidthChange,
    BurstChange,
    ChanceChange,
    DelayChange,
    Drift,
    Instant,
    LossChange,
    MemoryChange,
    Name,
    Offset,
    Rate,
    Selector,
    Slower,
    Span,
    Unit,
)
from topologies.document import Settings
from topologies.errors import InputError, did_you_mean, nearest

CHANGES = ("bandwidth", "delay", "jitter", "loss", "burst", "duplicate", "reorder", "corrupt")
KINDS = (
    "crash", "stop", "pause", "leave", "join", "slow", "squeeze", "skew", "full_disk", "degrade",
    "loss", "burst_loss", "corrupt", "duplicate", "reorder", "cut", "flap", "partition", "nat",
    "traffic", "trace",
)  # fmt: skip
SECOND = 10**9

Absence = Literal["leave", "crash", "stop", "pause"]


def _absence(value: object) -> object:
    known = get_args(Absence)
    if isinstance(value, str) and value not in known:
        remedy = did_you_mean(value, known, what="ways of being away")
        raise InputError(f'"{value}" is no way of being away', remedy=remedy)
    return value


Away = Annotated[Absence, BeforeValidator(_absence)]


class Slow(Settings):
    """Nodes compute slower. What is being computed takes longer from then on."""

    nodes: Selector = Field(description="whom it strikes")
    compute: Slower = Field(description="how many times slower")


class Squeeze(Settings):
    """Others take memory: of what a device grants to programs, only so much is left.

    What a program holds already stays; more it gets once there is room.
    """

    nodes: Selector = Field(description="whom it strikes")
    memory: MemoryChange = Field(description="what is left: a share of what it was, or at most")


class Skew(Settings):
    """Clocks are off. At the fault's end they are right again."""

    nodes: Selector = Field(description="whom it strikes")
    offset: Offset | None = Field(default=None, description="how far they are ahead at once")
    drift: Drift | None = Field(default=None, description="how much faster they run")

    @model_validator(mode="after")
    def _changes_something(self) -> Skew:
        if not self.offset and not self.drift:
            remedy = "Write offset: +200 ms, drift: 50 ppm, or both"
            raise InputError("this changes no clock", remedy=remedy)
        return self


class OnLinks(Settings):
    """What strikes links: one link between neighbors, or all the links of some nodes."""

    link: tuple[Name, Name] | None = Field(default=None, description="two neighbors")
    nodes: Selector | None = Field(default=None, description="or nodes: all their links")
    oneway: StrictBool = Field(
        default=False,
        description="only from the first end of the link to the second; only what the nodes send",
    )

    @model_validator(mode="after")
    def _says_whom(self) -> OnLinks:
        if (self.link is None) == (self.nodes is None):
            remedy = "Write link: [a, b] for one link, or nodes: for all the links of some nodes"
            raise InputError("this needs either a link or nodes", remedy=remedy)
        return self


class Degrade(OnLinks):
    """Links get worse: one link between neighbors, or all the links of some nodes."""

    bandwidth: BandwidthChange | None = Field(
        default=None, description="at most so much, or a share of what it was"
    )
    delay: DelayChange | None = Field(
        default=None, description="at least so long, so many times as long, or so much longer"
    )
    jitter: DelayChange | None = Field(default=None, description="as delay")
    loss: LossChange | None = Field(
        default=None, description="the share of packets lost: at least, or so many more"
    )
    burst: BurstChange | None = Field(
        default=None, description="how many losses come in a row on average"
    )
    duplicate: ChanceChange | None = Field(
        default=None, description="the share of packets that come twice, as loss"
    )
    reorder: ChanceChange | None = Field(
        default=None, description="the share of packets that overtake others, as loss"
    )
    corrupt: ChanceChange | None = Field(
        default=None, description="the share of packets that come damaged, as loss"
    )

    @model_validator(mode="after")
    def _says_what(self) -> Degrade:
        if self.change == Change():
            remedy = f"Give at least one of {', '.join(CHANGES)}"
            raise InputError("this degrades nothing", remedy=remedy)
        refuse_dense_bursts(self.change)
        return self

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(**{name: getattr(self, name) for name in CHANGES})


class Loss(OnLinks):
    """Links lose packets, each by itself."""

    chance: LossChange = Field(description="the share of packets: at least, or so many more")

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(loss=self.chance)


class BurstLoss(OnLinks):
    """Links lose packets in bursts (a Gilbert model): few or many, several in a row."""

    chance: LossChange = Field(description="the share of packets: at least, or so many more")
    burst: BurstChange = Field(description="how many losses come in a row on average")

    @model_validator(mode="after")
    def _can_be(self) -> BurstLoss:
        refuse_dense_bursts(self.change)
        return self

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(loss=self.chance, burst=self.burst)


class Corrupt(OnLinks):
    """Links damage packets: a datagram is no message any more, a stream sends the packet again."""

    chance: ChanceChange = Field(description="the share of packets: at least, or so many more")

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(corrupt=self.chance)


class Duplicate(OnLinks):
    """Links deliver packets twice: a datagram comes twice, a stream only once."""

    chance: ChanceChange = Field(description="the share of packets: at least, or so many more")

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(duplicate=self.chance)


class Reorder(OnLinks):
    """Packets overtake those before them, by skipping the link's delay."""

    chance: ChanceChange = Field(description="the share of packets: at least, or so many more")

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(reorder=self.chance)


Worse: TypeAlias = Degrade | Loss | BurstLoss | Corrupt | Duplicate | Reorder
"""What makes links worse without cutting them: spellings of one another."""


class Cut(OnLinks):
    """Links carry nothing; what has another way takes it."""


class Flap(OnLinks):
    """Links are cut again and again: down, up, down, up, until ``for`` is over."""

    down: Span = Field(description="how long they are cut each time")
    up: Span = Field(description="how long they are whole in between")


class Partition(Settings):
    """Groups of nodes don't hear each other, whatever links there are between them."""

    groups: tuple[Selector, ...] = Field(
        description="two or more, one of which may be `others`; the list alone will do"
    )
    oneway: StrictBool = Field(
        default=False, description="nothing gets from a group to those after it; the other way does"
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_list(cls, given: Any) -> Any:
        return {"groups": given} if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _has_sides(self) -> Partition:
        if len(self.groups) < 2:
            remedy = "Write at least two lists of nodes, as [[cluster=0], [cluster=1]]"
            raise InputError("a partition needs two sides", remedy=remedy)
        return self


class Nat(Settings):
    """Nodes can't be called from outside; what they call can answer them.

    With a gateway others reach them all the same: it relays. Of several gateways the nearest does,
    and those behind the same one are not outside for each other.
    """

    nodes: Selector = Field(description="who can't be called")
    gateway: Selector | None = Field(default=None, description="who relays to them")


class Background(Settings):
    """Bytes of others, from each of some nodes to each of others, along their route."""

    source: Selector = Field(alias="from", description="where it comes from")
    target: Selector = Field(alias="to", description="where it goes")
    rate: Rate = Field(description="what each pair takes of the wire where it can")


class Trace(Settings):
    """What was recorded happens again: a link's bandwidth, or whether devices are there.

    Without ``for`` it is played once, with it again and again until then. A trace never makes a
    link better than it is.
    """

    file: str = Field(
        description="a packet-opportunity file (Mahimahi), lines of `timestamp bandwidth`, or "
        "availability as JSON (FedScale); beside the scenario, or a path from there",
        min_length=1,
    )
    link: tuple[Name, Name] | None = Field(default=None, description="of bandwidth: two neighbors")
    nodes: Selector | None = Field(
        default=None, description="or nodes: all their links; of availability: whom it strikes"
    )
    oneway: StrictBool = Field(default=False, description="of bandwidth: as in degrade")
    window: Span = Field(
        default=SECOND, description="of packet opportunities: over how long they are averaged"
    )
    unit: Unit = Field(default=1e6, description="of `timestamp bandwidth`: in which it is")
    away: Away = Field(
        default="leave", alias="as", description="of availability: what being away means"
    )

    @model_validator(mode="after")
    def _says_whom(self) -> Trace:
        if (self.link is None) == (self.nodes is None):
            remedy = "Write link: [a, b] for one link, or nodes: for all the links of some nodes"
            raise InputError("this needs either a link or nodes", remedy=remedy)
        return self


class Fault(Settings):
    """An entry of ``timeline``: when, what, and for how long."""

    at: Instant = Field(description="when it begins, after the start")
    for_: Span | None = Field(
        default=None, alias="for", description="how long it lasts; without it, it never ends"
    )
    id: Name | None = Field(
        default=None, description="its name in tables and traces; else its position in the file"
    )
    crash: Selector | None = Field(
        default=None,
        description="Nodes die at once, and forget all but their disk. At the end they start anew.",
    )
    stop: Selector | None = Field(
        default=None,
        description="Programs are asked to end, and may clean up. At the end they start anew.",
    )
    pause: Selector | None = Field(
        default=None, description="Nodes freeze. They lose nothing and answer late."
    )
    leave: Selector | None = Field(
        default=None,
        description="Nodes are asked to end, and then are gone from the network. At the end they "
        "join again.",
    )
    join: Selector | None = Field(
        default=None,
        description="Nodes that were not there join. With ``for`` they leave again after it.",
    )
    slow: Slow | None = None
    squeeze: Squeeze | None = None
    skew: Skew | None = None
    full_disk: Selector | None = Field(
        default=None, description="Nothing more can be written to the nodes' disks."
    )
    degrade: Degrade | None = None
    loss: Loss | None = None
    burst_loss: BurstLoss | None = None
    corrupt: Corrupt | None = None
    duplicate: Duplicate | None = None
    reorder: Reorder | None = None
    cut: Cut | None = None
    flap: Flap | None = None
    partition: Partition | None = None
    nat: Nat | None = None
    traffic: Background | None = None
    trace: Trace | None = None

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Fault:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            problem = f"an entry is one fault, not {' and '.join(given)}" if given else "no fault"
            raise InputError(problem, remedy=f"Write one of {', '.join(KINDS)}")
        if self.flap is not None and self.for_ is None:
            raise InputError("a flap needs an end", remedy="Write for: 1 min beside it")
        if self.join is not None and not self.at:
            remedy = "Write when they join; who is there from the start need not be named"
            raise InputError("at the start there is nobody to join yet", remedy=remedy)
        return self

    @classmethod
    def remedy_for(cls, key: str) -> str:
        """The kinds of fault there are, apart from the other settings."""
        match = nearest(key, cls.settings())
        question = f'Did you mean "{match}"? ' if match else ""
        return f"{question}The kinds of fault are {', '.join(KINDS)}; beside one stand at, for, id"


def refuse_dense_bursts(change: Change) -> None:
    """So many losses can't come in bursts so short. Raises InputError."""
    if change.loss and change.burst and change.loss.how == "absolute":
        least = change.loss.value / (1 - change.loss.value)
        if least > change.burst.value > 1:
            problem = f"losses can't be so many in bursts as short as {change.burst.value:.4g}"
            remedy = f"Make the bursts {least:.4g} or longer, or leave burst out"
            raise InputError(problem, remedy=remedy)
