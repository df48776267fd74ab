"""Toxiproxy's toxics: what each is (a frozen model), and what it does to one connection, one way.

Names, attributes, units and meaning are Toxiproxy's (https://github.com/Shopify/toxiproxy, README):
each connection on its own, milliseconds, kB/s of 1,000 bytes. What a toxic does is a pure function
of what comes and when (`Law.take`); `broker.proxy.stages` has the timers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.proxy.items import Ending, Item

Stream = Literal["upstream", "downstream"]
Timed = tuple[int, Item]
"""What goes on, and not before when: nanoseconds of the clock that `take` is told."""

MILLISECOND = 1_000_000
_SLICE_MS = 10  # so long what a rate lets through takes at most until it is handed on
_HELD_MS = 20
_LEAST_HELD = 64 * 2**10

_Count = Annotated[int, Field(ge=0, le=2**53)]


class Attributes(BaseModel):
    """What a toxic is set to. All of them may be left out, and are 0 then, as in Toxiproxy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    def law(self, chance: random.Random) -> Law:
        """What it does to a connection that begins now."""
        raise NotImplementedError

    @property
    def held_bytes(self) -> int:
        """How many bytes it may have to hold for a sender to notice nothing but its effect."""
        return _LEAST_HELD


class Law:
    """What a toxic does to one connection, one way. Passes everything on, unless said otherwise."""

    restarts = False
    """Whether what comes takes the place of what waits."""

    def follow(self, before: Law) -> None:
        """It takes the place of another one, because the toxic was set to something else."""

    def begin(self, _: int) -> Iterator[Timed]:
        """What goes on by itself, from this instant on."""
        yield from ()

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        """Something has come; gives what goes on, in order."""
        yield now_ns, item


class Latency(Attributes):
    """Delays everything by `latency` ± `jitter`, evenly spread; nothing overtakes."""

    kind: ClassVar[str] = "latency"
    latency: _Count = 0
    jitter: _Count = 0

    def law(self, chance: random.Random) -> Law:
        return _Delay(self, chance)

    @property
    def held_bytes(self) -> int:
        return 32 * 2**20  # Toxiproxy's 1,024 chunks of 32 KiB


class _Delay(Law):
    def __init__(self, toxic: Latency, chance: random.Random) -> None:
        self._toxic, self._chance = toxic, chance
        self._last_ns = 0

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        delay = float(self._toxic.latency)
        if self._toxic.jitter:
            delay += self._chance.uniform(-self._toxic.jitter, self._toxic.jitter)
        self._last_ns = max(self._last_ns, now_ns + round(delay * MILLISECOND))
        yield self._last_ns, item


class Bandwidth(Attributes):
    """Lets `rate` kB a second through; 0 is no limit."""

    kind: ClassVar[str] = "bandwidth"
    rate: _Count = 0

    def law(self, _: random.Random) -> Law:
        return _Rate(self.rate) if self.rate else Law()

    @property
    def held_bytes(self) -> int:
        return max(_LEAST_HELD, self.rate * _HELD_MS)


class _Rate(Law):
    def __init__(self, rate: int) -> None:
        self._rate = rate  # bytes a millisecond
        self._free_ns = 0

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        if isinstance(item, Ending):
            yield max(now_ns, self._free_ns), item
            return
        whole, step = memoryview(item), self._rate * _SLICE_MS
        for begin in range(0, len(whole), step):
            part = whole[begin : begin + step]
            took_ns = len(part) * MILLISECOND // self._rate
            self._free_ns = max(self._free_ns, now_ns) + took_ns
            yield self._free_ns, part


class SlowClose(Attributes):
    """Delays the end of the connection by `delay`."""

    kind: ClassVar[str] = "slow_close"
    delay: _Count = 0

    def law(self, _: random.Random) -> Law:
        return _LateEnd(self.delay)


class _LateEnd(Law):
    def __init__(self, delay: int) -> None:
        self._delay_ns = delay * MILLISECOND

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        yield now_ns + (self._delay_ns if item is Ending.FINISH else 0), item


class Timeout(Attributes):
    """Lets nothing through, and closes the connection once nothing has come for `timeout`; with 0
    when it is taken away.
    """

    kind: ClassVar[str] = "timeout"
    timeout: _Count = 0

    def law(self, _: random.Random) -> Law:
        return _Silence(self.timeout)


class _Silence(Law):
    restarts = True

    def __init__(self, timeout: int) -> None:
        self._timeout_ns = timeout * MILLISECOND

    def begin(self, now_ns: int) -> Iterator[Timed]:
        if self._timeout_ns:
            yield now_ns + self._timeout_ns, Ending.CLOSE

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        if item is Ending.FINISH:
            yield now_ns, Ending.CLOSE
        elif isinstance(item, Ending):
            yield now_ns, item
        else:
            yield from self.begin(now_ns)


class ResetPeer(Attributes):
    """Resets the connection `timeout` after the first bytes; lets nothing through."""

    kind: ClassVar[str] = "reset_peer"
    timeout: _Count = 0

    def law(self, _: random.Random) -> Law:
        return _Reset(self.timeout)


class _Reset(Law):
    def __init__(self, timeout: int) -> None:
        self._timeout_ns = timeout * MILLISECOND
        self._begun = False

    def take(self, now_ns: int, _: Item) -> Iterator[Timed]:
        if not self._begun:
            self._begun = True
            yield now_ns + self._timeout_ns, Ending.RESET


class Slicer(Attributes):
    """Cuts what comes into pieces of `average_size` ± `size_variation` bytes, `delay` microseconds
    apart.
    """

    kind: ClassVar[str] = "slicer"
    average_size: _Count = 0
    size_variation: _Count = 0
    delay: _Count = 0

    def law(self, chance: random.Random) -> Law:
        return _Slices(self, chance)


class _Slices(Law):
    def __init__(self, toxic: Slicer, chance: random.Random) -> None:
        self._toxic, self._chance = toxic, chance
        self._least = max(toxic.average_size, 1)
        self._free_ns = 0

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        if isinstance(item, Ending):
            yield max(now_ns, self._free_ns), item
            return
        whole = memoryview(item)
        begin = 0
        for end in (*self._cuts(0, len(whole)), len(whole)):
            self._free_ns = max(self._free_ns, now_ns)
            yield self._free_ns, whole[begin:end]
            self._free_ns += self._toxic.delay * 1_000
            begin = end

    def _cuts(self, begin: int, end: int) -> Iterator[int]:
        """Where a piece is cut: near its middle, and each half likewise, while it is too long."""
        spread = self._toxic.size_variation
        if end - begin - self._least <= spread:
            return
        middle = begin + (end - begin) // 2
        if spread:
            middle += self._chance.randrange(-spread, spread)
        middle = min(max(middle, begin + 1), end - 1)
        yield from self._cuts(begin, middle)
        yield middle
        yield from self._cuts(middle, end)


class LimitData(Attributes):
    """Closes the connection once `bytes` have gone through."""

    kind: ClassVar[str] = "limit_data"
    bytes: _Count = 0

    def law(self, _: random.Random) -> Law:
        return _Limit(self.bytes)


class _Limit(Law):
    def __init__(self, most: int) -> None:
        self._left = most
        self._passed = 0

    def follow(self, before: Law) -> None:
        if isinstance(before, _Limit):
            self._passed = before._passed
            self._left = max(self._left - self._passed, 0)

    def take(self, now_ns: int, item: Item) -> Iterator[Timed]:
        if isinstance(item, Ending):
            yield now_ns, item
            return
        part = memoryview(item)[: self._left]
        self._left -= len(part)
        self._passed += len(part)
        if part:
            yield now_ns, part
        if not self._left:
            yield now_ns, Ending.CLOSE


class Noop(Attributes):
    """Does nothing."""

    kind: ClassVar[str] = "noop"

    def law(self, _: random.Random) -> Law:
        return Law()


TYPES: Mapping[str, type[Attributes]] = {
    model.kind: model
    for model in (
        Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData, Noop,
    )
}  # fmt: skip


class Toxic(BaseModel):
    """A toxic of a proxy.

    Attributes:
        stream: which way it acts on: `upstream` is from the client to the server.
        toxicity: the share of connections that it acts on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    stream: Stream = "downstream"
    toxicity: float = Field(default=1.0, ge=0, le=1)
    attributes: Attributes

    def as_json(self) -> dict[str, object]:
        """As Toxiproxy says it."""
        return {
            "attributes": self.attributes.model_dump(),
            "name": self.name,
            "type": self.attributes.kind,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }
