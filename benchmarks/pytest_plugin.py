"""What a test in virtual time costs: an hour with 5,000 messages, and how many trials a second.

    python benchmarks/pytest_plugin.py [--rounds 5] [--out FILE]
    python benchmarks/pytest_plugin.py --table [--out FILE]      # what was measured, as Markdown

Times are the processor's, of one process, so that what else runs on the machine counts little.
Given are medians over the rounds, and the worst of them. The bugs are those of examples/exploring,
each looked for by `python -m broker explore` as anybody would, and by the wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import topologies
from broker.testing import World

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "pytest_plugin.json"
EXAMPLES = REPOSITORY / "examples" / "exploring"
BUGS = {
    "a lost acknowledgement": "test_meter.py::test_every_reading_arrives",
    "a double payment": "test_payments.py::test_every_bill_is_paid_once",
    "two leaders at once": "test_election.py::test_there_are_never_two_leaders",
}
REQUESTS = 2_500
Row = dict[str, Any]


async def answer(node: Any) -> None:
    async for message in node:
        await message.reply(message.header)


def hour() -> tuple[float, int]:
    """Processor seconds of a virtual hour of requests and answers; how many messages that is."""
    network = topologies.load("edge-clusters")
    began = time.process_time()
    with World(network, seed=1) as world:
        world.start("host-0", answer)
        client = world.node("client-0")

        async def story() -> None:
            for number in range(REQUESTS):
                await client.request("host-0", {"number": number}, timeout=30)
                await asyncio.sleep(1.4)

        world.run(story())
        assert world.now > 3600
    return time.process_time() - began, len(world.ledger)


def empty() -> float:
    """Processor seconds of a world in which nothing happens for an hour."""
    network = topologies.load("edge-clusters")
    began = time.process_time()
    for _ in range(50):
        with World(network) as world:
            world.run(asyncio.sleep(3600))
    return (time.process_time() - began) / 50


def bug(target: str) -> Row:
    """What exploring finds of one example, and how soon."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "broker", "explore", str(EXAMPLES / target), "--out", folder,
             *_kinds(target)],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        seconds = time.monotonic() - began
    assert done.returncode == 1, done.stdout + done.stderr
    said = re.search(r"^(\S+ fails under seed .*)$", done.stdout, re.MULTILINE)
    tried = re.search(r"([\d,]+) scenarios in ([\d.]+) s \(([\d,]+) a second\)", done.stdout)
    shrunk = re.search(r"Shrunk from (\d+) faults? to (\d+), and from (\d+) nodes to (\d+)",
                       done.stdout)  # fmt: skip
    assert said, done.stdout
    assert tried, done.stdout
    assert shrunk, done.stdout
    return {
        "found": said[1],
        "seconds": round(seconds, 1),
        "scenarios": int(tried[1].replace(",", "")),
        "faults": [int(shrunk[1]), int(shrunk[2])],
        "nodes": [int(shrunk[3]), int(shrunk[4])],
    }


def _kinds(target: str) -> list[str]:
    """The kinds that the example's own mark names."""
    text = (EXAMPLES / target.partition("::")[0]).read_text()
    named = re.search(r"kinds=\[(.*?)\]", text, re.DOTALL)
    assert named
    return [word for kind in re.findall(r'"(\w+)"', named[1]) for word in ("--kind", kind)]


def rate() -> float:
    """Scenarios a second, of the example of payments with its bug mended, all cores."""
    text = (EXAMPLES / "test_payments.py").read_text()
    before = 'self.paid.append(message.header["euros"])'
    after = 'self.paid += [message.header["euros"]] * (message.header["bill"] == len(self.paid))'
    assert before in text
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_mended.py").write_text(text.replace(before, after))
        done = subprocess.run(
            [sys.executable, "-m", "broker", "explore",
             "test_mended.py::test_every_bill_is_paid_once", "--seeds", "1000",
             *_kinds("test_payments.py")],
            cwd=folder, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    found = re.search(r"1,000 scenarios in ([\d.]+) s", done.stdout)
    assert found, done.stdout + done.stderr
    return 1000 / float(found[1])


def table(known: Row) -> str:
    """What was measured, as Markdown."""
    hours, bugs = known["hour"], known["bugs"]
    lines = [
        "| what | measured |",
        "|---|---|",
        f"| a virtual hour with {hours['messages']:,} messages | {hours['median_s']:.2f} s "
        f"(at worst {hours['worst_s']:.2f} s) |",
        f"| a network of 33 nodes, made and closed | {known['empty_s'] * 1e3:.1f} ms |",
        f"| explored in a second, {known['cores']} cores | {known['rate']:.0f} scenarios |",
    ]
    for name, row in bugs.items():
        lines.append(
            f"| {name}: found and shrunk | {row['seconds']:.1f} s; scenario "
            f"{row['scenarios']:,}; {row['faults'][0]} → {row['faults'][1]} faults, "
            f"{row['nodes'][0]} → {row['nodes'][1]} nodes |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if not options.table:
        hours = [hour() for _ in range(options.rounds)]
        measured = {
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "hour": {
                "messages": hours[0][1],
                "median_s": statistics.median(seconds for seconds, _ in hours),
                "worst_s": max(seconds for seconds, _ in hours),
            },
            "empty_s": statistics.median(empty() for _ in range(options.rounds)),
            "bugs": {name: bug(target) for name, target in BUGS.items()},
            "rate": rate(),
        }
        options.out.write_text(json.dumps(measured, indent=1) + "\n")
    print(table(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
