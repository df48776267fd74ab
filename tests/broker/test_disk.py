"""A node's disk: whole files, at the price of an SD card. For crashes see `test_crash.py`."""

from __future__ import annotations

import asyncio

import pytest

import broker
from broker import Node
from tests.broker.worlds import network


def alone(program):
    return broker.run({"a": program}, topology=network("a-b")).returned["a"]


def test_a_disk_takes_its_time():
    async def main(node: Node):
        await node.disk.write("x", bytes(2_000_000))
        written = node.now
        assert await node.disk.read("x") == bytes(2_000_000)
        read = node.now
        assert (list(node.disk), "x" in node.disk, "y" in node.disk) == (["x"], True, False)
        await node.disk.delete("x")
        await node.disk.delete("x")
        with pytest.raises(FileNotFoundError, match="'x'"):
            await node.disk.read("x")
        assert list(node.disk) == []
        return written, read - written, node.now - read

    assert alone(main) == pytest.approx((0.102, 0.002 + 2 / 45, 0.004))


def test_a_file_is_the_old_one_until_the_new_one_is_whole():
    async def main(node: Node):
        await node.disk.write("x", b"old")
        content = bytearray(20_000_000)
        write = asyncio.create_task(node.disk.write("x", content))
        await asyncio.sleep(1)
        content[:] = b"scribbled over"
        during = await node.disk.read("x")
        await write
        return during, await node.disk.read("x") == bytes(20_000_000)

    assert alone(main) == (b"old", True)


def test_a_write_that_is_cancelled_writes_nothing():
    async def main(node: Node):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await node.disk.write("x", bytes(20_000_000))
        await asyncio.sleep(9)
        return "x" in node.disk

    assert alone(main) is False
