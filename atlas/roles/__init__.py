"""The programs that run on the nodes: one for the coordinator, one for every other device.

A device hosts layers for others as far as its memory allows; one with text is a client too, and may
be elected to aggregate for its neighborhood.
"""

from atlas.roles.coordinator import coordinator
from atlas.roles.device import device
from atlas.roles.settings import RunSettings

__all__ = ["RunSettings", "coordinator", "device"]
