"""Profiles of real devices, with the source of every number.

The numbers are data: ``devices.yaml`` beside this file, in the same form in which a topology file
can describe machines of its own under ``devices:``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from topologies.document import Document, Place, Settings, Value, parse_yaml, read_text
from topologies.errors import TopologyError
from topologies.fields import Bytes, FlopsPerSecond
from topologies.model import Device

_CATALOG = Path(__file__).with_name("devices.yaml")


class Profile(Settings):
    """A device as a file describes it: ``{memory: 8 GiB, grant: 512 MiB, flops: …, source: …}``."""

    memory: Bytes
    grant: Bytes
    flops: FlopsPerSecond
    source: str


@cache
def devices() -> Mapping[str, Device]:
    """The catalog of devices, by name."""
    document = parse_yaml(read_text(_CATALOG, TopologyError), _CATALOG.name, TopologyError)
    return MappingProxyType(read_profiles(document, document.value))


def read_profiles(document: Document, profiles: Value, place: Place = ()) -> dict[str, Device]:
    """The devices that a mapping of names to profiles describes. Raises TopologyError."""
    if not isinstance(profiles, dict):
        raise document.error("a mapping of names to devices was expected here", place)
    found: dict[str, Device] = {}
    for name, value in profiles.items():
        profile = document.read(Profile, value, (*place, name))
        fields = {
            "name": name,
            "memory_bytes": profile.memory,
            "grant_bytes": profile.grant,
            "flops": profile.flops,
            "source": profile.source,
        }
        found[name] = document.read(Device, fields, (*place, name))
    return found
