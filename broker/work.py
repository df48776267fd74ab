"""Work that a thread does for a node draws from a generator of its own.

Which thread does it, and when, is chance; what it draws must not be.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_here = threading.local()


def seeded(work: Callable[[], T], seed: str) -> Callable[[], T]:
    """`work` as a thread is to do it: `generator` is then one with this seed."""

    def do() -> T:
        outer = generator()
        _here.generator = random.Random(seed)
        try:
            return work()
        finally:
            _here.generator = outer

    return do


def generator() -> random.Random | None:
    """What the work draws from that this thread does, or None."""
    return getattr(_here, "generator", None)
