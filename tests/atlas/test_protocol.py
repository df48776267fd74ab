"""Messages are types, and what is none of them is malformed."""

import pytest

from atlas.protocol import Accepted, AskMerged, Commit, Lead, Refused, parse
from broker import Message
from broker.wire import REQUEST, Frame, Kind
from topologies import InputError


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


@pytest.mark.parametrize(
    "wrong", [{"next_s": 1e9}, {"next_s": -1.0}, {"decision": {"what": "ever"}}], ids=str
)
def test_a_sign_of_life_that_would_silence_or_break_a_voter_is_malformed(
    wrong: dict[str, object],
) -> None:
    header = Lead(term=2, version=(2, 1), next_s=2.0, decision={}).header()

    assert parse(message(header, flags=0))
    with pytest.raises(InputError, match="malformed message from client-1"):
        parse(message(header | wrong, flags=0))
