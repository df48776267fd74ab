"""Moments that a run seldom comes to: roles by themselves, with what they need of a device."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
import torch

import broker
import topologies
from atlas import protocol
from atlas.config import SignatureSettings, Training
from atlas.models import AdapterState
from atlas.protocol import Accepted, AskMerged, AskOrders, Refused, UnansweredError
from atlas.roles.aggregator import Aggregator
from atlas.roles.client import MIDDLE, Client
from atlas.roles.history import Known
from atlas.roles.member import Member
from atlas.tasks import ClientData, Example, Tokenizer
from broker import Node

NETWORK = topologies.parse(
    """
name: two
nodes: {asker: {}, asked: {}}
links: [{between: [asker, asked], bandwidth: 10 Mbit/s, delay: 10 ms}]
""",
    "two",
)


class Device:
    """A node as far as a role by itself needs one."""

    name = "client-0"

    def __init__(self) -> None:
        self.disk = self
        self.files: dict[str, bytes] = {}

    async def write(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def note(self, event: str, **fields: object) -> None: ...


def a_member(device: Device | Node, leader: str = "first") -> Member:
    settings: Any = SimpleNamespace(
        aggregation=SimpleNamespace(method="fedit"), coordinator=leader, voters=(leader,)
    )
    hello: Any = AskOrders()
    return Member(device, settings, lambda _: hello)  # type: ignore[arg-type]


def test_a_question_is_asked_again_until_it_is_answered() -> None:
    async def asked(node: Node) -> None:
        for number in range(3):
            question = await node.receive()
            if number == 2:
                await question.reply(Accepted().header())

    async def asker(node: Node) -> float:
        await a_member(node, "asked").ask_leader(AskOrders)
        return node.now

    run = broker.run({"asker": asker, "asked": asked}, topology=NETWORK)

    assert run.returned["asker"] == pytest.approx(3 * (protocol.ASK_AGAIN_S + 0.2), abs=0.1)


def test_who_never_gets_an_answer_says_so_when_patience_ends() -> None:
    async def asked(node: Node) -> None:
        async for _ in node:
            pass

    async def asker(node: Node) -> str:
        try:
            await a_member(node, "asked").ask_leader(AskOrders)
        except UnansweredError as error:
            return str(error)
        return ""

    run = broker.run({"asker": asker, "asked": asked}, topology=NETWORK, background=["asked"])

    assert "no coordinator has answered asker's 'orders?'" in str(run.returned["asker"])
    assert run.virtual_seconds >= protocol.PATIENCE_S


def test_who_comes_to_coordinate_while_another_answers_a_hello_gets_one_too() -> None:
    member, asked = a_member(Device()), list[str]()

    async def ask_leader(_: Any) -> tuple[object, object]:
        asked.append(member.leader)
        told = SimpleNamespace(source=member.leader)
        if len(asked) == 1:
            member.follow("second", 2)
        return Accepted(), told

    member.ask_leader = ask_leader  # type: ignore[method-assign, assignment]
    asyncio.run(member.introduce())  # type: ignore[arg-type]

    assert asked == ["first", "second"]


def test_what_is_kept_of_a_round_is_of_one_step_though_snapshots_come_meanwhile() -> None:
    def state(step: int) -> AdapterState:
        return {"a": torch.full((2,), float(step))}

    device, client = Device(), object.__new__(Client)
    spans = [SimpleNamespace(known=Known(1, state(1))) for _ in range(2)]
    vars(client).update(_node=device, _spans=spans, _round=3, _own={1: state(1)})

    async def keep() -> None:
        client._keep_middle()
        spans[0].known = Known(2, state(2))
        client._round = 4
        assert client._writing is not None
        await client._writing

    asyncio.run(keep())
    kept = msgpack.unpackb(device.files[MIDDLE])
    assert (kept["round"], kept["step"]) == (3, 1)
    assert len({part[1][0] for part in kept["parts"]}) == 1


@pytest.mark.parametrize(("number", "kept"), [(2, True), (3, True), (4, False), (10**9, False)])
def test_who_asks_for_a_round_far_ahead_is_refused_and_not_kept(number: int, kept: bool) -> None:
    decision = SimpleNamespace(
        offices={"neighborhood-0": SimpleNamespace(aggregator="client-0", term=1)},
        running=lambda _: 2,
        members=lambda *_: {},
        counted=lambda *_: {},
    )

    async def has_none(*_: object) -> bool:
        return False

    member = SimpleNamespace(
        knows_decision=True, decision=decision, look=lambda: None, tell_merged=has_none
    )
    settings = SimpleNamespace(aggregation=SimpleNamespace(method="fedit"))
    answers: list[dict[str, object]] = []

    async def reply(header: dict[str, object]) -> None:
        answers.append(header)

    message = SimpleNamespace(source="client-1", purpose="control", reply=reply)
    aggregator = Aggregator(Device(), settings, member)  # type: ignore[arg-type]
    asyncio.run(aggregator.serve(message, AskMerged(neighborhood="neighborhood-0", round=number)))  # type: ignore[arg-type]

    assert bool(aggregator._waiting) == kept
    assert [answer["kind"] for answer in answers] == ([] if kept else [Refused(reason="").kind])


@pytest.mark.parametrize(("examples", "size"), [(2, 1), (3, 1), (7, 3), (15, 7), (16, 8), (40, 8)])
def test_the_two_halves_of_a_signature_share_no_example_however_few_a_client_has(
    byte_tokenizer: Tokenizer, examples: int, size: int
) -> None:
    data = ClientData("letters", tuple(Example(f"{n:03} is", f"{n}") for n in range(examples)))
    settings = SimpleNamespace(
        training=Training(tokens=16), signature=SignatureSettings(), seed=3,
        tokenizer=byte_tokenizer,
    )  # fmt: skip
    client = object.__new__(Client)
    vars(client).update(_node=Device(), _settings=settings, _data=data)

    halves = [{tuple(row) for row in client._signed(-1, half).tokens.tolist()} for half in (0, 1)]

    assert [len(half) for half in halves] == [size, size]
    assert not halves[0] & halves[1]
