"""A network for tests: virtual time, faults, and the same run each time.

With pytest there is nothing to import: installing this package is enough for `pytest.mark.network`
and the fixtures `bus`, `node`, `faults` and `network` (see docs/testing.md). Here stands what they
are made of, for tests that want a network of their own, as each example of Hypothesis does.
"""

from broker.testing.injection import Injection, Injector
from broker.testing.loop import VirtualLoop
from broker.testing.world import Running, World

__all__ = ["Injection", "Injector", "Running", "VirtualLoop", "World"]
