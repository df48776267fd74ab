"""A client's side of a span: how soon it knows of a host that is gone, and when it has patience."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Sequence

import torch

import broker
import faults
import topologies
from atlas.models import Range
from atlas.models.tensors import pack, touched
from atlas.protocol import (
    Accepted,
    Alive,
    AskRoom,
    Close,
    Commit,
    Forward,
    Open,
    Refused,
    Tensors,
    parse,
)
from atlas.roles.candidates import Shunned
from atlas.roles.history import Known
from atlas.roles.pace import PULSES, Pace
from atlas.roles.span import SpanCaller
from broker import Message, Node, Note

THINKING_S = 60.0
PULSE_S = THINKING_S / PULSES
NETWORK = """
nodes: {{client: {{}}, host: {{}}, other: {{}}}}
links:
  - {{between: [client, host], bandwidth: {bandwidth}, delay: 20 ms}}
  - {{between: [client, other], bandwidth: 10 Mbit/s, delay: 20 ms}}
"""


def planned_s(_host: str, kind: str, sent_bytes: int) -> float:
    return THINKING_S if kind in ("open", "forward") else 0.05 + sent_bytes * 8 / 100e3


async def client(node: Node, *, tokens: int = 2, steps: int = 1) -> float:
    """Steps forward through the span; when the last answer came."""
    caller = SpanCaller(
        node,
        Range(0, 4),
        [("plan", "host"), ("neighborhood", "other")],
        like={},
        pace=Pace(planned_s),
        shunned=Shunned(),
        attempts=itertools.count().__next__,
        changed=lambda: None,
    )
    await caller.begin(0, Known(0, None), steps=steps)
    for _ in range(steps):
        rows = torch.ones(1, tokens, dtype=torch.bool)
        await caller.forward(pack({"hidden": torch.zeros(1, tokens, 3)}, rows=rows))
        await caller.commit(scale=1.0, rate=1e-3)
    assert caller.host is not None
    node.note("served", host=caller.host)
    return node.now


async def host(node: Node, *, opening_s: float = 0.0, thinking_s: float = 0.0) -> None:
    """Takes its time to open and to compute, and knows its sessions, as hosts do.

    Its answers say that all rows are zero, which takes few bytes.
    """
    sessions: set[int] = set()

    async def later(message: Message, seconds: float, answer: Accepted | Tensors) -> None:
        await asyncio.sleep(seconds)
        payload: Sequence[bytes | memoryview] = ()
        if isinstance(answer, Tensors):
            zeros = torch.zeros(answer.manifest[0]["shape"])
            payload = pack({"hidden": zeros}, rows=touched(zeros)).buffers
        await message.reply(answer.header(), payload)

    async with asyncio.TaskGroup() as group:
        async for message in node:
            match parse(message):
                case Open() as request:
                    sessions.add(request.attempt)
                    group.create_task(later(message, opening_s, Accepted()))
                case Forward() as request if request.attempt in sessions:
                    answer = Tensors(manifest=request.manifest)
                    group.create_task(later(message, thinking_s, answer))
                case Alive() as request if request.attempt in sessions:
                    await message.reply(Accepted().header())
                case AskRoom():
                    await message.reply(Accepted().header())
                case Close() | Commit():
                    pass
                case _:
                    await message.reply(Refused(reason="unknown here", missing=True).header())


def live(
    scenario: str,
    *,
    bandwidth: str = "10 Mbit/s",
    tokens: int = 2,
    steps: int = 1,
    **patience: float,
) -> tuple[float, list[Note]]:
    """What became of it: when the client had its answer, and the notes."""
    notes: list[Note] = []
    run = broker.run(
        {
            "client": functools.partial(client, tokens=tokens, steps=steps),
            "host": functools.partial(host, **patience),
            "other": host,
        },
        topology=topologies.parse(NETWORK.format(bandwidth=bandwidth)),
        faults=faults.parse(f"timeline: [{scenario}]") if scenario else (),
        background=["host", "other"],
        observe=notes.append,
    )
    answered_s = run.returned["client"]
    assert isinstance(answered_s, float)
    return answered_s, notes


def only(notes: list[Note], event: str) -> dict[str, object]:
    (found,) = [note.fields for note in notes if note.event == event]
    return dict(found)


def test_a_host_that_dies_while_it_computes_is_given_up_at_the_next_pulse() -> None:
    answered_s, notes = live("{at: 7 s, crash: host}", thinking_s=THINKING_S)

    assert only(notes, "suspected")["reason"] == "no answer"
    assert only(notes, "served")["host"] == "other"
    assert 7 < answered_s < 7 + PULSE_S + 3


def test_a_host_that_dies_while_it_opens_is_given_up_at_the_next_pulse() -> None:
    answered_s, notes = live("{at: 7 s, crash: host}", opening_s=THINKING_S)

    assert only(notes, "served")["host"] == "other"
    assert 7 < answered_s < 7 + PULSE_S + 3


def test_a_host_that_was_back_before_it_was_missed_has_forgotten_and_is_asked_again() -> None:
    _, notes = live("{at: 6 s, crash: host, for: 100 ms}", thinking_s=THINKING_S)

    (suspected,) = [note for note in notes if note.event == "suspected"]
    assert suspected.fields["reason"] == "unknown here"
    assert 6 < suspected.time_s < 6 + PULSE_S
    assert only(notes, "served")["host"] == "host"


def test_a_host_that_is_alive_and_slow_is_waited_for() -> None:
    answered_s, notes = live("", thinking_s=THINKING_S)

    assert only(notes, "served")["host"] == "host"
    assert not [note for note in notes if note.event == "suspected"]
    assert answered_s > THINKING_S


def test_a_host_is_not_given_up_while_a_large_tensor_is_on_its_way_to_it() -> None:
    """A pulse comes behind it, and the first ones, with nothing before them, were quick."""
    answered_s, notes = live("", bandwidth="100 kbit/s", tokens=20_000, steps=2, opening_s=12)

    assert only(notes, "served")["host"] == "host"
    assert not [note for note in notes if note.event == "suspected"]
    assert answered_s > 2 * 20_000 * 12 * 8 / 100e3


def test_a_host_that_dies_after_its_answer_was_sent_has_answered() -> None:
    answered_s, notes = live("{at: 5.13 s, crash: host}", thinking_s=5.0)

    assert only(notes, "served")["host"] == "host"
    assert answered_s < 5.5


def test_a_host_that_lives_for_ever_and_never_answers_is_given_up_at_the_deadline() -> None:
    answered_s, notes = live("", thinking_s=100 * THINKING_S)

    assert only(notes, "served")["host"] == "other"
    assert THINKING_S < answered_s < 10 * THINKING_S
