"""What goes through a connection: bytes, and how it ends."""

from __future__ import annotations

import enum


class Ending(enum.Enum):
    """What a program's kernel says at the end, or a toxic."""

    FINISH = "no more will come this way (FIN)"
    RESET = "the connection is no more (RST)"
    CLOSE = "both ways are closed"


Item = bytes | memoryview | Ending
