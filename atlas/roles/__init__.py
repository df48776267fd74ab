"""The programs that run on the nodes: one for the coordinator, one for every other device.

A device hosts layers for others as far as its memory allows; one with text is a client too, and may
be appointed to aggregate for its neighborhood, or elected to coordinate when the coordinator is
gone.
"""

from atlas.roles.device import coordinator, device
from atlas.roles.settings import RunSettings

__all__ = ["RunSettings", "coordinator", "device"]
