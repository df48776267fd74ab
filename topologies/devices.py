"""Profiles of real devices, with the source of every number.

The numbers are data: ``devices.yaml`` beside this file, in the same form in which a topology file
can describe machines of its own under ``devices:``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from topologies.document import Document, Place, Settings, Value, parse_yaml, read_text
from topologies.errors import TopologyError
from topologies.fields import BitsPerSecond, Bytes, FlopsPerSecond
from topologies.model import Device

_CATALOG = Path(__file__).with_name("devices.yaml")


class DiskSettings(Settings):
    """What a device stores on: ``{size: 32 GB, read: 45 MB/s, write: 20 MB/s}``."""

    size: Bytes = Field(description="All that it holds")
    read: BitsPerSecond = Field(description="How fast it is read, in a row")
    write: BitsPerSecond = Field(description="How fast it is written, in a row")


class Profile(Settings):
    """A device as a file describes it: ``{memory: 8 GiB, grant: 512 MiB, flops: …, source: …}``."""

    memory: Bytes = Field(description="All the memory it has")
    grant: Bytes = Field(description="What of it its owner lends to training")
    flops: FlopsPerSecond = Field(
        description="What it sustains on products of matrices in fp32; not its data sheet's peak"
    )
    source: str = Field(description="Where these numbers come from")
    disk: DiskSettings | None = Field(default=None, description="What it stores on")
    networks: tuple[str, ...] = Field(
        default=(), description="Access networks it is commonly on, the most common first"
    )


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
        fields: dict[str, object] = {
            "name": name,
            "memory_bytes": profile.memory,
            "grant_bytes": profile.grant,
            "flops": profile.flops,
            "source": profile.source,
            "networks": profile.networks,
        }
        if profile.disk is not None:
            fields["disk_bytes"] = profile.disk.size
            fields["disk_read_bps"] = profile.disk.read
            fields["disk_write_bps"] = profile.disk.write
        found[name] = document.read(Device, fields, (*place, name))
    return found
