"""How fast and how exact the bus is, beside zmq.proxy in the same rounds.

    python benchmarks/bus.py [--only wall|virtual|hour|fuzz] [--rounds 5] [--out FILE]
    python benchmarks/bus.py --table [--out FILE]      # what was measured, as Markdown

Sender, broker and receiver are separate processes. Each row is measured in each round, next to its
peer, and a ratio is taken within the round; given are medians over the rounds, and the spread.
Toxiproxy is in no package registry: its figures are those that were measured once on a machine of
this kind, and they say so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq

sys.path.insert(0, str(Path(__file__).parent.parent))

import broker
from benchmarks import bus_ends as ends

RESULTS = Path(__file__).parent / "results" / "bus.json"
HOPS = 3
SMALL, LARGE = 100, 1_000_000
PACKED = 16
VIRTUAL_NODES = (10, 100, 1_000)
VIRTUAL_MESSAGES = 50_000
FUZZED = 100_000
TOXIPROXY_US = {5: 766, 50: 778}
_LAST = 2**60
PAYLOAD_SHARE = 1448 / 1514
Row = dict[str, Any]


def small(rounds: int) -> list[Row]:
    """100 B through 3 shaped hops, one in a packet and packed, over what zmq.proxy does."""
    topology = ends.chain(HOPS, 0.005, 10e9)
    rates: dict[str, list[float]] = {"peer": [], "single": [], "packed": []}
    cpu: dict[str, list[float]] = {"single": [], "packed": []}
    late: dict[str, list[float]] = {"single": [], "packed": []}
    for _ in range(rounds):
        rates["peer"].append(ends.proxy_rate(300_000, SMALL))
        for name, packed in (("single", 1), ("packed", PACKED)):
            count = 200_000 if packed == 1 else 400_000
            rate, busy_s, account = ends.through(
                topology,
                "tcp",
                (ends.small_sender, count, SMALL, packed),
                (ends.small_receiver, count, SMALL),
            )
            rates[name].append(rate)
            cpu[name].append(busy_s / count * 1e6)
            late[name].append(account.lag_s)
    texts = {"single": "100 B, shaped, 3 hops, tcp", "packed": f"the same, {PACKED} in a packet"}
    return [
        _ratio(texts[name], rates[name], rates["peer"], "zmq.proxy, tcp", goal)
        | {
            "unit": "messages/s",
            "cpu_us_a_message": round(statistics.median(cpu[name]), 2),
            "lag_s": round(statistics.median(late[name]), 4),
        }
        for name, goal in (("single", 0.5), ("packed", 0.8))
    ]


def large(rounds: int) -> list[Row]:
    """1 MB over tcp and through shared memory, over what zmq.proxy does over tcp."""
    topology = ends.chain(HOPS, 0.0006, 1e12)
    ways = {"tcp": ("tcp", False, 1_500), "shared": ("ipc", True, 6_000)}
    rates: dict[str, list[float]] = {"peer": [], **{name: [] for name in ways}}
    for _ in range(rounds):
        rates["peer"].append(ends.proxy_rate(1_500, LARGE))
        for name, (transport, share, count) in ways.items():
            seen, _, _ = ends.through(
                topology,
                transport,
                (ends.large_sender, count, LARGE, share, 0.0),
                (ends.large_receiver, count, share),
            )
            rates[name].append((count - 1) / (seen[-1][1] - seen[0][1]) * 1e9)
    return [
        _ratio("1 MB, shaped, 3 hops, tcp", rates["tcp"], rates["peer"], "zmq.proxy, tcp", 1.0)
        | {"unit": "messages/s"},
        _ratio("1 MB, shared memory", rates["shared"], rates["peer"], "zmq.proxy, tcp", 5.0)
        | {"unit": "messages/s"},
    ]


def delays(rounds: int) -> list[Row]:
    """How much later than asked a message is there, at low load."""
    rows: list[Row] = []
    for size, asked_ms in ((SMALL, 5), (SMALL, 50), (LARGE, 50)):
        middle: list[float] = []
        worst: list[float] = []
        topology = ends.chain(HOPS, asked_ms / 1e3, 1e12)
        for _ in range(rounds):
            seen, _, _ = ends.through(
                topology,
                "ipc",
                (ends.large_sender, 200, size, True, 0.005),
                (ends.large_receiver, 200, True),
            )
            errors = sorted((there - sent) / 1e3 - asked_ms * 1e3 for sent, there, _ in seen)
            middle.append(errors[len(errors) // 2])
            worst.append(errors[int(len(errors) * 0.99)])
        rows.append(
            {
                "what": f"delay error, {asked_ms} ms, {'100 B' if size == SMALL else '1 MB'}",
                "unit": "µs",
                "value": round(statistics.median(middle)),
                "p99": round(statistics.median(worst)),
                "spread": [round(min(middle)), round(max(middle))],
                "peer": "Toxiproxy 2.7, as stored" if size == SMALL else "",
                "peer_value": TOXIPROXY_US[asked_ms] if size == SMALL else None,
                "goal": 300 if size == SMALL else None,
                "met": statistics.median(middle) <= 300,
            }
        )
    return rows


def bandwidths(rounds: int) -> list[Row]:
    """Payload that gets through, over what the rate on the wire allows."""
    rows: list[Row] = []
    for rate, size, count in ((10e6, 10_000, 400), (100e6, 50_000, 600), (1e9, 100_000, 2_000)):
        errors: list[float] = []
        for _ in range(rounds):
            seen, _, _ = ends.through(
                ends.chain(1, 0.001, rate),
                "ipc",
                (ends.large_sender, count, size, True, 0.0),
                (ends.large_receiver, count, True),
            )
            half = seen[len(seen) // 3 :]  # after slow start
            bits = sum(size for _, _, size in half[1:]) * 8
            got = bits / ((half[-1][1] - half[0][1]) / 1e9)
            errors.append(abs(got / (rate * PAYLOAD_SHARE) - 1) * 100)
        rows.append(
            {
                "what": f"bandwidth error at {rate / 1e6:,.0f} Mbit/s",
                "unit": "%",
                "value": round(statistics.median(errors), 3),
                "spread": [round(min(errors), 3), round(max(errors), 3)],
                "peer": "what the rate on the wire allows (1448 of 1514 bytes)",
                "goal": 1.0,
                "met": statistics.median(errors) <= 1.0,
            }
        )
    return rows


def virtual(rounds: int) -> list[Row]:
    """Messages a second of real time in virtual time, and how that grows with the nodes.

    A rate is what a longer run takes more than a short one, so that putting up and taking down
    (which are measured apart) don't count.
    """

    def took(nodes: int, each: float, seconds: float, processes: int) -> tuple[float, int]:
        topology = ends.star(nodes, each, seconds)
        programs = {f"n{i}": ends.chat for i in range(nodes)}
        begin = time.perf_counter()
        run = broker.run(programs, topology=topology, seed=1, processes=processes)
        return time.perf_counter() - begin, len(run.ledger)

    def rate(nodes: int, each: float, messages: int, processes: int) -> tuple[float, float]:
        """Messages a second, and what the shortest run takes, in seconds."""
        short_s, few = took(nodes, each, 1 / each, processes)
        long_s, many = took(nodes, each, messages / nodes / each, processes)
        return (many - few) / (long_s - short_s), short_s

    def alone(nodes: int) -> float:
        topology = ends.star(nodes, 100, VIRTUAL_MESSAGES / nodes / 100)
        begin = time.perf_counter()
        return ends.bare(topology, nodes) / (time.perf_counter() - begin)

    rows = []
    for nodes in VIRTUAL_NODES:
        for transport, processes, goal in (("inproc", 1, 40_000), ("ipc, 2 processes", 2, 15_000)):
            found = [
                (alone(nodes), *rate(nodes, 100, VIRTUAL_MESSAGES, processes))
                for _ in range(rounds)
            ]
            ratios = [shaped / bare for bare, shaped, _ in found]
            what = f"virtual time, {nodes:,} nodes, {transport}"
            row = _plain(what, [shaped for _, shaped, _ in found], "messages/s", goal)
            row |= {
                "peer": "the programs alone, in one asyncio loop",
                "peer_value": round(statistics.median(bare for bare, _, _ in found)),
                "ratio": round(statistics.median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "start_s": round(statistics.median(start_s for *_, start_s in found), 2),
            }
            rows.append(row)
    few = [rate(10, 10, VIRTUAL_MESSAGES, 1)[0] for _ in range(rounds)]
    many = [rate(1_000, 10, VIRTUAL_MESSAGES, 1)[0] for _ in range(rounds)]
    growth = [a / b for a, b in zip(few, many, strict=True)]
    return [*rows, _plain("cost a message, 1,000 nodes over 10", growth, "x", 3.0, at_most=True)]


def hour() -> list[Row]:
    """A thousand nodes that each tell one of the others something every ten seconds."""
    topology = ends.star(1_000, 0.1, 3_600)
    programs = {f"n{i}": ends.gossip for i in range(1_000)}
    begin = time.perf_counter()
    run = broker.run(programs, topology=topology, seed=1)
    took_s = time.perf_counter() - begin
    what = f"1,000 nodes for an hour of virtual time, {len(run.ledger):,} messages"
    return [_plain(what, [took_s], "s", 60, at_most=True)]


def fuzz(count: int = FUZZED) -> list[Row]:
    """Packets with something wrong with them: no crash, no hang, no leak."""
    with ends.process(ends.bus, ends.chain(1, 0.001, 1e9), "ipc") as middle:
        endpoint = ends.answer(middle)
        port = ends.Port(endpoint, ["a"], word=ends.WORD)
        other = ends.Port(endpoint, ["b"], word=ends.WORD)
        while port.start_ns is None:
            port.read()
        begin = time.perf_counter()
        for number, packet in enumerate(ends.mutated(count, port._word)):
            port.send_packet(packet)
            if number % 100 == 0:
                port.read()
                other.read()
        port.send([ends.Frame(ends.Kind.SEND, 0, 1, _LAST, 0, port.now_ns())])
        heard: list[Any] = []
        until = time.monotonic() + ends.DEADLINE_S
        while not any(frame.sequence == _LAST for frame in heard):
            if time.monotonic() > until:
                raise TimeoutError("the bus no longer answers")
            heard = [frame for frame in other.read() if frame.kind == ends.Kind.DELIVER]
            other.socket.poll(50)
        seconds = time.perf_counter() - begin
        port.close()
        other.close()
        middle.send("end")
        _, account = ends.answer(middle)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    refused = sum(account.malformed.values())
    return [
        {
            "what": f"{count:,} mutated packets",
            "unit": "refused",
            "value": refused,
            "reasons": account.malformed,
            "seconds": round(seconds, 1),
            "peak_mib": round(peak),
            "goal": None,
            "met": True,
        }
    ]


def _ratio(
    what: str, ours: Sequence[float], theirs: Sequence[float], peer: str, goal: float
) -> Row:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "what": what,
        "value": round(statistics.median(ours)),
        "peer": peer,
        "peer_value": round(statistics.median(theirs)),
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "goal": goal,
        "met": statistics.median(ratios) >= goal,
    }


def _plain(
    what: str, values: Sequence[float], unit: str, goal: float, *, at_most: bool = False
) -> Row:
    middle = statistics.median(values)
    digits = 2 if middle < 100 else 0
    return {
        "what": what,
        "unit": unit,
        "value": round(middle, digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
        "goal": goal,
        "met": middle <= goal if at_most else middle >= goal,
    }


def machine() -> dict[str, Any]:
    """What all this was measured on."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| what | measured | beside | ratio | goal | |", "|---|---|---|---|---|---|"]
    for row in results["rows"]:
        unit = row.get("unit", "")
        value = f"{row['value']:,} {unit}"
        if "p99" in row:
            value += f" (p99 {row['p99']:,})"
        peer = row.get("peer", "")
        if row.get("peer_value") is not None:
            peer = f"{row['peer_value']:,} {unit} ({peer})"
        ratio = f"{row['ratio']}" if "ratio" in row else ""
        spread = row.get("spread")
        if spread and spread[0] != spread[1]:
            shown = f"{spread[0]:,} to {spread[1]:,}"
            if ratio:
                ratio += f" ({shown})"
            else:
                value += f", {shown}"
        goal = "" if row["goal"] is None else f"{row['goal']:,}"
        verdict = "" if row["goal"] is None else ("met" if row["met"] else "**not met**")
        lines.append(f"| {row['what']} | {value} | {peer} | {ratio} | {goal} | {verdict} |")
    about = results["machine"]
    loads = results["load_average"]
    lines += [
        "",
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}, Python "
        f"{about['python']}, libzmq {about['libzmq']}; median of {results['rounds']} rounds; load "
        f"average {loads[0]:.1f} before and {loads[1]:.1f} after.",
    ]
    return "\n".join(lines)


PARTS: dict[str, Sequence[Callable[[int], list[Row]]]] = {
    "wall": (small, large, delays, bandwidths),
    "virtual": (virtual,),
    "hour": (lambda _: hour(),),
    "fuzz": (lambda _: fuzz(),),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--only", choices=sorted(PARTS), help="only this part")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what was measured, and end")
    options = parser.parse_args()
    if not options.table:
        before = os.getloadavg()[0]
        rows: list[Row] = []
        for name in [options.only] if options.only else list(PARTS):
            for part in PARTS[name]:
                for row in part(options.rounds):
                    rows.append(row | {"part": name})
                    print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
        kept: list[Row] = []
        if options.only and options.out.exists():
            kept = json.loads(options.out.read_text())["rows"]
            kept = [row for row in kept if row["part"] != options.only]
        rows = sorted([*kept, *rows], key=lambda row: list(PARTS).index(row["part"]))
        results = {
            "machine": machine(),
            "rounds": options.rounds,
            "load_average": [before, os.getloadavg()[0]],
            "rows": rows,
        }
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(table(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
