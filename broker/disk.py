"""A node's disk: what survives its crash.

Files are small and whole: a write replaces a file or does nothing. Reading and writing take the
time that an SD card would, one after the other in the order asked. A node that dies while it writes
finds the old file when it is back, and its disk idle. A full disk can be read and deleted from, but
nothing can be written: the new file has to find room beside the old one.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator

READ_BYTES_PER_SECOND = 45e6
"""What the card slot of a Raspberry Pi 4 (DDR50 bus, 50 MB/s) gives."""
WRITE_BYTES_PER_SECOND = 20e6
"""Twice the 10 MB/s that cards of class U1 promise."""
ACCESS_S = 0.002


class Disk:
    """Named files of one node, as slow as on a common SD card, which does one thing at a time."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._queue = asyncio.Lock()
        self._queue_of: asyncio.AbstractEventLoop | None = None
        self._full = False

    async def write(self, name: str, content: bytes) -> None:
        """Replaces file `name`, all of it or nothing, after the time that takes.

        Raises OSError (ENOSPC) where the disk is full, or has become so meanwhile.
        """
        content = bytes(content)
        async with self._turn():
            full = self._full
            await asyncio.sleep(ACCESS_S + (0 if full else len(content) / WRITE_BYTES_PER_SECOND))
            if full or self._full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            self._files[name] = content

    async def read(self, name: str) -> bytes:
        """The content of file `name`. Raises FileNotFoundError where there is none."""
        async with self._turn():
            if name not in self._files:
                raise FileNotFoundError(f"no file {name!r} on this node's disk")
            content = self._files[name]
            await asyncio.sleep(ACCESS_S + len(content) / READ_BYTES_PER_SECOND)
            return content

    async def delete(self, name: str) -> None:
        """Removes file `name`; nothing happens where there is none."""
        async with self._turn():
            await asyncio.sleep(ACCESS_S)
            self._files.pop(name, None)

    def _turn(self) -> asyncio.Lock:
        """What is to be held while the disk works. What a dead program held nobody waits for."""
        loop = asyncio.get_running_loop()
        if self._queue_of is not loop:
            self._queue, self._queue_of = asyncio.Lock(), loop
        return self._queue

    def fill(self, full: bool) -> None:
        """From now on nothing more can be written, or it can again."""
        self._full = full

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)
