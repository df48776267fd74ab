"""Messages between asyncio programs, through a network that you describe, in virtual time.

    async def echo(node):
        async for message in node:
            await message.reply(message.header)

    async def ask(node):
        reply = await node.request("server", {"say": "hello"}, timeout=5)
        return reply.header, node.now

    run = broker.run({"server": echo, "phone": ask}, topology=topologies.load("campus.yaml"),
                     faults=faults.load("evening.yaml"), seed=5, background=["server"])
    run.returned["phone"], run.digest, run.ledger, run.virtual_seconds

A program runs on a node and uses asyncio as ever. Its messages go over real ZeroMQ sockets through
a bus that asks the network model when, and whether, each arrives. Hours pass in milliseconds, and
the same seed gives the same run, bit for bit, in one process or in ten. With clock="wall" the same
programs run on the machine's clock, and `join` lets those of any process take part.

`broker.testing` is for tests that are coroutines themselves, `broker.exploring` for looking for
what breaks them; with pytest the marks `network` and `explore` are enough.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.errors import (
        BrokerError,
        DeadlockError,
        DeviceMemoryError,
        FrameError,
        HangError,
        LedgerError,
        LimitError,
        LivelockError,
        LostError,
        ProgramError,
        RealWorldError,
        SpinError,
        WorkerError,
    )
    from broker.ledger import Ledger
    from broker.node import Message, Node, Program, Programs, Reservation, Route
    from broker.runs import Run, run, run_async
    from broker.scheduler import Note, Observer, Tap
    from broker.wall import join
    from broker.wire import Frame

_WHERE = {
    "broker.errors": "BrokerError DeadlockError DeviceMemoryError FrameError HangError LedgerError "
    "LimitError LivelockError LostError ProgramError RealWorldError SpinError WorkerError",
    "broker.ledger": "Ledger",
    "broker.node": "Message Node Program Programs Reservation Route",
    "broker.runs": "Run run run_async",
    "broker.scheduler": "Note Observer Tap",
    "broker.wall": "join",
    "broker.wire": "Frame",
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """What stands here is fetched when it is first asked for: `import broker` alone is quick."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "BrokerError",
    "DeadlockError",
    "DeviceMemoryError",
    "Frame",
    "FrameError",
    "HangError",
    "Ledger",
    "LedgerError",
    "LimitError",
    "LivelockError",
    "LostError",
    "Message",
    "Node",
    "Note",
    "Observer",
    "Program",
    "ProgramError",
    "Programs",
    "RealWorldError",
    "Reservation",
    "Route",
    "Run",
    "SpinError",
    "Tap",
    "WorkerError",
    "join",
    "run",
    "run_async",
]
