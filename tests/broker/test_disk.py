"""A node's disk: whole files, at the price of an SD card. For crashes see `test_crash.py`."""

from __future__ import annotations

import asyncio

import pytest

import broker
from broker import Node
from tests.broker.worlds import crash, network


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


def test_a_file_is_what_it_was_when_it_was_written_and_read_in_turn():
    async def main(node: Node):
        await node.disk.write("x", b"old")
        before = asyncio.create_task(node.disk.read("x"))
        await asyncio.sleep(0)
        content = bytearray(20_000_000)
        write = asyncio.create_task(node.disk.write("x", content))
        await asyncio.sleep(0.5)
        content[:] = b"scribbled over"
        after = await node.disk.read("x")
        assert write.done()
        return await before, after == bytes(20_000_000)

    assert alone(main) == (b"old", True)


def test_a_disk_does_one_thing_at_a_time_in_the_order_asked():
    async def main(node: Node):
        disk = node.disk
        await asyncio.gather(*(disk.write(f"x{i}", bytes(2_000_000)) for i in range(10)))
        ten = node.now
        large = asyncio.create_task(disk.write("v", b"1" * 2_000_000))
        await asyncio.sleep(0.001)
        await disk.write("v", b"2")
        newest = await disk.read("v")
        assert large.done()
        await asyncio.gather(disk.delete("v"), disk.write("v", b"3"), disk.delete("v"))
        return ten, newest, "v" in disk

    assert alone(main) == (pytest.approx(1.02), b"2", False)


def test_a_crash_leaves_nothing_in_the_disks_queue():
    async def main(node: Node):
        if node.incarnation:
            began = node.now
            await node.disk.write("y", b"new")
            return list(node.disk), node.now - began
        await node.disk.write("x", b"old")
        return await asyncio.gather(*(node.disk.write("x", bytes(20_000_000)) for _ in range(9)))

    run = broker.run({"a": main}, topology=network("a-b"), faults=crash("a", 0.5, 2))
    assert run.returned["a"] == (["x", "y"], pytest.approx(0.002, abs=1e-6))


def test_a_write_that_is_cancelled_writes_nothing():
    async def main(node: Node):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await node.disk.write("x", bytes(20_000_000))
        began = node.now
        await node.disk.write("y", b"")  # nor does it hold anybody up
        await asyncio.sleep(9)
        return list(node.disk), node.now - began

    assert alone(main) == (["y"], pytest.approx(9.002))
