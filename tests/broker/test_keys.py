"""Keys and words over real sockets: who has none, or another's, gets nowhere."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import zmq

from broker import BrokerError, keys
from broker.port import Port
from broker.standalone import serve
from broker.wire import Frame, Kind, encode, pack
from tests.broker.harbor import PAIR, WORD, dealer, harbor, letter, messages, started
from topologies import InputError

SOON_S = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    keys.make(place, ["a", "b"])
    return place


def test_keys_are_made_once_and_for_their_owner_only(tmp_path):
    made = keys.make(tmp_path, ["phone"])
    assert sorted(path.relative_to(tmp_path).as_posix() for path in made) == [
        "bus.key", "bus.key_secret", "nodes/phone.key", "nodes/phone.key_secret",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert keys.make(tmp_path, ["phone"]) == []
    assert keys.holders(tmp_path) == {keys.of_node(tmp_path, "phone").public: "phone"}


def test_who_asks_for_keys_that_are_not_there_learns_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="python -m broker keys"):
        keys.of_bus(tmp_path)
    with pytest.raises(InputError, match="can't be the name"):
        keys.make(tmp_path, ["../bus"])


@pytest.mark.parametrize(
    ("endpoint", "beyond"),
    [
        ("ipc:///tmp/bus", False),
        ("tcp://127.0.0.1:5000", False),
        ("tcp://[::1]:5000", False),
        ("tcp://localhost:*", False),
        ("tcp://0.0.0.0:5000", True),
        ("tcp://*:5000", True),
        ("tcp://192.168.1.7:5000", True),
        ("tcp://eth0:5000", True),
    ],
)
def test_what_other_machines_can_reach_is_known(endpoint, beyond):
    assert keys.reaches_beyond(endpoint) is beyond


@pytest.mark.parametrize(
    ("endpoint", "remedy"), [("tcp://0.0.0.0:*", "broker keys"), ("tcp://127.0.0.1:*", "--word")]
)
def test_a_bus_that_strangers_can_reach_does_not_start_without_trust(endpoint, remedy):
    with pytest.raises(BrokerError, match=remedy):
        serve(PAIR, bind=endpoint)


def test_a_key_lets_its_node_in_and_its_messages_go(folder):
    with harbor(transport="tcp", folder=folder, expected=2) as here:
        ends = [here.port(name, folder=folder) for name in ("a", "b")]
        a, b = map(started, ends)
        a.send([letter(a, 0, 1)])
        assert [frame.source for frame in messages(b, 1)] == [0]


def test_an_unknown_key_gets_nowhere(folder, tmp_path):
    keys.make(tmp_path, ["a"])
    shutil.copy(folder / "bus.key", tmp_path)  # the bus is the right one
    with harbor(transport="tcp", folder=folder) as here:
        with pytest.raises(BrokerError, match="did not let a in"):
            Port(here.endpoint, ["a"], folder=tmp_path, deadline_s=SOON_S)
        assert here.close().turned_away > 0
        assert here.account.connections == 0


def test_a_bus_with_another_key_gets_nothing(folder, tmp_path):
    shutil.copytree(folder / "nodes", tmp_path / "nodes")
    keys.make(tmp_path, [])
    with (
        harbor(transport="tcp", folder=folder) as here,
        pytest.raises(BrokerError, match="did not let a in"),
    ):
        Port(here.endpoint, ["a"], folder=tmp_path, deadline_s=SOON_S)


def test_no_key_at_all_gets_nowhere(folder):
    with (
        harbor(transport="tcp", folder=folder) as here,
        pytest.raises(BrokerError, match="did not let a in"),
    ):
        Port(here.endpoint, ["a"], word=WORD, deadline_s=SOON_S)


def test_a_known_key_under_anothers_name_gets_nowhere(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for ending in ("key", "key_secret"):
        shutil.copy(folder / f"nodes/b.{ending}", tmp_path / f"nodes/a.{ending}")
    with harbor(transport="tcp", folder=folder) as here:
        with pytest.raises(BrokerError, match="did not let a in"):
            Port(here.endpoint, ["a"], folder=tmp_path, deadline_s=SOON_S)
        assert here.refused() == {"a key that is another node's": 1}


def test_an_admitted_node_does_not_speak_as_another(folder):
    with harbor(transport="tcp", folder=folder, expected=2) as here:
        ends = [here.port(name, folder=folder) for name in ("a", "b")]
        a, b = map(started, ends)
        b.send([letter(b, 0, 1)])  # as if a had sent it
        b.send([letter(b, 1, 0, sequence=7)])
        assert [(frame.source, frame.sequence) for frame in messages(a, 1)] == [(1, 7)]
        assert here.refused() == {"speaks for another node": 1}


# Without keys: words.


def test_a_wrong_word_gets_nowhere():
    with harbor() as here:
        with pytest.raises(BrokerError, match="did not let a in"):
            Port(here.endpoint, ["a"], word=b"guessed", deadline_s=SOON_S)
        assert here.refused() == {"wrong word": 1}


def test_a_replayed_hello_gets_nowhere():
    with harbor() as here, zmq.Context() as context:
        said: list[list[bytes]] = []
        spied = Port.__dict__["_hello"]

        def overheard(self, body):
            said.append([bytes(part) for part in encode([Frame(Kind.HELLO, body=pack(body))])])
            spied(self, body)

        Port._hello = overheard  # type: ignore[method-assign]
        try:
            Port(here.endpoint, ["a"], word=WORD).close()
        finally:
            Port._hello = spied  # type: ignore[method-assign]
        here.until(lambda: not here.bus.relay.connections())
        with dealer(context, here.endpoint) as thief:
            thief.send_multipart(said[1])  # the answer, to no question
            thief.send_multipart(said[0])
            assert thief.poll(5_000)
            thief.send_multipart(said[1])  # the answer to another question
            here.until(lambda: "wrong word" in here.refused())
        refused = here.refused()
        refused.pop("before hello", None)  # the port's farewell, where the bus knew it was gone
        assert refused == {"an answer to no question": 1, "wrong word": 1}
        assert here.bus.relay.connections() == []


def test_a_node_that_is_there_is_not_let_in_twice_until_it_has_gone():
    with harbor() as here:
        first = Port(here.endpoint, ["a"], word=WORD)
        with pytest.raises(BrokerError, match="there already"):
            Port(here.endpoint, ["a"], word=WORD, deadline_s=SOON_S)
        first.close()
        Port(here.endpoint, ["a"], word=WORD).close()
        assert here.refused() == {"second hello": 1}


def test_a_routing_id_of_ones_own_choice_is_refused():
    with harbor() as here, zmq.Context() as context:
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.setsockopt(zmq.ROUTING_ID, b"mine!")
        socket.connect(here.endpoint)
        socket.send_multipart(encode([Frame(Kind.HELLO, body=pack({}))]))
        here.until(here.refused)
        assert here.refused() == {"a routing id of its own choice": 1}
        socket.close()


def test_frames_without_the_connections_word_are_dropped():
    with harbor(expected=1) as here:
        port = started(here.port("a", "b"))
        frame = letter(port, 0, 1)
        port.send_packet(encode([frame]))  # as somebody would who took over its routing id
        here.until(here.refused)
        assert here.refused() == {"wrong word": 1}
