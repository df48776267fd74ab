"""How exact and how fast the TCP proxy is, beside bare relays and Toxiproxy in the same rounds.

    python benchmarks/proxy.py [--rounds 5] [--toxiproxy PROGRAM] [--out FILE]
    python benchmarks/proxy.py --table [--out FILE]      # what was measured, as Markdown

Client, proxy and server are processes of their own, all on loopback. Each row is measured in each
round, next to its peers; given are medians over the rounds. Toxiproxy is in no package registry:
with `--toxiproxy` a server that you have built takes part. Its published figures are those of its
README (added latency "< 100 µs"; "~1000 MB/s" on a laptop) and say nothing of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import proxy_ends as ends
from benchmarks.proxy_ends import Address

RESULTS = Path(__file__).parent / "results" / "proxy.json"
PAYLOAD_SHARE = 1448 / 1514
DELAYS_MS = (1, 5, 50)
RATES_MBIT = (1, 10, 100, 1_000)
SECONDS = 1.0
TRIPS, PLAIN_TRIPS = 40, 1_000
BULK = 256 * 2**20
Row = dict[str, Any]
Way = Callable[[Address], AbstractContextManager[Address]]


def network(delay_ms: float, mbit: float) -> str:
    """A topology of one link."""
    link = f"bandwidth: {mbit} Mbit/s, delay: {delay_ms} ms"
    links = f"links: [{{between: [phone, shop], {link}}}]"
    return f"name: pair\nnodes: {{phone: {{}}, shop: {{}}}}\n{links}\n"


@contextlib.contextmanager
def shaped(upstream: Address, delay_ms: float, mbit: float) -> Iterator[Address]:
    """Our proxy with such a link."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.yaml"
        path.write_text(network(delay_ms, mbit), encoding="utf-8")
        with ends.ours(upstream, path) as where:
            yield where


def ways(
    toxiproxy: Path | None, toxics: list[dict[str, object]], link: tuple[float, float]
) -> dict[str, Way]:
    """Our proxy, and Toxiproxy where there is one, set to the same."""
    found: dict[str, Way] = {"ours": lambda upstream: shaped(upstream, *link)}
    if toxiproxy is not None:
        found["toxiproxy"] = lambda upstream: ends.toxiproxy(upstream, toxiproxy, toxics)
    return found


def latency(asked_ms: int) -> list[dict[str, object]]:
    """Toxiproxy's toxics for such a delay each way."""
    attributes = {"latency": asked_ms}
    return [
        {"type": "latency", "stream": stream, "attributes": attributes}
        for stream in ("upstream", "downstream")
    ]


def delays(upstream: Address, rounds: int, toxiproxy: Path | None) -> list[Row]:
    """By how much later than asked bytes are there, one way, at low load."""
    rows = []
    for asked_ms in DELAYS_MS:
        found: dict[str, list[list[float]]] = {}
        for _ in range(rounds):
            for name, way in ways(toxiproxy, latency(asked_ms), (asked_ms, 10_000)).items():
                with way(upstream) as where:
                    trips = ends.round_trips(where, TRIPS)
                late = sorted((trip - 2 * asked_ms / 1e3) / 2 * 1e6 for trip in trips)
                found.setdefault(name, []).append(
                    [late[len(late) // 2], late[int(len(late) * 0.95)]]
                )
        row: Row = {
            "part": "delay",
            "what": f"{asked_ms} ms one way: later than asked",
            "unit": "µs",
        }
        for name, seen in found.items():
            row[name] = [round(statistics.median(column)) for column in zip(*seen, strict=True)]
        rows.append(row)
    return rows


def bandwidths(upstream: Address, rounds: int, toxiproxy: Path | None) -> list[Row]:
    """What of the bytes that were asked for gets through once windows are open."""
    rows = []
    for mbit in RATES_MBIT:
        found: dict[str, list[float]] = {}
        wanted = mbit * 1e6 / 8
        toxics: list[dict[str, object]] = [
            {"type": "bandwidth", "stream": "upstream", "attributes": {"rate": round(wanted / 1e3)}}
        ]
        for _ in range(rounds):
            for name, way in ways(toxiproxy, toxics, (1, mbit)).items():
                with way(upstream) as where:
                    seen = ends.rate(ends.upload(where, round(wanted * SECONDS)))
                asked = wanted * (PAYLOAD_SHARE if name == "ours" else 1)
                found.setdefault(name, []).append(seen / asked - 1)
        row: Row = {"part": "bandwidth", "what": f"{mbit:,} Mbit/s: more than asked", "unit": "%"}
        for name, errors in found.items():
            row[name] = [round(statistics.median(errors) * 100, 2)]
        rows.append(row)
    return rows


def shared(upstream: Address, rounds: int, toxiproxy: Path | None) -> list[Row]:
    """What four connections over one link of 40 Mbit/s get together, as a part of it."""
    found: dict[str, list[float]] = {}
    wanted = 40e6 / 8
    toxics: list[dict[str, object]] = [
        {"type": "bandwidth", "stream": "upstream", "attributes": {"rate": round(wanted / 1e3)}}
    ]
    for _ in range(rounds):
        for name, way in ways(toxiproxy, toxics, (1, 40)).items():
            with way(upstream) as where, ThreadPoolExecutor(4) as threads:
                seen = list(threads.map(ends.upload, [where] * 4, [2_000_000] * 4))
            begun = min(one[0][0] for one in seen)
            ended = max(one[-1][0] for one in seen)
            together = sum(one[-1][1] for one in seen) / (ended - begun)
            found.setdefault(name, []).append(together / wanted)
    row: Row = {
        "part": "sharing",
        "what": "4 connections on a link of 40 Mbit/s, together",
        "unit": "of it",
    }
    for name, parts in found.items():
        row[name] = [round(statistics.median(parts), 2)]
    return [row]


def plain(upstream: Address, rounds: int, toxiproxy: Path | None) -> list[Row]:
    """Without a network: bytes a second and round trips, beside relays that do nothing else."""
    relays: dict[str, Way] = {
        "asyncio": lambda there: ends.relay(there, "asyncio"),
        "uvloop": lambda there: ends.relay(there, "uvloop"),
        "ours": lambda there: ends.ours(there, None),
    }
    if toxiproxy is not None:
        relays["toxiproxy"] = lambda there: ends.toxiproxy(there, toxiproxy, [])
    speeds: dict[str, list[float]] = {name: [] for name in relays}
    trips: dict[str, list[float]] = {name: [] for name in relays}
    for _ in range(rounds):
        for name, way in relays.items():
            with way(upstream) as where:
                ends.round_trips(where, 50)
                trips[name].append(statistics.median(ends.round_trips(where, PLAIN_TRIPS)) * 1e6)
                speeds[name].append(ends.rate(ends.upload(where, BULK)) / 1e6)
    return [
        _beside("one connection, unshaped", "MB/s", speeds, larger=True),
        _beside("64 bytes there and back, unshaped", "µs", trips, larger=False),
    ]


def _beside(what: str, unit: str, seen: dict[str, list[float]], *, larger: bool) -> Row:
    """Medians, and the ratio to each peer, taken within the rounds; over 1 is better."""
    row: Row = {"part": "plain", "what": what, "unit": unit}
    for name, values in seen.items():
        row[name] = [round(statistics.median(values), 1)]
    row["ratio"] = {
        name: round(
            statistics.median(
                a / b if larger else b / a for a, b in zip(seen["ours"], values, strict=True)
            ),
            2,
        )
        for name, values in seen.items()
        if name != "ours"
    }
    return row


def table(results: Row) -> str:
    """What was measured, as Markdown."""
    names = ("ours", "toxiproxy", "asyncio", "uvloop")
    lines = ["| | our proxy | Toxiproxy | bare asyncio | bare uvloop |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        cells = [
            " / ".join(f"{value:,}" for value in row[name]) + f" {row['unit']}"
            if name in row
            else ""
            for name in names
        ]
        lines.append(f"| {row['what']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toxiproxy", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.out.read_text(encoding="utf-8"))))
        return
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with ends.server() as upstream:
        for part in (delays, bandwidths, shared, plain):
            rows += part(upstream, given.rounds, given.toxiproxy)
            print(table({"rows": rows[-4:]}), flush=True)
    results = {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "rounds": given.rounds,
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
        "rows": rows,
    }
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
