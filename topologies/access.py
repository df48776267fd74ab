"""Profiles of access networks: how devices reach the nearest site of their provider.

The numbers are data: ``access.yaml`` beside this file, in the form of the ``kinds:`` of a topology
file, with the source of every profile. A topology file can use them by name (``kind: lte``) unless
it has a kind of that name itself. ``up`` is from the first node of ``between`` to the second, so
the device comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from topologies.document import parse_yaml, read_text
from topologies.errors import TopologyError
from topologies.link_settings import LinkKind

_CATALOG = Path(__file__).with_name("access.yaml")


class AccessProfile(LinkKind):
    """An access network as a file describes it: a kind of link, and its source."""

    source: str = Field(description="Where these numbers come from")


@dataclass(frozen=True)
class Access:
    """An access network.

    Attributes:
        name: as in the catalog, such as ``lte``.
        link: what a link over it is like, ``up`` from the device.
        source: where its numbers come from.
    """

    name: str
    link: LinkKind
    source: str


@cache
def access() -> Mapping[str, Access]:
    """The catalog of access networks, by name."""
    document = parse_yaml(read_text(_CATALOG, TopologyError), _CATALOG.name, TopologyError)
    found = {
        name: document.read(AccessProfile, value, (name,))
        for name, value in document.mapping().items()
    }
    profiles = {name: Access(name, profile, profile.source) for name, profile in found.items()}
    return MappingProxyType(profiles)
