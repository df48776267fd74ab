"""Messages are types, and asking is safe to repeat."""

import pytest

import broker
import topologies
from atlas import protocol
from atlas.protocol import Accepted, AskMerged, Commit, Refused, UnansweredError, ask, parse
from broker import Message, Node
from broker.wire import REQUEST, Frame, Kind
from topologies import InputError

NETWORK = topologies.parse(
    """
name: two
nodes: {asker: {}, asked: {}}
links: [{between: [asker, asked], bandwidth: 10 Mbit/s, delay: 10 ms}]
""",
    "two",
)


def message(header: dict[str, object], flags: int = REQUEST) -> Message:
    frame = Frame(Kind.DELIVER, flags=flags)
    return Message("client-1", header, (), "control", 0.0, 0.0, None, frame)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        Accepted(),
        Refused(reason="no room"),
        AskMerged(neighborhood="neighborhood-0", round=3),
        Commit(attempt=1, first=2, last=16, step=4, scale=0.5),
    ],
    ids=lambda body: str(body.kind),
)
def test_a_message_comes_back_as_what_it_was(body: Accepted | Refused | AskMerged | Commit) -> None:
    assert parse(message(body.header())) == body


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"kind": "dance"},
        {"kind": "commit"},
        {"kind": "merged?", "neighborhood": "neighborhood-0", "round": "soon"},
        {"kind": "accepted", "more": 1},
    ],
    ids=str,
)
def test_a_malformed_message_is_refused_by_the_name_of_its_sender(
    header: dict[str, object],
) -> None:
    with pytest.raises(InputError, match="malformed message from client-1"):
        parse(message(header))


def test_a_question_that_asks_for_no_answer_is_malformed_and_what_has_none_is_not() -> None:
    with pytest.raises(InputError, match="'merged\\?' asks for no answer"):
        parse(message(AskMerged(neighborhood="neighborhood-0", round=0).header(), flags=0))

    for body in (Commit(attempt=1, first=2, last=16, step=4, scale=1.0), Accepted()):
        assert parse(message(body.header(), flags=0)) == body


def test_a_question_is_asked_again_until_it_is_answered() -> None:
    async def asked(node: Node) -> None:
        for number in range(3):
            question = await node.receive()
            if number == 2:
                await question.reply(Accepted().header())

    async def asker(node: Node) -> float:
        await ask(node, "asked", AskMerged(neighborhood="neighborhood-0", round=0))
        return node.now

    run = broker.run({"asker": asker, "asked": asked}, topology=NETWORK)

    assert run.returned["asker"] == pytest.approx(3 * (protocol.ASK_AGAIN_S + 0.2), abs=0.1)


def test_whoever_never_answers_is_named_when_patience_ends() -> None:
    async def asked(node: Node) -> None:
        async for _ in node:
            pass

    async def asker(node: Node) -> str:
        try:
            await ask(node, "asked", AskMerged(neighborhood="neighborhood-0", round=0))
        except UnansweredError as error:
            return str(error)
        return ""

    run = broker.run({"asker": asker, "asked": asked}, topology=NETWORK, background=["asked"])

    assert "asked has not answered asker's 'merged?'" in str(run.returned["asker"])
    assert run.virtual_seconds >= protocol.PATIENCE_S
