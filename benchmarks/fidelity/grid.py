"""The transfers that are compared, said once for all four stacks.

A cell is some bytes over established TCP connections, and the route they take: its links, each with
a rate, a one-way delay, a queue and a loss. Its figure is the completion time: the instant at which
the last byte has reached the receiving application less the instant of the send call. With several
flows all start at once and the figure is their mean.

Rates are what is on the wire, with 66 bytes of headers for each segment of 1,448. A queue is the
bytes that can wait before the link, the one in service not counted. Loss is independent per packet
and concerns the way of the data. The way back has the same rates and delays, and loses nothing.
Cells of more than `LONGEST_S` at the link's full rate are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

SEGMENT_BYTES = 1_448
HEADER_BYTES = 66
FRAME_BYTES = SEGMENT_BYTES + HEADER_BYTES
INITIAL_WINDOW = 10
LEAST_QUEUE_BYTES = 65_536
LONGEST_S = 30.0

KILO, MEGA, GIGA = 1_000, 1_000_000, 1_000_000_000


@dataclass(frozen=True)
class Hop:
    """One link of a route: bit/s on the wire, seconds one way, bytes that can wait, and loss."""

    bandwidth_bps: float
    delay_s: float
    queue_bytes: int
    loss: float = 0.0


@dataclass(frozen=True)
class Cell:
    """`flows` transfers of `size_bytes` at once over `hops`, beside `cross_bps` of steady UDP."""

    name: str
    condition: str
    size_bytes: int
    hops: tuple[Hop, ...]
    flows: int = 1
    cross_bps: float = 0.0
    law: str = "cubic"

    @property
    def lossy(self) -> bool:
        """Whether chance decides, so that means over many seeds are compared."""
        return any(hop.loss for hop in self.hops)

    @property
    def delay_s(self) -> float:
        """Of the route, one way."""
        return sum(hop.delay_s for hop in self.hops)

    @property
    def bottleneck_bps(self) -> float:
        """The least rate on the route, and what the transfers' data cannot exceed together."""
        return min(hop.bandwidth_bps for hop in self.hops)

    @property
    def ideal_s(self) -> float:
        """How long it takes when the rate alone decides, without slow start and without loss."""
        segments = -(-self.size_bytes // SEGMENT_BYTES)
        bits = (self.size_bytes + segments * HEADER_BYTES) * 8 * self.flows
        return self.delay_s + bits / (self.bottleneck_bps - self.cross_bps)

    @property
    def guess_s(self) -> float:
        """A rough upper bound on the duration, for deadlines and to plan what runs when."""
        windows = 2 * self.delay_s * 12
        loss = sum(hop.loss for hop in self.hops)
        if not loss:
            return self.ideal_s * 1.5 + windows + 0.5
        reno_bps = SEGMENT_BYTES * 8 / (2 * self.delay_s) * (1.5 / loss) ** 0.5
        return self.ideal_s + windows + self.size_bytes * 8 / reno_bps + 1.0

    def seeds(self, wanted: int) -> int:
        """How many seeds give a mean as sure as `wanted` give for 1 MB: short ones need more."""
        if not self.lossy:
            return 1
        return wanted * {10 * KILO: 8, 100 * KILO: 4}.get(self.size_bytes, 1)


def queue_bytes(bandwidth_bps: float, delay_s: float, times: float = 1.0) -> int:
    """The product of bandwidth and round trip, at least 64 KiB, `times` so much."""
    return int(max(bandwidth_bps * 2 * delay_s / 8, LEAST_QUEUE_BYTES) * times)


def show_size(size_bytes: int) -> str:
    """As the cells' names have it: 10kB, 1MB."""
    return f"{size_bytes // MEGA}MB" if size_bytes >= MEGA else f"{size_bytes // KILO}kB"


def show_rate(rate_bps: float) -> str:
    """As the cells' names have it: 10M, 1G."""
    return f"{rate_bps / GIGA:g}G" if rate_bps >= GIGA else f"{rate_bps / MEGA:g}M"


def _link(
    condition: str,
    size_bytes: int,
    rate_bps: float,
    delay_s: float,
    *,
    suffix: str = "",
    queue: float = 1.0,
    loss: float = 0.0,
    flows: int = 1,
    cross: float = 0.0,
    law: str = "cubic",
) -> Cell:
    hop = Hop(rate_bps, delay_s, queue_bytes(rate_bps, delay_s, queue), loss)
    name = f"{condition}/{show_size(size_bytes)}-{show_rate(rate_bps)}-{delay_s * 1e3:g}ms{suffix}"
    return Cell(name, condition, size_bytes, (hop,), flows, cross * rate_bps, law)


def _plain() -> Iterator[Cell]:
    sizes = (KILO, 10 * KILO, 100 * KILO, MEGA, 10 * MEGA)
    rates = (MEGA, 10 * MEGA, 100 * MEGA, GIGA)
    for size, rate, delay_s in product(sizes, rates, (0.001, 0.01, 0.05, 0.1)):
        yield _link("plain", size, rate, delay_s)


def _queues() -> Iterator[Cell]:
    places = (
        (MEGA, 10 * MEGA, 0.01),
        (MEGA, 10 * MEGA, 0.05),
        (10 * MEGA, 100 * MEGA, 0.01),
        (10 * MEGA, 100 * MEGA, 0.05),
    )
    for (size, rate, delay_s), times in product(places, (0.5, 2.0)):
        yield _link("queue", size, rate, delay_s, queue=times, suffix=f"-x{times:g}")


def _flows() -> Iterator[Cell]:
    places = (
        (100 * KILO, 10 * MEGA, 0.05),
        (MEGA, 10 * MEGA, 0.01),
        (MEGA, 100 * MEGA, 0.05),
        (10 * MEGA, 100 * MEGA, 0.01),
    )
    for (size, rate, delay_s), flows in product(places, (2, 4, 8)):
        yield _link("flows", size, rate, delay_s, flows=flows, suffix=f"-{flows}flows")


def _cross() -> Iterator[Cell]:
    sizes = (10 * KILO, 100 * KILO, MEGA, 10 * MEGA)
    for size, (rate, delay_s) in product(sizes, ((10 * MEGA, 0.01), (100 * MEGA, 0.05))):
        yield _link("cross", size, rate, delay_s, cross=0.5)


ROUTES = {
    "narrow-middle": ((100 * MEGA, 0.005), (10 * MEGA, 0.02), (50 * MEGA, 0.01)),
    "narrow-last": ((50 * MEGA, 0.01), (20 * MEGA, 0.005), (5 * MEGA, 0.03)),
}


def _routes() -> Iterator[Cell]:
    for (name, links), size in product(
        ROUTES.items(), (KILO, 10 * KILO, 100 * KILO, MEGA, 10 * MEGA)
    ):
        delay_s = sum(delay_s for _, delay_s in links)
        hops = tuple(Hop(rate, own_s, queue_bytes(rate, delay_s)) for rate, own_s in links)
        yield Cell(f"route/{show_size(size)}-{name}", "route", size, hops)


def _losses() -> Iterator[Cell]:
    places = (
        (10 * KILO, 10 * MEGA, 0.01),
        (10 * KILO, 10 * MEGA, 0.05),
        (100 * KILO, MEGA, 0.05),
        (100 * KILO, 10 * MEGA, 0.01),
        (100 * KILO, 10 * MEGA, 0.05),
        (100 * KILO, 100 * MEGA, 0.1),
        (MEGA, 10 * MEGA, 0.001),
        (MEGA, 10 * MEGA, 0.01),
        (MEGA, 10 * MEGA, 0.05),
        (MEGA, 100 * MEGA, 0.01),
        (MEGA, 100 * MEGA, 0.1),
    )
    for (size, rate, delay_s), loss in product(places, (0.001, 0.005, 0.01, 0.02)):
        yield _link("loss", size, rate, delay_s, loss=loss, suffix=f"-{loss:.1%}")
    for delay_s, loss in ((0.01, 0.001), (0.01, 0.005), (0.01, 0.01), (0.05, 0.001)):
        yield _link("loss", 10 * MEGA, 100 * MEGA, delay_s, loss=loss, suffix=f"-{loss:.1%}")


def _shared_losses() -> Iterator[Cell]:
    for flows, loss in product((2, 8), (0.005, 0.02)):
        suffix = f"-{loss:.1%}-{flows}flows"
        yield _link("loss-flows", MEGA, 10 * MEGA, 0.01, loss=loss, flows=flows, suffix=suffix)


def _renos() -> Iterator[Cell]:
    for size, rate, delay_s in ((MEGA, 10 * MEGA, 0.05), (10 * MEGA, 100 * MEGA, 0.05)):
        yield _link("reno", size, rate, delay_s, law="reno")
    for (rate, delay_s), loss in product(
        ((10 * MEGA, 0.01), (10 * MEGA, 0.05), (100 * MEGA, 0.01)), (0.001, 0.005, 0.02)
    ):
        yield _link("reno-loss", MEGA, rate, delay_s, loss=loss, law="reno", suffix=f"-{loss:.1%}")


def _grid() -> tuple[Cell, ...]:
    makers = (_plain, _queues, _flows, _cross, _routes, _losses, _shared_losses, _renos)
    cells = [cell for make in makers for cell in make()]
    return tuple(cell for cell in cells if cell.ideal_s <= LONGEST_S)


CELLS = _grid()


def select(patterns: Iterable[str], cells: Iterable[Cell] = CELLS) -> tuple[Cell, ...]:
    """The cells whose name matches one of the patterns (as in a shell), in the grid's order."""
    wanted = tuple(patterns)
    return tuple(
        cell
        for cell in cells
        if not wanted or any(fnmatchcase(cell.name, pattern) for pattern in wanted)
    )
