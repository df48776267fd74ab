"""The scenario file: what may stand in it, and what is refused.

```yaml
name: evening-churn
description: one sentence                       # optional
timeline:
  - {at: 30 s, crash: edge-3, for: 20 s}        # without `for` it never comes back
  - {at: 60 s, partition: [[cluster=0], [cluster=1, cluster=2]], for: 15 s}
  - {at: 80 s, degrade: {link: [edge-1, gateway-0], bandwidth: 10%, delay: +150 ms}, for: 1 min}
  - {at: 90 s, slow: {nodes: device=raspberry-pi-4, compute: 4x}}
  - {at: 95 s, stop: edge-2, for: 10 s}         # asked to end, and started again
  - {at: 96 s, pause: edge-1, for: 5 s}
  - {at: 97 s, skew: {nodes: edge-*, offset: -200 ms, drift: 50 ppm}, for: 1 min}
  - {at: 98 s, traffic: {from: edge-0, to: gateway-0, rate: 8 Mbit/s}, for: 1 min}
  - {at: 99 s, degrade: {nodes: edge-1, loss: 2 %, burst: 8}, for: 1 min}      # losses in bursts
processes:
  - churn: {nodes: role=client, mean_up: 4 min, mean_down: 30 s, until: 1 h}
```

Nodes are named by a selector: a name, a pattern (``edge-*``), an attribute (``role=client``), a
list of these, or what only a run can know (``host of client-3``: anything with " of " in it that is
no node's name). This file knows the words; whether they fit a topology is found out by
`faults.expand`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from faults.errors import ScenarioError
from faults.event import Amount, Change
from topologies import units
from topologies.bundled import Catalog
from topologies.document import Document, Settings, parse_yaml
from topologies.errors import InputError, did_you_mean, nearest
from topologies.fields import Nanoseconds

_CATALOG = Catalog(Path(__file__).with_name("catalog"), "scenario", ScenarioError)
KINDS = ("crash", "stop", "pause", "slow", "skew", "degrade", "partition", "traffic")
PROCESSES = ("churn",)
CHANGES = ("bandwidth", "delay", "jitter", "loss", "burst", "duplicate", "reorder", "corrupt")
MOST_TIMES = 1_000_000


def _word(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        remedy = (
            "Write a name, a pattern such as edge-*, or attribute=value; quote a name of digits"
        )
        raise InputError("a node was expected here", remedy=remedy)
    return value.strip()


def _selector(value: object) -> tuple[str, ...]:
    return tuple(_word(item) for item in (value if isinstance(value, list | tuple) else (value,)))


def _positive(value: object) -> int:
    instant = units.nanoseconds(value)
    if instant <= 0:
        raise InputError(f'"{value}" is no time at all', remedy='Write it as "20 s"')
    return instant


def _slower(value: object) -> float:
    if isinstance(value, str) and not value.rstrip().endswith("x"):
        remedy = 'Write how many times slower, as "4x"'
        raise InputError(f'"{value}" doesn\'t say how much slower', remedy=remedy)
    times = units.factor(value)
    if not 1 <= times <= MOST_TIMES:
        remedy = f'Write "4x" for four times slower; at most {MOST_TIMES}x'
        raise InputError(f'"{value}" is no slowdown', remedy=remedy)
    return times


def _bandwidth(value: object) -> Amount:
    if _relative(value):
        times = units.factor(value)
        if not 1 / MOST_TIMES <= times <= 1:
            remedy = "Write 0.0001 % to 100 %; nothing at all is a partition"
            raise InputError(f'"{value}" doesn\'t degrade a bandwidth', remedy=remedy)
        return Amount("relative", times)
    amount = Amount("absolute", units.bandwidth(value))
    if amount.value <= 0:
        raise InputError("a link needs some bandwidth", remedy="Nothing at all is a partition")
    return amount


def _delay(value: object) -> Amount:
    if _relative(value):
        times = units.factor(value)
        if not 1 <= times <= MOST_TIMES:
            remedy = f'Write "3x" or "300 %" for three times as long; at most {MOST_TIMES}x'
            raise InputError(f'"{value}" makes no delay longer', remedy=remedy)
        return Amount("relative", times)
    return _plus(value, units.duration)


def _loss(value: object) -> Amount:
    amount = _plus(value, units.fraction)
    if amount.value >= 1:
        raise InputError("a link that loses everything is no link", remedy="Write a partition")
    return amount


def _chance(value: object) -> Amount:
    amount = _plus(value, units.fraction)
    if amount.value >= 1:
        raise InputError(f'"{value}" would be every packet', remedy="Write less than 100 %")
    return amount


def _burst(value: object) -> Amount:
    remedy = 'Write how many packets are lost in a row on average, as "5"; it is 1 or more'
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise InputError(f'"{value}" is no length of a burst', remedy=remedy)
    return Amount("absolute", float(value))


def _drift(value: object) -> float:
    part = units.drift(value)
    if part <= -1:
        remedy = "A clock loses less than 100 %: to freeze a node, write a pause"
        raise InputError(f'with "{value}" time would stand still or run backwards', remedy=remedy)
    return part


def _rate(value: object) -> float:
    rate = units.bandwidth(value)
    if rate <= 0:
        raise InputError(f'"{value}" is no traffic', remedy='Write it as "5 Mbit/s"')
    return rate


def _relative(value: object) -> bool:
    return isinstance(value, str) and value.rstrip().endswith(("%", "x"))


def _plus(value: object, read: Callable[[object], float]) -> Amount:
    if isinstance(value, str) and value.startswith("+"):
        return Amount("plus", read(value[1:].lstrip()))
    return Amount("absolute", read(value))


Selector = Annotated[
    tuple[str, ...], BeforeValidator(_selector, json_schema_input_type=str | list[str])
]
Name = Annotated[str, BeforeValidator(_word, json_schema_input_type=str)]
Span = Annotated[int, BeforeValidator(_positive, json_schema_input_type=str)]
Slower = Annotated[float, BeforeValidator(_slower, json_schema_input_type=str)]
BandwidthChange = Annotated[Amount, BeforeValidator(_bandwidth, json_schema_input_type=str)]
DelayChange = Annotated[Amount, BeforeValidator(_delay, json_schema_input_type=str)]
LossChange = Annotated[Amount, BeforeValidator(_loss, json_schema_input_type=str)]
ChanceChange = Annotated[Amount, BeforeValidator(_chance, json_schema_input_type=str)]
BurstChange = Annotated[Amount, BeforeValidator(_burst, json_schema_input_type=float)]
Offset = Annotated[int, BeforeValidator(units.offset, json_schema_input_type=str)]
Drift = Annotated[float, BeforeValidator(_drift, json_schema_input_type=str)]
Rate = Annotated[float, BeforeValidator(_rate, json_schema_input_type=str)]


class Slow(Settings):
    """Nodes compute slower: ``{nodes: client-2, compute: 4x}``."""

    nodes: Selector
    compute: Slower


class Degrade(Settings):
    """Links get worse: one link between neighbors, or all the links of some nodes.

    ``bandwidth`` is absolute (``1 Mbit/s``, at most) or relative (``10 %``); ``delay`` and
    ``jitter`` absolute, relative (``3x``) or more (``+150 ms``); ``loss``, ``duplicate``,
    ``reorder`` and ``corrupt`` absolute (``2 %``) or more (``+2 %``); ``burst`` is how many losses
    come in a row on average. With ``oneway`` only from the first end of the link to the second.
    """

    link: tuple[Name, Name] | None = None
    nodes: Selector | None = None
    oneway: StrictBool = False
    bandwidth: BandwidthChange | None = None
    delay: DelayChange | None = None
    jitter: DelayChange | None = None
    loss: LossChange | None = None
    burst: BurstChange | None = None
    duplicate: ChanceChange | None = None
    reorder: ChanceChange | None = None
    corrupt: ChanceChange | None = None

    @model_validator(mode="after")
    def _says_whom_and_what(self) -> Degrade:
        if (self.link is None) == (self.nodes is None):
            remedy = "Write link: [a, b] for one link, or nodes: for all the links of some nodes"
            raise InputError("a degrade needs either a link or nodes", remedy=remedy)
        if self.oneway and self.link is None:
            raise InputError("oneway is for one link", remedy="Write link: [a, b]")
        if self.change == Change():
            remedy = f"Give at least one of {', '.join(CHANGES)}"
            raise InputError("this degrades nothing", remedy=remedy)
        if self.loss and self.burst and self.loss.how == "absolute":
            least = self.loss.value / (1 - self.loss.value)
            if least > self.burst.value > 1:
                problem = f"losses can't be so many in bursts as short as {self.burst.value:.4g}"
                remedy = f"Make the bursts {least:.4g} or longer, or leave burst out"
                raise InputError(problem, remedy=remedy)
        return self

    @property
    def change(self) -> Change:
        """What it does to a link."""
        return Change(**{name: getattr(self, name) for name in CHANGES})


class Skew(Settings):
    """Clocks are off: ``{nodes: client-2, offset: -200 ms, drift: 50 ppm}``.

    ``offset`` is how far they are ahead at once, ``drift`` how much faster they run; both may be
    negative. At the fault's end they are right again.
    """

    nodes: Selector
    offset: Offset | None = None
    drift: Drift | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Skew:
        if not self.offset and not self.drift:
            remedy = "Write offset: +200 ms, drift: 50 ppm, or both"
            raise InputError("this changes no clock", remedy=remedy)
        return self


class Background(Settings):
    """Bytes of others, from each of some nodes to each of others, along their route.

    ``rate`` is what each pair takes of the wire where it can.
    """

    source: Selector = Field(alias="from")
    target: Selector = Field(alias="to")
    rate: Rate


class Partition(Settings):
    """Groups of nodes that don't hear each other: ``[[cluster=0], [cluster=1]]``.

    With ``{groups: [[a], [b]], oneway: true}`` nothing gets from a group to the groups after it;
    the other way is open.
    """

    groups: tuple[Selector, ...]
    oneway: StrictBool = False

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


class Fault(Settings):
    """An entry of ``timeline``: when, what, and for how long."""

    at: Nanoseconds
    for_: Span | None = Field(default=None, alias="for")
    id: Annotated[str, BeforeValidator(_word)] | None = None
    crash: Selector | None = None
    stop: Selector | None = None
    pause: Selector | None = None
    slow: Slow | None = None
    skew: Skew | None = None
    degrade: Degrade | None = None
    partition: Partition | None = None
    traffic: Background | None = None

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
        return self

    @classmethod
    def remedy_for(cls, key: str) -> str:
        """The kinds of fault there are, apart from the other settings."""
        match = nearest(key, cls.settings())
        question = f'Did you mean "{match}"? ' if match else ""
        return f"{question}The kinds of fault are {', '.join(KINDS)}; beside one stand at, for, id"


class Churn(Settings):
    """Nodes crash and come back, each by itself.

    Times up and times down are exponential with these means; the first crash comes after a time up.
    Nobody crashes after ``until``.
    """

    nodes: Selector
    mean_up: Span
    mean_down: Span
    until: Span = 3600 * 10**9


class Process(Settings):
    """An entry of ``processes``: faults by the laws of chance."""

    churn: Churn

    @classmethod
    def remedy_for(cls, key: str) -> str:
        """The kinds of process there are."""
        return did_you_mean(key, PROCESSES, what="processes")


class ScenarioFile(Settings):
    """The whole file."""

    name: str | None = None
    description: str = ""
    timeline: tuple[Fault, ...] = ()
    processes: tuple[Process, ...] = ()

    @model_validator(mode="after")
    def _is_a_scenario(self) -> ScenarioFile:
        if not {"timeline", "processes"} & self.model_fields_set:
            raise InputError("this scenario has neither a timeline nor processes")
        return self


@dataclass(frozen=True)
class Scenario:
    """What goes wrong, and when, in the words of its file. `faults.expand` makes events of it.

    Attributes:
        name: the file's own, or else the file's name.
        description: a sentence for people.
        timeline: faults at stated times, in the file's order.
        processes: faults by chance.
        origin: the file it was read from, for errors.
    """

    name: str
    description: str = ""
    timeline: tuple[Fault, ...] = ()
    processes: tuple[Process, ...] = ()
    origin: Document = field(
        default_factory=lambda: Document("scenario", None, failure=ScenarioError),
        repr=False,
        compare=False,
    )


def catalog() -> tuple[str, ...]:
    """The names of the bundled scenarios."""
    return _CATALOG.names()


def load(name_or_path: str | Path) -> Scenario:
    """The bundled scenario of this name, or the one in this file.

    Raises ScenarioError when there is neither, or when the file is no scenario.
    """
    return parse(*_CATALOG.read(name_or_path))


def parse(text: str, file: str = "<text>") -> Scenario:
    """The scenario that this YAML text is; *file* is its name in errors. Raises ScenarioError."""
    document = parse_yaml(text, file, ScenarioError)
    content: Mapping[str, object] = document.mapping()
    whole = document.read(ScenarioFile, content)
    return Scenario(
        name=whole.name or Path(file).stem,
        description=whole.description,
        timeline=whole.timeline,
        processes=whole.processes,
        origin=document,
    )
