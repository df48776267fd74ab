"""How a role waits: by which clock, and until its device has room for what it holds and writes.

The owner of a device may want back what was lent (`squeeze`), and a disk may be full; both can end.
"""

from __future__ import annotations

import asyncio
import errno

from broker import DeviceMemoryError, Node, Reservation

PAUSE_S = 1.0


def monotonic_s() -> float:
    """A clock for what takes how long, which nobody sets: `node.now` may be wrong by a day."""
    return asyncio.get_running_loop().time()


async def hold(node: Node, size_bytes: int, purpose: str) -> Reservation:
    """Device memory, as soon as the device has so much to give. Raises DeviceMemoryError where it
    never will.
    """
    while True:
        try:
            return node.reserve(size_bytes, purpose)
        except DeviceMemoryError:
            if size_bytes > node.device.grant_bytes:
                raise
            await asyncio.sleep(PAUSE_S)


async def keep(node: Node, name: str, content: bytes) -> None:
    """Writes a file, as soon as the disk has room for it."""
    while True:
        if await try_to_keep(node, name, content):
            return
        await asyncio.sleep(PAUSE_S)


async def try_to_keep(node: Node, name: str, content: bytes) -> bool:
    """Writes a file; says whether the disk had room for it."""
    try:
        await node.disk.write(name, content)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        node.note("disk full", file=name)
        return False
    return True
