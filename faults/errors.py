"""What a person reads when a fault scenario can't be understood."""

from __future__ import annotations

from topologies.errors import InputError


class ScenarioError(InputError):
    """A scenario that can't be understood, or that doesn't fit the topology or the run."""
