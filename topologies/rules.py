"""What is assumed of a network whose file does not say it.

Files of networks tell where the nodes are and sometimes how fast the links; few tell delays, and
none all that an emulator needs. What is missing is derived by the rules here, each with a name, and
every value that comes of one bears that name (`Link.derived`, `Node.derived`):

| rule | what it gives |
|---|---|
| ``great-circle`` | the delay of a link whose ends have coordinates: *delay_per_km* along the great circle, at least *least_delay* |
| ``length`` | likewise along the length that the file says |
| ``unplaced`` | *unplaced_delay*, where neither is known |
| ``kind-of-link`` | the bandwidth of the first of *bandwidths* whose name stands in the link's type or label |
| ``default-bandwidth`` | *bandwidth*, where nothing is known |
| ``host-bandwidth`` | the lesser of what the sender can send and the receiver receive (Shadow's hosts) |
| ``unit`` | a number without unit, read in *capacity_unit* or *delay_unit* |
| ``smallest-module`` | of a link that is to be built, the smallest capacity that it could have (SNDlib) |
| ``packets`` | a queue counted in packets, of 1500 bytes each |
| ``parallel`` | the bandwidth of several links with the same ends, see *parallel*; ``parallel-derived`` where one of theirs is derived |
| ``label`` | a node's name, made of its label so that no other has it |
| ``kind-of-node`` | a node's role: ``router``, ``external`` for those of other networks, ``exchange`` for a pseudo-node that stands for a shared medium |
"""  # noqa: E501 - a table's rows are lines

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from topologies import units
from topologies.document import Settings
from topologies.fields import BitsPerSecond, Seconds
from topologies.model import Node

EARTH_RADIUS_KM = 6371.0
PACKET_BYTES = 1500

# From the standards: ITU-T G.702 (E1, E3), ANSI T1.107 (T1, T2, T3 = DS-3), ITU-T G.707 (STM-n),
# Telcordia GR-253 (OC-n), IEEE 802.3. For media, a round figure of what is common on them.
_KINDS = {
    "OC-768": 39.81312e9, "STM-256": 39.81312e9, "OC-192": 9.95328e9, "STM-64": 9.95328e9,
    "OC-48": 2.48832e9, "STM-16": 2.48832e9, "OC-12": 622.08e6, "STM-4": 622.08e6,
    "OC-3": 155.52e6, "STM-1": 155.52e6, "DS-3": 44.736e6, "T3": 44.736e6, "E3": 34.368e6,
    "T2": 6.312e6, "E1": 2.048e6, "T1": 1.544e6, "10GE": 10e9, "GigE": 1e9, "1GE": 1e9,
    "Ethernet": 100e6, "Satellite": 10e6, "Microwave": 155e6, "Wireless": 54e6, "Radio": 155e6,
    "ATM": 155.52e6, "SDH": 155.52e6, "Serial": 2.048e6, "DWDM": 10e9, "Lambda": 10e9,
    "Wavelength": 10e9, "Dark": 10e9, "Fiber": 10e9, "Fibre": 10e9, "Optical": 10e9,
}  # fmt: skip
_WORD = re.compile(r"[a-z0-9]+(?:-[0-9]+)?")
_GIGABIT = re.compile(r"(?:\b(\d+)[ -]?)?gigabit")
Place = tuple[float, float]


class LinkRules(Settings):
    """By which rules a link gets the bandwidth and the delay that nobody states.

    Quantities are written with their units, as in files: ``LinkRules(least_delay="1 ms")``.
    """

    delay_per_km: Seconds = Field(
        default=5e-6,
        description="One way: light in fibre makes some 200,000 km a second. `5 us`",
    )
    least_delay: Seconds = Field(
        default=50e-6,
        description="The shortest delay that a distance gives: two routers of one site. `50 us`",
    )
    unplaced_delay: Seconds = Field(
        default=1e-3,
        description="The delay of a link of unknown length, about that of 200 km. `1 ms`",
    )
    bandwidth: Annotated[BitsPerSecond, Field(gt=0)] = Field(
        default=1e9, description="The bandwidth of a link of which nothing is known. `1 Gbit/s`"
    )

    def under(self, given: LinkRules | None) -> LinkRules:
        """These rules, but for what the given ones say themselves."""
        if given is None:
            return self
        said = given.model_fields_set & LinkRules.model_fields.keys()
        return self.model_copy(update={name: getattr(given, name) for name in said})

    def complete(self, fields: dict[str, object], source: Node, target: Node) -> dict[str, str]:
        """Adds bandwidth and delay to the fields of a `Link` between two nodes, where they lack.

        Returns which rule gave which field.
        """
        derived: dict[str, str] = {}
        if "bandwidth_bps" not in fields:
            fields["bandwidth_bps"] = self.bandwidth
            derived["bandwidth_bps"] = "default-bandwidth"
        if "delay_s" not in fields:
            a, b = source.place, target.place
            length = None if a is None or b is None else great_circle_km(a, b)
            fields["delay_s"], derived["delay_s"] = self.delay_of(length)
        return derived

    def delay_of(self, length_km: float | None, *, stated: bool = False) -> tuple[float, str]:
        """The delay in seconds of a link of this length, and the rule's name.

        Args:
            length_km: None where it is not known.
            stated: the file says this length; else it is a great circle's.
        """
        if length_km is None:
            return self.unplaced_delay, "unplaced"
        delay_s = max(self.least_delay, length_km * self.delay_per_km)
        return delay_s, "length" if stated else "great-circle"


class Rules(LinkRules):
    """All rules: those for links, and how the words and the shape of a graph are taken.

    The latter are for graphs, of others or in our own words; files of our own say what they mean.
    """

    bandwidths: dict[str, Annotated[BitsPerSecond, Field(gt=0)]] = Field(
        default=_KINDS,
        description="Bandwidths by kind of link: a word of its type or label. What is given here "
        "goes before the built-in ones: standards such as OC-48 or E1, and media such as fibre",
    )
    capacity_unit: str = Field(
        default="Mbps", description="The unit of capacities that have none in the file. `Mbps`"
    )
    delay_unit: str = Field(
        default="ms", description="The unit of delays that have none in the file. `ms`"
    )
    parallel: Literal["sum", "fastest", "refuse"] = Field(
        default="sum",
        description="Links with the same ends: one link with the sum of their bandwidths and the "
        "shortest of their delays, or only the fastest, or an error. `sum`",
    )
    external: Literal["keep", "drop"] = Field(
        default="keep", description="Nodes that belong to other networks (Topology Zoo). `keep`"
    )
    disconnected: Literal["refuse", "largest", "keep"] = Field(
        default="refuse",
        description="A network that falls apart: an error, its largest part, or as it is. `refuse`",
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="Names of attributes of links that have no meaning here"
    )

    @field_validator("bandwidths", mode="after")
    @classmethod
    def _keeps_the_built_in(cls, given: dict[str, float]) -> dict[str, float]:
        return {**given, **{kind: speed for kind, speed in _KINDS.items() if kind not in given}}

    @field_validator("capacity_unit")
    @classmethod
    def _is_a_unit_of_capacity(cls, unit: str) -> str:
        units.foreign_bandwidth(1, unit)
        return unit

    @field_validator("delay_unit")
    @classmethod
    def _is_a_unit_of_time(cls, unit: str) -> str:
        units.foreign_duration(1, unit)
        return unit

    def bandwidth_of(self, *words: object) -> tuple[float, str]:
        """The bandwidth of a link of which the file says these words, and the rule's name."""
        for text in words:
            if not isinstance(text, str):
                continue
            if gigabit := _GIGABIT.search(text.casefold()):
                return float(gigabit[1] or 1) * 1e9, "kind-of-link"
            said = {_plain(word) for word in _WORD.findall(text.casefold())}
            for kind, speed in self.bandwidths.items():
                if _plain(kind.casefold()) in said:
                    return speed, "kind-of-link"
        return self.bandwidth, "default-bandwidth"


def great_circle_km(a: Place, b: Place) -> float:
    """The length of the great circle between two places, each latitude and longitude in degrees.

    The haversine formula on a sphere of the Earth's mean radius.
    """
    (north, east), (other_north, other_east) = (map(math.radians, place) for place in (a, b))
    x = math.sin((other_north - north) / 2) ** 2
    x += math.cos(north) * math.cos(other_north) * math.sin((other_east - east) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(x)))


def _plain(word: str) -> str:
    """``OC-192c``, ``oc192`` and ``Darkfibers`` without what they differ in."""
    word = word.replace("-", "")
    if re.fullmatch(r"(?:oc|stm)\d+c", word):
        return word[:-1]
    if word.endswith(("fiber", "fibre", "fibers", "fibres")):
        return "fiber"
    return word.removesuffix("s") if len(word) > 3 else word
