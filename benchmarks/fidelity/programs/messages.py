"""The transfers of cells in SimGrid 3.32; run by the Python that has its module.

    python3.11 messages.py [--cfg=… …] < CELLS

A line of CELLS is `{"size_bytes", "flows", "cross_bps", "hops": [[bandwidth_bps, delay_s], …]}`.
For each a line is printed, the completion times of its flows, as JSON. An engine lives once in a
process, so each cell has a process of its own, forked from this one.
"""

import json
import os
import sys
import tempfile

import simgrid

START_S = 1.0
PLATFORM = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1"><zone id="all" routing="Full">
{hosts}{links}{routes}</zone></platform>
"""


def platform(cell: dict) -> str:
    """A host for each flow, one target, and the links between them."""
    names = [*(f"source-{number}" for number in range(cell["flows"])), "other"]
    hosts = "".join(f'<host id="{name}" speed="1Gf"/>\n' for name in (*names, "target"))
    links = "".join(
        f'<link id="hop-{number}" bandwidth="{bps / 8}Bps" latency="{delay_s}s" '
        'sharing_policy="SPLITDUPLEX"/>\n'
        for number, (bps, delay_s) in enumerate(cell["hops"])
    )
    steps = "".join(
        f'<link_ctn id="hop-{number}" direction="UP"/>' for number in range(len(cell["hops"]))
    )
    back = "".join(
        f'<link_ctn id="hop-{number}" direction="DOWN"/>'
        for number in reversed(range(len(cell["hops"])))
    )
    routes = "".join(
        f'<route src="{name}" dst="target" symmetrical="NO">{steps}</route>\n'
        f'<route src="target" dst="{name}" symmetrical="NO">{back}</route>\n'
        for name in names
    )
    return PLATFORM.format(hosts=hosts, links=links, routes=routes)


def run(cell: dict) -> None:
    """Runs a cell and prints its times."""
    engine = simgrid.Engine(["messages", *sys.argv[1:], "--log=root.thresh:warning"])
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(platform(cell))
        file.flush()
        engine.load_platform(file.name)
    took = [0.0] * cell["flows"]
    target = simgrid.Host.by_name("target")

    def send(number: int) -> None:
        simgrid.this_actor.sleep_for(START_S)
        begun = simgrid.Engine.clock
        here = simgrid.Host.by_name(f"source-{number}")
        simgrid.Comm.sendto(here, target, cell["size_bytes"])
        took[number] = simgrid.Engine.clock - begun

    def disturb() -> None:
        stream = simgrid.Mailbox.by_name("other").put_init("stream", 1 << 50)
        stream.set_rate(int(cell["cross_bps"] / 8))
        stream.wait()

    def absorb() -> None:
        simgrid.Mailbox.by_name("other").get()

    if cell["cross_bps"]:
        simgrid.Actor.create("other", simgrid.Host.by_name("other"), disturb).daemonize()
        simgrid.Actor.create("sink", target, absorb).daemonize()
    for number in range(cell["flows"]):
        simgrid.Actor.create(
            f"sender-{number}", simgrid.Host.by_name(f"source-{number}"), send, number
        )
    engine.run()
    print(json.dumps(took), flush=True)


def main() -> None:
    """Runs the cells, one after the other; ends with 1 as soon as one fails."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(json.loads(line))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


main()
