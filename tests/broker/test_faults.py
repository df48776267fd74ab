"""Each kind of fault, as a scenario file writes it, and what it does to messages, in numbers.

The network is small, so that what should come can be worked out: 8 Mbit/s and 10 ms each way, and
devices of 1 GFLOP/s that grant 1 MB.
"""

from __future__ import annotations

import asyncio
import cProfile
import errno
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import broker
import faults
from broker import DeviceMemoryError, Node
from broker.network import Network
from broker.node import Programs
from broker.troubles import GOODBYE_NS, Troubles
from tests.broker.everything import everything
from tests.broker.worlds import GRANT, SECOND, network, size_for
from topologies import Topology

PAIR = network("a-b")
CHAIN = network("a-hub", "hub-b", "hub-c")
MEGABYTE = size_for(1_518_000)
"""A message that takes 1,518,000 bytes on the wire, 1.518 s of 8 Mbit/s."""
ON_THE_WIRE_S = 1_518_000 * 8 / 8e6
START_S = 0.25
"""What slow start costs a long transfer here, at most."""


def play(
    programs: Programs,
    *timeline: str,
    on: Topology = PAIR,
    folder: Path | None = None,
    **options: object,
) -> broker.Run:
    """A run of these programs, under the entries of a timeline."""
    lines = "\n".join(f"  - {entry}" for entry in timeline)
    scenario = faults.parse(f"name: test\ntimeline:\n{lines}\n" if lines else QUIET, folder=folder)
    return broker.run(programs, topology=on, faults=scenario, **options)  # type: ignore[arg-type]


QUIET = "name: test\ntimeline: []\n"


async def listen(node: Node) -> None:
    async for _ in node:
        pass


async def echo(node: Node) -> None:
    async for message in node:
        await message.reply(message.header)


def sends(size: int, at_s: float = 0.0, to: str = "b") -> Callable[[Node], object]:
    """A program that sends one large message."""

    async def main(node: Node) -> None:
        await asyncio.sleep(at_s)
        await node.send(to, {}, [bytes(size)])

    return main


async def hear_one(node: Node) -> float:
    """When the first message has come."""
    return (await node.receive()).arrived_at


def transfer_s(*timeline: str, on: Topology = PAIR, folder: Path | None = None) -> float:
    """How long a megabyte takes from a to b, sent at the very beginning."""
    run = play({"a": sends(MEGABYTE), "b": hear_one}, *timeline, on=on, folder=folder)
    return run.returned["b"]


def chatter(count: int, every_s: float = 0.01) -> Callable[[Node], object]:
    """A program that sends so many numbered datagrams to b, one at a time."""

    async def main(node: Node) -> None:
        for i in range(count):
            await node.send("b", {"i": i}, datagram=True)
            await asyncio.sleep(every_s)
        await asyncio.sleep(1)

    return main


def numbers(heard: list[int]) -> Callable[[Node], object]:
    """A program that notes down the numbers of what comes."""
    note = heard.append

    async def main(node: Node) -> None:
        async for message in node:
            note(message.header["i"])

    return main


def chat(*timeline: str, count: int = 2_000) -> tuple[list[int], broker.Run]:
    """Numbered datagrams from a to b: what came, in order."""
    heard: list[int] = []
    run = play({"a": chatter(count), "b": numbers(heard)}, *timeline, background=["b"])
    return heard, run


async def ask_each_second(node: Node, seconds: int = 10) -> list[float | None]:
    """How long each answer of b took; None where none came within half a second."""
    took: list[float | None] = []
    for second in range(seconds):
        await asyncio.sleep(max(second - node.now, 0))
        try:
            await node.request("b", {}, timeout=0.5)
        except TimeoutError:
            took.append(None)
        else:
            took.append(round(node.now - second, 3))
    return took


def answers(*timeline: str, on: Topology = PAIR) -> list[bool]:
    """Whether b answered in time, second by second."""
    run = play({"a": ask_each_second, "b": echo}, *timeline, on=on, background=["b"])
    return [took is not None for took in run.returned["a"]]


# Nodes.


def test_a_crashed_node_is_gone_and_comes_back_with_its_disk_and_nothing_else():
    lives: list[object] = []

    async def main(node: Node) -> None:
        lives.append((node.now, node.incarnation, list(node.disk), node.reserved_bytes))
        node.reserve(1_000)
        await node.disk.write("state", b"kept")
        try:
            await echo(node)
        finally:
            lives.append((node.incarnation, "no finally runs"))

    run = play(
        {"a": ask_each_second, "b": main}, "{at: 2.5 s, crash: b, for: 3 s}", background=["b"]
    )
    assert lives[:2] == [(0, 0, [], 0), (5.5, 1, ["state"], 0)]
    assert (0, "no finally runs") not in lives
    assert [took is not None for took in run.returned["a"]] == [True] * 3 + [False] * 3 + [True] * 4


def test_who_is_stopped_may_clean_up_and_is_started_again():
    async def main(node: Node) -> None:
        try:
            await listen(node)
        finally:
            await node.disk.write("ended", b"%.3f" % node.now)

    async def look(node: Node) -> str:
        if node.incarnation == 0:
            await main(node)
        return (await node.disk.read("ended")).decode()

    run = play({"a": sends(0), "b": look}, "{at: 2 s, stop: b, for: 5 s}")
    assert run.returned["b"] == "2.000"
    assert run.virtual_seconds == pytest.approx(7.002, abs=1e-3)


def test_a_paused_node_answers_late_and_loses_nothing():
    async def ask(node: Node) -> list[float]:
        times = []
        for i in range(10):
            await node.send("b", {"i": i})
            await asyncio.sleep(1)
        while len(times) < 10:
            times.append(round((await node.receive()).arrived_at, 2))
        return times

    async def answer(node: Node) -> None:
        async for message in node:
            await node.send("a", message.header)

    run = play({"a": ask, "b": answer}, "{at: 2.5 s, pause: b, for: 4 s}", background=["b"])
    on_time = [i + 0.02 for i in (0, 1, 2, 7, 8, 9)]
    assert run.returned["a"] == pytest.approx([*on_time[:3], *[6.51] * 4, *on_time[3:]], abs=0.011)
    assert run.ledger.fates() == {"delivered": 20}


def test_who_leaves_says_goodbye_and_then_is_gone_until_it_joins_again():
    lives: list[object] = []

    async def main(node: Node) -> None:
        lives.append((node.now, node.incarnation))
        try:
            await echo(node)
        finally:
            await node.send("c", {"goodbye": node.now})

    async def hear(node: Node) -> dict[str, float]:
        message = await node.receive()
        return message.header | {"heard": round(message.arrived_at, 2)}

    run = play(
        {"a": ask_each_second, "b": main, "c": hear},
        "{at: 2.5 s, leave: b, for: 4 s}",
        on=CHAIN,
        background=["b"],
    )
    assert run.returned["c"] == {"goodbye": 2.5, "heard": 2.52}
    assert lives == [(0, 0), (6.5, 1)]
    assert [took is not None for took in run.returned["a"]] == [True] * 3 + [False] * 4 + [True] * 3
    # For a second it is still on the network; then it is gone.
    fates = [entry.fate for entry in run.ledger if 2.5 < entry.sent_ns / SECOND < 6.5]
    assert fates == ["delivered", *["destination down"] * 3]


def test_who_takes_too_long_to_leave_is_gone_all_the_same():
    ticks: list[float] = []

    async def stay(node: Node) -> None:
        while True:
            try:
                await asyncio.sleep(0.25)
                ticks.append(node.now)
            except asyncio.CancelledError:
                ticks.append(-node.now)

    play({"a": sends(0, at_s=10), "b": stay}, "{at: 2.1 s, leave: b}", background=["b"])
    asked_s = 2.1
    assert ticks[-4:] == pytest.approx([-asked_s, 2.35, 2.6, 2.85])
    assert ticks[-1] < asked_s + GOODBYE_NS / SECOND < ticks[-1] + 0.26


def test_who_joins_was_not_there_before():
    assert answers("{at: 3.5 s, join: b, for: 4 s}") == [False] * 4 + [True] * 4 + [False] * 2


def test_four_times_slower_computes_four_times_as_long():
    async def work(node: Node) -> float:
        await node.compute(int, flops=2e9)
        return node.now

    assert play({"a": work}).returned["a"] == 2
    assert play({"a": work}, "{at: 0 s, slow: {nodes: a, compute: 4x}}").returned["a"] == 8
    # Half of it at full speed, the next eighth in a second and a half, and the rest as ever.
    slow = "{at: 1 s, slow: {nodes: a, compute: 4x}, for: 1 s}"
    assert play({"a": work}, slow).returned["a"] == 2.75


def test_squeezed_memory_refuses_what_is_more_and_takes_nothing_that_is_held():
    async def hoard(node: Node) -> list[object]:
        held = node.reserve(600_000)
        await asyncio.sleep(2)
        seen: list[object] = [node.memory_bytes, node.reserved_bytes]
        try:
            node.reserve(1, "one more byte")
        except DeviceMemoryError as error:
            seen += [error.wanted, error.free, error.capacity]
        held.release()
        node.reserve(400_000)
        await asyncio.sleep(2)
        node.reserve(600_000)
        return [*seen, node.memory_bytes, node.reserved_bytes]

    squeeze = "{at: 1 s, squeeze: {nodes: a, memory: 40 %}, for: 2 s}"
    assert play({"a": hoard}, squeeze).returned["a"] == [
        400_000, 600_000, 1, 0, 400_000, GRANT, GRANT,
    ]  # fmt: skip


def test_a_program_is_told_when_its_device_grants_less_or_more_and_can_give_back():
    async def yielding(node: Node) -> list[object]:
        held = [node.reserve(300_000) for _ in range(3)]
        seen: list[object] = []

        def changed() -> None:
            seen.extend([node.now, node.memory_bytes])
            while node.reserved_bytes > node.memory_bytes:
                held.pop().release()

        node.on_memory(changed)
        await asyncio.sleep(4)
        return [*seen, node.reserved_bytes]

    squeeze = "{at: 1 s, squeeze: {nodes: a, memory: 40 %}, for: 2 s}"
    assert play({"a": yielding}, squeeze).returned["a"] == [1.0, 400_000, 3.0, GRANT, 300_000]


def test_squeezes_of_an_absolute_size_and_of_a_share_hold_over_a_restart():
    async def look(node: Node) -> int:
        if node.incarnation == 0:
            await asyncio.sleep(100)
        return node.memory_bytes

    run = play(
        {"a": look},
        "{at: 1 s, squeeze: {nodes: a, memory: 500 kB}}",
        "{at: 1 s, squeeze: {nodes: a, memory: 50 %}}",
        "{at: 2 s, crash: a, for: 1 s}",
    )
    assert run.returned["a"] == 250_000


def test_a_skewed_clock_is_ahead_and_runs_fast_until_it_is_right_again():
    async def look(node: Node) -> list[float]:
        loop = asyncio.get_running_loop()
        ahead = []
        for at in (1, 2, 4):
            await node.send("b", {})
            await asyncio.sleep(max(at - loop.time(), 0))
            ahead.append(node.now)
        return ahead

    run = play(
        {"a": look, "b": listen},
        "{at: 0.5 s, skew: {nodes: a, offset: +3 s, drift: 10 %}, for: 2 s}",
        background=["b"],
    )
    # Half a second of the run as it is, the rest at 11 tenths: what a sleeps is shorter by that.
    assert run.returned["a"] == pytest.approx([4, 5, 3.8], abs=1e-6)


def test_a_full_disk_can_be_read_and_deleted_from_and_not_be_written():
    async def write(node: Node) -> list[object]:
        await node.disk.write("old", b"as it was")
        await node.disk.write("other", b"of no use")
        seen: list[object] = []
        for at in (1.5, 3.5):
            await asyncio.sleep(at - node.now)
            try:
                await node.disk.write("old", b"new")
            except OSError as error:
                seen += [error.errno, error.filename, round(node.now, 3)]
            seen.append(await node.disk.read("old"))
            await node.disk.delete("other")
        return [*seen, list(node.disk)]

    run = play({"a": write}, "{at: 1 s, full_disk: a, for: 2 s}")
    assert run.returned["a"] == [errno.ENOSPC, "old", 1.502, b"as it was", b"new", ["old"]]


def test_a_write_under_way_fails_where_the_disk_has_filled_up_when_it_is_done():
    async def write(node: Node) -> tuple[int, float]:
        try:
            await node.disk.write("long", bytes(20_000_000))  # a second
        except OSError as error:
            return error.errno, node.now
        return 0, node.now

    run = play({"a": write}, "{at: 500 ms, full_disk: a}")
    assert run.returned["a"] == (errno.ENOSPC, pytest.approx(1.002))


# Links.


def test_a_tenth_of_the_bandwidth_makes_a_transfer_ten_times_as_long():
    whole = transfer_s()
    assert ON_THE_WIRE_S < whole < ON_THE_WIRE_S + START_S
    tenth = transfer_s("{at: 0 s, degrade: {link: [a, b], bandwidth: 10 %}}")
    assert tenth == pytest.approx(10 * whole, rel=0.02)
    absolute = transfer_s("{at: 0 s, degrade: {link: [a, b], bandwidth: 800 kbit/s}}")
    assert absolute == tenth


def test_a_degraded_link_delays_at_least_so_long_so_many_times_as_long_or_so_much_longer():
    def delay_s(delay: str) -> float:
        return play(
            {"a": sends(0), "b": hear_one}, f"{{at: 0 s, degrade: {{link: [a, b], {delay}}}}}"
        ).returned["b"]

    wire_s = play({"a": sends(0), "b": hear_one}).returned["b"] - 0.01
    assert delay_s("delay: 150 ms") == pytest.approx(0.15 + wire_s)
    assert delay_s("delay: 4x") == pytest.approx(0.04 + wire_s)
    assert delay_s("delay: +150 ms") == pytest.approx(0.16 + wire_s)


def test_one_way_of_a_link_can_be_worse_than_the_other():
    async def ping(node: Node) -> float:
        reply = await node.request("b", {}, timeout=10)
        return reply.arrived_at

    thin = "{at: 0 s, degrade: {link: [a, b], oneway: true, delay: +1 s}}"
    assert play({"a": ping, "b": echo}, thin, background=["b"]).returned["a"] == pytest.approx(
        1.02, abs=1e-3
    )


def test_a_lossy_link_loses_its_share_of_datagrams_each_by_itself():
    heard, run = chat("{at: 0 s, loss: {link: [a, b], chance: 20 %}}")
    assert run.ledger.fates()["lost"] == 2_000 - len(heard)
    assert len(heard) / 2_000 == pytest.approx(0.8, abs=0.03)
    # A run of losses ends with chance 0.8, so it is 1.25 long on average.
    assert mean_run_of_losses(heard) == pytest.approx(1.25, abs=0.1)


def test_a_burst_of_losses_takes_as_many_in_a_row_as_it_says():
    heard, _ = chat("{at: 0 s, burst_loss: {link: [a, b], chance: 20 %, burst: 8}}", count=8_000)
    assert len(heard) / 8_000 == pytest.approx(0.8, abs=0.05)
    assert mean_run_of_losses(heard) == pytest.approx(8, abs=1.5)


def mean_run_of_losses(heard: list[int]) -> float:
    gaps = [b - a - 1 for a, b in zip([-1, *heard], heard, strict=False) if b - a > 1]
    return sum(gaps) / len(gaps)


def test_a_damaged_datagram_is_no_message_and_a_stream_sends_it_again():
    damage = "{at: 0 s, corrupt: {link: [a, b], chance: 10 %}}"
    heard, run = chat(damage)
    assert run.ledger.fates()["corrupt"] == 2_000 - len(heard)
    assert len(heard) / 2_000 == pytest.approx(0.9, abs=0.02)
    assert transfer_s(damage) > 1.5 * transfer_s()


def test_a_doubled_datagram_comes_twice_and_a_stream_once():
    doubles = "{at: 0 s, duplicate: {link: [a, b], chance: 25 %}}"
    heard, run = chat(doubles)
    assert sorted(set(heard)) == list(range(2_000))
    assert len(heard) / 2_000 == pytest.approx(1.25, abs=0.03)
    assert run.ledger.fates() == {"delivered": len(heard)}
    assert transfer_s(doubles) == transfer_s()


def test_a_reordered_datagram_overtakes_those_whose_delay_it_skips():
    # One leaves each 2 ms, so one without a delay of 10 ms overtakes the last four.
    heard: list[int] = []
    play(
        {"a": chatter(2_000, every_s=0.002), "b": numbers(heard)},
        "{at: 0 s, reorder: {link: [a, b], chance: 5 %}}",
        background=["b"],
    )
    assert sorted(heard) == list(range(2_000))
    earlier = [place - i for place, i in enumerate(heard) if place < i]
    assert len(earlier) / 2_000 == pytest.approx(0.05, abs=0.015)
    assert min(earlier) == -4


def test_a_cut_link_carries_nothing_and_what_has_another_way_takes_it():
    assert answers("{at: 2.5 s, cut: {link: [a, b]}, for: 3 s}")[:7] == [True] * 3 + [False] * 3 + [
        True
    ]
    ring = network("a-b", "a-c", "c-b")
    run = play(
        {"a": ask_each_second, "b": echo},
        "{at: 2.5 s, cut: {link: [a, b]}, for: 3 s}",
        on=ring,
        background=["b"],
    )
    assert run.returned["a"] == pytest.approx([0.02] * 3 + [0.04] * 3 + [0.02] * 4, abs=0.003)


def test_a_flapping_link_is_down_and_up_and_down():
    flaps = "{at: 1.5 s, flap: {link: [a, b], down: 1 s, up: 2 s}, for: 7 s}"
    assert answers(flaps) == [i not in (2, 5, 8) for i in range(10)]


def test_a_partition_keeps_its_sides_from_each_other_and_lets_others_through():
    split = "{at: 2.5 s, partition: [[a], [b]], for: 3 s}"
    assert answers(split, on=CHAIN)[:6] == [True] * 3 + [False] * 3
    apart = "{at: 2.5 s, partition: [[a], [c]], for: 3 s}"
    assert all(answers(apart, on=CHAIN))


def test_a_one_way_partition_lets_the_other_way_through():
    async def both(node: Node) -> list[float]:
        other = "b" if node.name == "a" else "a"
        heard: list[float] = []
        note = heard.append

        async def hear() -> None:
            async for message in node:
                note(message.header["at"])

        hearing = asyncio.create_task(hear())
        for second in range(6):
            await node.send(other, {"at": second}, datagram=True)
            await asyncio.sleep(1)
        hearing.cancel()
        return heard

    deaf = "{at: 1.5 s, partition: {groups: [[a], [b]], oneway: true}, for: 3 s}"
    run = play({"a": both, "b": both}, deaf)
    assert run.returned == {"a": [0, 1, 2, 3, 4, 5], "b": [0, 1, 5]}


# NATs.


async def call_and_answer(node: Node) -> dict[str, object]:
    """b calls c at 3 s; a and c call b each second. Who got through when, by their own account."""
    heard: dict[str, list[int]] = {}

    async def hear() -> None:
        async for message in node:
            heard.setdefault(message.source, []).append(message.header["at"])

    hearing = asyncio.create_task(hear())
    for second in range(6):
        if node.name != "b":
            await node.send("b", {"at": second}, datagram=True)
        elif second == 3:
            await node.send("c", {"at": second}, datagram=True)
        await asyncio.sleep(1)
    hearing.cancel()
    return heard


def test_who_is_behind_a_nat_hears_only_those_whom_it_has_called():
    run = play(dict.fromkeys("abc", call_and_answer), "{at: 500 ms, nat: {nodes: b}}", on=CHAIN)
    # What c sends at 3 s leaves before it has heard of b.
    assert run.returned == {"a": {}, "b": {"a": [0], "c": [0, 4, 5]}, "c": {"b": [3]}}
    assert run.ledger.fates()["behind a NAT"] == 8


def test_a_stream_to_who_is_behind_a_nat_waits_until_it_calls():
    async def call(node: Node) -> list[object]:
        await asyncio.sleep(5)
        await node.send("a", {})
        message = await node.receive()
        return [message.header, message.arrived_at]

    async def wait(node: Node) -> None:
        await node.send("b", {"sent": node.now})
        await node.receive()
        await node.send("b", {"sent": 5})
        await asyncio.sleep(5)

    run = play({"a": wait, "b": call}, "{at: 0 s, nat: {nodes: b}}")
    header, arrived_s = run.returned["b"]
    assert header == {"sent": 0}
    assert 5.02 < arrived_s < 10.1


def test_a_nat_without_calls_keeps_everybody_out_and_its_end_lets_them_in():
    assert (
        answers("{at: 2.5 s, nat: {nodes: b}, for: 3 s}", on=CHAIN)[:6] == [True] * 3 + [False] * 3
    )


def test_a_gateway_relays_to_who_is_behind_it_and_answers_come_directly():
    # From a to b by way of c: twice over the link that they share. Three times the delay instead
    # of two, and back as ever.
    star = network("a-hub", "b-hub", "c-hub")
    run = play(
        {"a": ask_each_second, "b": echo},
        "{at: 2.5 s, nat: {nodes: b, gateway: c}}",
        on=star,
        background=["b"],
    )
    assert run.returned["a"] == pytest.approx([0.04] * 3 + [0.06] * 7, abs=0.005)


def test_those_behind_one_gateway_call_each_other_as_ever():
    home = "{at: 2.5 s, nat: {nodes: [a, b], gateway: c}}"
    run = play(
        {"a": ask_each_second, "b": echo},
        home,
        on=network("a-hub", "b-hub", "c-hub"),
        background=["b"],
    )
    assert run.returned["a"] == pytest.approx([0.04] * 10, abs=0.003)


# Others, and what was recorded.


def test_traffic_of_others_takes_its_rate_of_what_a_transfer_has():
    alone = transfer_s()
    shared = transfer_s("{at: 0 s, traffic: {from: a, to: b, rate: 4 Mbit/s}}")
    assert shared == pytest.approx(2 * alone, rel=0.1)
    # It lasts for as long as it says, and the other way is free.
    back = transfer_s("{at: 0 s, traffic: {from: b, to: a, rate: 8 Mbit/s}}")
    assert back == pytest.approx(alone, rel=0.02)


def test_a_recorded_bandwidth_is_what_a_link_has_at_most(tmp_path):
    (tmp_path / "line.txt").write_text("0 4\n1 0\n3 100\n10 100\n")
    took = transfer_s(
        "{at: 0 s, trace: {file: line.txt, link: [a, b], unit: Mbit/s}}", folder=tmp_path
    )
    # A second at half the speed, two at none, and the rest at full speed, once the timer that is
    # doubled each time has found that out.
    rest_s = ON_THE_WIRE_S - 0.5
    assert 3 + rest_s < took < 5 + rest_s


def test_recorded_packet_opportunities_are_what_a_link_has_at_most(tmp_path):
    # 1,500 bytes each 3 ms are 4 Mbit/s: half of what the link has.
    (tmp_path / "cell.trace").write_text("\n".join(str(ms) for ms in range(3, 6_001, 3)) + "\n")
    took = transfer_s("{at: 0 s, trace: {file: cell.trace, link: [a, b]}}", folder=tmp_path)
    assert took == pytest.approx(2 * transfer_s(), rel=0.05)


def test_recorded_devices_are_there_when_they_were(tmp_path):
    (tmp_path / "phones.json").write_text(PHONE)
    entry = "{at: 0 s, trace: {file: phones.json, nodes: b, as: crash}}"
    lines = faults.parse(f"name: test\ntimeline:\n  - {entry}\n", folder=tmp_path)
    run = broker.run(
        {"a": ask_each_second, "b": echo}, topology=PAIR, faults=lines, background=["b"]
    )
    there = [took is not None for took in run.returned["a"]]
    assert there == [i not in (3, 4, 8, 9) for i in range(10)]


PHONE = json.dumps({"1": {"active": [0, 5], "inactive": [2.5, 7.5], "finish_time": 10}})


# What only a run can know.


async def toil(node: Node) -> None:
    """a works most at first, and c in the end."""
    node.declare("foreman of all", ["c"])
    shares = {"a": (0.9, 0.1), "b": (0.4, 0.4), "c": (0.1, 0.95)}[node.name]
    for i in range(10):
        share = shares[i > 4]
        await node.compute(int, flops=share * 1e9)
        await asyncio.sleep(max(i + 1 - node.now, 0))


def test_the_busiest_is_who_has_asked_for_most_of_its_devices_time():
    workers = network("b-hub", "c-hub", "a-hub")
    work = dict.fromkeys("abc", toil)
    entries = [f"{{at: {at} s, pause: busiest node, for: 10 ms}}" for at in (2.5, 9.5)]
    run = play(work, *entries, on=workers)
    assert [event.nodes for event in run.faults] == [("a",), ("a",), ("c",), ("c",)]
    # A crash forgets it.
    crashed = play(work, *entries, "{at: 6.5 s, crash: c, for: 1 s}", on=workers)
    assert [e.nodes for e in crashed.faults if e.kind == "pause" and e.at_ns > 9e9] == [("a",)] * 2


def test_the_busiest_is_of_the_role_that_is_named_and_nobody_where_none_has_worked():
    async def work(node: Node) -> None:
        await node.compute(int, flops=1e9)
        await asyncio.sleep(2)

    idle = {"a": work, "b": listen}
    run = play(idle, "{at: 2 s, crash: busiest node, for: 1 s}", background=["b"])
    assert run.faults[0].nodes == ("a",)
    nobody = play({"a": sends(0, at_s=3), "b": hear_one}, "{at: 2 s, crash: busiest node}")
    assert nobody.faults[0].nodes == ()
    with pytest.raises(faults.ScenarioError, match=r'does not know "busiest host".*busiest node'):
        play(idle, "{at: 1 s, crash: busiest host}", background=["b"])


def test_what_a_program_declares_is_what_a_scenario_means():
    run = play(
        dict.fromkeys("abc", toil),
        "{at: 2.5 s, degrade: {nodes: foreman of all, delay: +1 s}, for: 1 s}",
        on=CHAIN,
    )
    assert run.faults[0].nodes == ("c",)
    assert run.faults[0].links == (("hub", "c"), ("c", "hub"))


# All of it at once.

EVERYTHING = """
name: everything
timeline:
  - {at: 100 ms, crash: b, for: 150 ms}
  - {at: 300 ms, stop: c, for: 200 ms}
  - {at: 350 ms, pause: d, for: 200 ms}
  - {at: 700 ms, leave: a, for: 1.3 s}
  - {at: 250 ms, join: d}
  - {at: 500 ms, slow: {nodes: [s, favorite of all], compute: 3x}, for: 1 s}
  - {at: 300 ms, squeeze: {nodes: any 2 of role=node, memory: 500 B}, for: 400 ms}
  - {at: 200 ms, skew: {nodes: a, offset: -1 s, drift: 5 %}, for: 1 s}
  - {at: 500 ms, full_disk: c, for: 300 ms}
  - {at: 400 ms, degrade: {link: [a, hub], bandwidth: 50 %, delay: +20 ms}, for: 1 s}
  - {at: 600 ms, degrade: {nodes: favorite of all, oneway: true, jitter: +1 ms}, for: 1 s}
  - {at: 100 ms, loss: {nodes: b, chance: +5 %}, for: 2 s}
  - {at: 100 ms, burst_loss: {nodes: c, chance: 5 %, burst: 4}, for: 2 s}
  - {at: 100 ms, corrupt: {nodes: d, chance: 5 %}, for: 2 s}
  - {at: 100 ms, duplicate: {link: [hub, a], oneway: true, chance: 20 %}, for: 2 s}
  - {at: 100 ms, reorder: {nodes: b, chance: 20 %}, for: 2 s}
  - {at: 1.1 s, cut: {link: [c, hub]}, for: 200 ms}
  - {at: 1.4 s, flap: {link: [b, hub], down: 50 ms, up: 100 ms}, for: 400 ms}
  - {at: 1.2 s, partition: [[a], [s, d]], for: 300 ms}
  - {at: 1.6 s, partition: {groups: [[b], [others]], oneway: true}, for: 200 ms}
  - {at: 1.9 s, nat: {nodes: c}, for: 300 ms}
  - {at: 2.0 s, nat: {nodes: b, gateway: d}, for: 400 ms}
  - {at: 300 ms, traffic: {from: s, to: [a, b], rate: 1 Mbit/s}, for: 1 s}
  - {at: 0 s, trace: {file: line.txt, link: [d, hub], unit: Mbit/s}, for: 2 s}
  - {at: 1 s, trace: {file: devices.json, nodes: [c, d], as: pause}, for: 1 s}
  - {at: 1.5 s, pause: busiest node, for: 100 ms}
  - {at: 2.4 s, crash: favorite of all, for: 200 ms}
processes:
  - churn: {nodes: b, mean_up: 1 s, mean_down: 100 ms, until: 2 s}
  - crashes: {nodes: [a, b], mean_between: 1 s, mean_down: 100 ms, until: 2 s}
  - flapping: {nodes: c, mean_up: 1 s, mean_down: 50 ms, until: 2 s}
  - diurnal: {nodes: a, most: 100 %, least: 50 %, day: 1 s, mean_stay: 200 ms, until: 2 s, as: stop}
"""


def test_the_run_writes_every_event_concrete_and_that_is_the_same_run_again(tmp_path):
    (tmp_path / "line.txt").write_text("0 1\n0.3 0\n0.4 5\n0.8 5\n")
    devices = {"x": {"active": [0], "inactive": [0.3], "finish_time": 0.4}}
    (tmp_path / "devices.json").write_text(json.dumps(devices))
    scenario = faults.parse(EVERYTHING, folder=tmp_path)
    kinds = {fault.kind for fault in scenario.timeline}
    assert kinds == set(faults.KINDS)
    assert {process.kind for process in scenario.processes} == set(faults.PROCESSES)

    digest, run = everything(faults=scenario)
    written = faults.concrete(run.faults, name="again")
    assert " of all" not in written
    assert "busiest" not in written
    again, rerun = everything(faults=faults.parse(written))
    assert list(rerun.ledger) == list(run.ledger)
    assert again == digest
    assert rerun.digest == run.digest
    assert everything(processes=2, faults=scenario)[0] == digest


# What an event costs.


@cache
def places(devices: int) -> Topology:
    """Three gateways in a ring, and devices behind them."""
    behind = [f"device{i}-g{i % 3}" for i in range(devices)]
    return network("g0-g1", "g1-g2", "g2-g0", *behind)


@pytest.mark.parametrize(
    "entry",
    [
        "{at: 1 s, crash: device7, for: 1 s}",
        "{at: 1 s, leave: device7, for: 3 s}",
        "{at: 1 s, pause: device7, for: 1 s}",
        "{at: 1 s, slow: {nodes: device7, compute: 2x}, for: 1 s}",
        "{at: 1 s, squeeze: {nodes: device7, memory: 50 %}, for: 1 s}",
        "{at: 1 s, degrade: {nodes: device7, bandwidth: 50 %, delay: +1 s}, for: 1 s}",
        "{at: 1 s, loss: {link: [device7, g1], chance: 1 %}, for: 1 s}",
        "{at: 1 s, cut: {nodes: device7}, for: 1 s}",
        "{at: 1 s, degrade: {link: [g0, g1], bandwidth: 50 %}, for: 1 s}",
        "{at: 1 s, partition: [[device7], [device8]], for: 1 s}",
        "{at: 1 s, nat: {nodes: device7, gateway: g2}, for: 1 s}",
        "{at: 1 s, traffic: {from: device7, to: g2, rate: 1 Mbit/s}, for: 1 s}",
    ],
)
def test_an_event_costs_what_it_touches_and_not_what_the_network_has(entry):
    def calls(devices: int) -> int:
        topology = places(devices)
        names = tuple(topology.nodes)
        scenario = faults.parse(f"name: one\ntimeline:\n  - {entry}\n")
        troubles, model = Troubles(scenario, topology, 0, names), Network(topology, 0)
        model.lookahead_ns(names)
        # Everybody sends to somebody at the same gateway, and none is done before the end.
        for i in range(devices):
            model.send(0, i, f"device{i}", f"device{(i + 3) % devices}", 10**7)
        profile = cProfile.Profile()
        while (at_ns := troubles.next_ns()) is not None:
            model.advance(at_ns - 1)
            profile.runcall(strike, at_ns, troubles, model, names)
        assert model.in_flight()
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(600) < 4 * calls(60)  # in ten times the network


def strike(at_ns: int, troubles: Troubles, model: Network, names: tuple[str, ...]) -> None:
    troubles.strike(at_ns, {})
    model.apply(at_ns, troubles.conditions)
    model.lookahead_ns(names)
    model.next_ns()
