"""What a link and the streams on it can be told in a file, and how that is written again.

```yaml
bandwidth: 10 Mbit/s                           # what is on the wire, headers counted
delay: 20 ms                                   # one way
jitter: 2 ms                                   # or {spread: 2 ms, shape: normal}
loss: 1 %                                      # or {mean: 1 %, burst: 5}
duplicate: 0.1 %                               # likewise reorder and corrupt
queue: 256 KiB                                 # or codel, or {limit: 256 KiB, discipline: codel}
medium: wifi-1                                 # links that take turns
```

A shape of jitter is a name or the path of a table (`topologies.jitter`). Each key means one thing
and is replaced as a whole: a link that says ``jitter: 5 ms`` has nothing left of the jitter of its
kind, the shape neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, Field, model_validator

from topologies import units
from topologies.document import Document, Place, Settings
from topologies.errors import InputError, near
from topologies.fields import BitsPerSecond, Bytes, Fraction, Seconds, one_of
from topologies.jitter import find_table, is_table, named_shape
from topologies.model import Link, Transport

DISCIPLINES: tuple[str, ...] = get_args(Link.model_fields["queue"].annotation)
CONGESTION: tuple[str, ...] = get_args(Transport.model_fields["congestion"].annotation)
Ends = tuple[str, str]

_Some = Annotated[Bytes, Field(gt=0)]
_Discipline = Annotated[str, one_of(DISCIPLINES, what="disciplines of a queue")]


class JitterSettings(Settings):
    """How far delays stray: ``2 ms``, or ``{spread: 2 ms, shape: normal}``."""

    shorthand: ClassVar[tuple[str, ...]] = ("2 ms",)

    spread: Seconds = Field(
        description="How far delays stray: at most so far where the shape is uniform, else their "
        "standard deviation"
    )
    shape: Annotated[str, AfterValidator(named_shape)] = Field(
        default="uniform",
        description="uniform, normal, pareto, paretonormal, or the path of a table as netem's "
        ".dist files are (whole numbers, # comments, ascending; 8192 is one spread), relative to "
        "this file",
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_time(cls, given: Any) -> Any:
        return given if isinstance(given, Mapping) else _checked("spread", given, units.duration)


class LossSettings(Settings):
    """How many packets are lost: ``1 %``, or ``{mean: 1 %, burst: 5}`` for five in a row."""

    shorthand: ClassVar[tuple[str, ...]] = ("1 %",)

    mean: Fraction = Field(description="The share of packets that are lost in the long run")
    burst: float = Field(
        default=1.0, ge=1, description="How many in a row on average; 1: each by itself"
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_fraction(cls, given: Any) -> Any:
        return given if isinstance(given, Mapping) else _checked("mean", given, units.fraction)


class QueueSettings(Settings):
    """What can wait before a link: ``256 KiB``, ``codel``, or both as limit and discipline."""

    shorthand: ClassVar[tuple[str, ...]] = ("256 KiB", "codel")

    limit: _Some | None = Field(
        default=None, description="What can wait; without it, what suits the bandwidth"
    )
    discipline: _Discipline = Field(
        default="drop-tail",
        description="Who goes when it is full: the last, or who waited too long (codel)",
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_word_or_a_size(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return given
        if isinstance(given, str) and not given.strip()[:1].isdigit():
            return {"discipline": given.strip()}
        if units.size(given) == 0:
            remedy = "Write how much can wait, or leave it out for what suits the bandwidth"
            raise InputError("a queue without any room passes nothing on", remedy=remedy)
        return {"limit": given}


class Direction(Settings):
    """What one direction of a link can be told."""

    bandwidth: BitsPerSecond | None = Field(
        default=None, description="What is on the wire, headers counted"
    )
    delay: Seconds | None = Field(
        default=None, description="One way, without transmission and queues"
    )
    jitter: JitterSettings | None = Field(
        default=None, description="How far delays stray, or that and the shape"
    )
    loss: LossSettings | None = Field(
        default=None, description="How many packets are lost, each by itself or in bursts"
    )
    duplicate: Fraction | None = Field(default=None, description="Packets that come twice")
    reorder: Fraction | None = Field(
        default=None, description="Packets that overtake others, by skipping the delay"
    )
    corrupt: Fraction | None = Field(default=None, description="Packets that are damaged")
    queue: QueueSettings | None = Field(
        default=None, description="What can wait before the link, and who goes when that is full"
    )
    medium: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Links of one medium take turns, as stations of one Wi-Fi do, both directions "
        "too; one link alone on a medium is an error",
    )


SAID_OF_A_DIRECTION = frozenset(Direction.model_fields)


class LinkKind(Direction):
    """What links can be told: both directions at once, or each on its own."""

    up: Direction = Field(
        default=Direction(), description="What holds only from the first node to the second"
    )
    down: Direction = Field(
        default=Direction(), description="What holds only from the second node to the first"
    )


class TransportSettings(Settings):
    """How streams behave: a `Transport`, in the units of files."""

    congestion: Annotated[str, one_of(CONGESTION, what="laws of congestion")] | None = Field(
        default=None,
        description="How a sender finds its rate; cubic is what Linux, macOS and Windows have",
    )
    segment: _Some | None = Field(
        default=None, description="Payload of a full segment; 1448 B where it is not said"
    )
    header: Bytes | None = Field(
        default=None, description="What a segment has on the wire besides; 66 B"
    )
    initial_window: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Segments that may be under way at first; 10"
    )
    minimum_rto: Annotated[Seconds, Field(gt=0)] | None = Field(
        default=None, description="The shortest retransmission timeout; 200 ms"
    )
    send_buffer: _Some | None = Field(
        default=None,
        description="What a sender may have under way to one peer before it waits; 4 MiB",
    )
    timeout: Annotated[Seconds, Field(gt=0)] | None = Field(
        default=None, description="How long a stream waits for a path; 10 min"
    )

    def fields(self) -> dict[str, object]:
        """What of a `Transport` this says."""
        told = {field: getattr(self, name) for name, field in _TRANSPORT.items()}
        return {field: value for field, value in told.items() if value is not None}


_TRANSPORT = {
    "congestion": "congestion",
    "segment": "segment_bytes",
    "header": "header_bytes",
    "initial_window": "initial_window",
    "minimum_rto": "minimum_rto_s",
    "send_buffer": "send_buffer_bytes",
    "timeout": "timeout_s",
}


class LinkReader:
    """Makes the fields of a `Link` out of what a document says of it; reads each table once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._tables: dict[str, tuple[float, ...]] = {}

    def fields(self, told: Mapping[str, Any], place: Place) -> dict[str, object]:
        """What of a `Link` the settings of a `Direction` say that stand at this place.

        Raises the document's error.
        """
        plain = {"bandwidth": "bandwidth_bps", "delay": "delay_s"}
        fields: dict[str, object] = {}
        for name, value in told.items():
            if isinstance(value, JitterSettings):
                fields["jitter_s"] = value.spread
                if "shape" in value.model_fields_set:
                    fields |= self._shape(value.shape, place)
            elif isinstance(value, LossSettings):
                fields["loss"] = value.mean
                if "burst" in value.model_fields_set:
                    fields["burst"] = value.burst
            elif isinstance(value, QueueSettings):
                if value.limit is not None:
                    fields["queue_bytes"] = value.limit
                if "discipline" in value.model_fields_set:
                    fields["queue"] = value.discipline
            else:
                fields[plain.get(name, name)] = value
        return fields

    def _shape(self, shape: str, place: Place) -> dict[str, object]:
        if not is_table(shape):
            return {"jitter_shape": shape}
        if shape not in self._tables:
            self._tables[shape] = find_table(self._document, shape, (*place, "jitter"))
        return {"jitter_shape": "table", "jitter_table": self._tables[shape]}


def check_media(
    document: Document, links: Mapping[Ends, Link], places: Mapping[Ends, Place]
) -> None:
    """That at least two links take turns on each medium; *places* is where they stand.

    Raises the document's error.
    """
    members = Counter(link.medium for link in links.values() if link.medium)
    for ends, link in links.items():
        if members[link.medium] == 1:
            like = near(link.medium, [name for name in members if name != link.medium], most=1)
            question = f'Did you mean "{like[0]}"? ' if like else ""
            raise document.error(
                f'{link.source} → {link.target} is alone on the medium "{link.medium}"',
                (*places[ends], "medium"),
                f"{question}Give it to the links that take turns with this one, or leave it out",
            )


def describe_link(link: Link) -> dict[str, str]:
    """A link as a file writes it: ``{"bandwidth": "10 Mbit/s", "loss": "{mean: 1 %, burst: 5}"}``.

    Only what differs from the defaults. A table of jitter is told by its size.
    """
    written = {
        "bandwidth": units.show_bandwidth(link.bandwidth_bps),
        "delay": units.show_duration(link.delay_s),
    }
    values = len(link.jitter_table)
    shape = f"table of {values} values" if values else str(link.jitter_shape)
    spread, mean = units.show_duration(link.jitter_s), units.show_fraction(link.loss)
    if shape != "uniform":
        written["jitter"] = f"{{spread: {spread}, shape: {shape}}}"
    elif link.jitter_s:
        written["jitter"] = spread
    if link.burst != 1:
        written["loss"] = f"{{mean: {mean}, burst: {units.show_number(link.burst)}}}"
    elif link.loss:
        written["loss"] = mean
    for name in ("duplicate", "reorder", "corrupt"):
        if chance := getattr(link, name):
            written[name] = units.show_fraction(chance)
    limit = None if link.queue_bytes is None else units.show_size(link.queue_bytes)
    if link.queue != "drop-tail":
        written["queue"] = f"{{limit: {limit}, discipline: {link.queue}}}" if limit else link.queue
    elif limit:
        written["queue"] = limit
    if link.medium:
        written["medium"] = link.medium
    return written


def describe_kind(kind: LinkKind) -> tuple[str, str, str]:
    """What a kind of link says of both directions, of the way up and of the way down."""
    return _described(kind), _described(kind.up), _described(kind.down)


def _described(direction: Direction) -> str:
    told: list[str] = []
    if direction.bandwidth is not None:
        told.append(units.show_bandwidth(direction.bandwidth))
    if direction.delay is not None:
        told.append(units.show_duration(direction.delay))
    if direction.jitter is not None:
        told.append(f"jitter {units.show_duration(direction.jitter.spread)}")
    if direction.loss is not None:
        told.append(f"loss {units.show_fraction(direction.loss.mean)}")
    return ", ".join(told)


def describe_transport(transport: Transport) -> dict[str, str]:
    """A transport as a file writes it, only what differs from the defaults."""
    shows = {
        "segment": units.show_size,
        "header": units.show_size,
        "minimum_rto": units.show_duration,
        "send_buffer": units.show_size,
        "timeout": units.show_duration,
    }
    differs = transport.model_dump(exclude_defaults=True)
    return {
        name: shows.get(name, str)(differs[field])
        for name, field in _TRANSPORT.items()
        if field in differs
    }


def _checked(name: str, given: object, read: Any) -> dict[str, object]:
    """A mapping of this one setting, read once already so that an error names the whole."""
    read(given)
    return {name: given}
