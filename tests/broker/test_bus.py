"""The bus over real sockets: who may speak, and what becomes of the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import zmq

from broker import WorkerError, bus
from broker.bus import Bus
from broker.ledger import Ledger
from broker.wire import Frame, Kind, encode, pack

TOKENS = (b"token of worker 0", b"token of worker 1")
OWNERS = (0, 1, 0)  # nodes 0 and 2 live in worker 0, node 1 in worker 1
QUIET = Frame(Kind.QUIET)


class SilenceError(WorkerError):
    """Nobody is there any more."""


class Harbor:
    """A bus on a Unix socket and whoever connects to it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.set_hwm(0)
        self.router.bind(endpoint)
        self.sockets = [self.router]
        self.ledger = Ledger()
        self.bus = Bus(self.router, OWNERS, TOKENS, self.ledger, self.alive)

    def alive(self) -> None:
        """Asked only when nobody has said anything for a while."""
        raise SilenceError

    def listen(self) -> None:
        """Hears all that was sent so far by those who try to join."""
        with pytest.raises(SilenceError):
            self.bus.wait_for_all(20)

    def connect(self, identity: bytes | None = None) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.DEALER)
        socket.set_hwm(0)
        if identity is not None:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.connect(self.endpoint)
        self.sockets.append(socket)
        return socket

    def close(self) -> None:
        for socket in self.sockets:
            socket.close(linger=0)
        self.context.term()

    def join(self) -> list[zmq.Socket[bytes]]:
        workers = [self.connect(), self.connect()]
        for index, worker in enumerate(workers):
            say_hello(worker, index, TOKENS[index])
        self.bus.wait_for_all(20)
        return workers


def say_hello(socket: zmq.Socket[bytes], index: object, token: object) -> None:
    body = pack({"index": index, "token": token})
    socket.send_multipart(encode([Frame(Kind.HELLO, body=body)]))


@pytest.fixture
def harbor(tmp_path_factory, monkeypatch) -> Iterator[Harbor]:
    monkeypatch.setattr(bus, "_POLL_MS", 150)
    built = Harbor(f"ipc://{tmp_path_factory.mktemp('h')}/bus")
    yield built
    built.close()


def test_frames_come_and_go_between_the_bus_and_those_who_joined(harbor):
    workers = harbor.join()
    message = Frame(Kind.SEND, 1, 2, 7, 0, 9, "asks", pack({"i": 1}), (b"abc", b"", b"x" * 100_000))
    workers[1].send_multipart(encode([message]))
    assert harbor.bus.receive(20) == (1, [message])
    harbor.bus.send(0, [message])
    assert workers[0].recv_multipart() == encode([message])
    assert harbor.ledger.malformed_frames == {}


def test_who_has_no_token_does_not_join(harbor):
    stranger = harbor.connect()
    for index, token in [
        (0, b"guessed"),
        (1, TOKENS[0]),
        (2, TOKENS[0]),
        (-1, TOKENS[1]),
        (0, None),
        ("0", TOKENS[0]),
        (None, TOKENS[0]),
    ]:
        say_hello(stranger, index, token)
    for body in (b"\xc1", pack({}), b"\x01", b""):
        stranger.send_multipart(encode([Frame(Kind.HELLO, body=body)]))
    stranger.send_multipart(encode([QUIET]))
    harbor.listen()
    harbor.join()
    counts = harbor.ledger.malformed_frames
    assert counts["wrong token"] == 8
    assert counts["before hello"] == 1
    assert sum(count for reason, count in counts.items() if reason.startswith("body is")) == 3


def test_a_second_hello_does_not_take_a_workers_place(harbor):
    first, thief = harbor.connect(), harbor.connect()
    say_hello(first, 0, TOKENS[0])
    assert harbor.router.poll(20_000)
    say_hello(thief, 0, TOKENS[0])
    harbor.listen()
    second = harbor.connect()
    say_hello(second, 1, TOKENS[1])
    harbor.bus.wait_for_all(20)
    assert harbor.ledger.malformed_frames == {"second hello": 1}
    harbor.bus.send(0, [Frame(Kind.CLOSE)])
    assert first.poll(20_000)
    assert not thief.poll(50)


def test_strangers_and_what_is_no_frame_are_counted_and_dropped(harbor):
    workers = harbor.join()
    stranger = harbor.connect(b"\x00\x01")
    stranger.send_multipart(encode([Frame(Kind.SEND, 0, 1)]))
    stranger.send(b"")
    assert harbor.router.poll(20_000)
    workers[0].send(b"alone")
    workers[0].send_multipart([b"XX" + b"\0" * 60, b"\x80"])
    workers[0].send_multipart([encode([Frame(Kind.SEND, 0, 1)])[0], b"more"])
    workers[0].send_multipart(encode([Frame(Kind.HELLO)]))
    workers[0].send_multipart(encode([Frame(Kind.CLOSE)]))
    workers[0].send_multipart(encode([QUIET]))
    assert harbor.bus.receive(20) == (0, [QUIET])
    assert harbor.ledger.malformed_frames == {
        "stranger": 1,
        "packet of 0 bytes; it has at least 4": 1,
        "not a packet of this protocol": 2,
        "1 part(s) that no frame has spoken of": 1,
        "unexpected HELLO": 1,
        "unexpected CLOSE": 1,
    }


@pytest.mark.parametrize(("source", "destination"), [(1, 0), (3, 0), (2**32 - 1, 0), (0, 3)])
def test_a_worker_speaks_only_for_its_own_nodes_and_to_nodes_that_are(harbor, source, destination):
    workers = harbor.join()
    workers[0].send_multipart(encode([Frame(Kind.SEND, source, destination)]))
    workers[0].send_multipart(encode([Frame(Kind.SEND, 2, 1)]))
    assert harbor.bus.receive(20) == (0, [Frame(Kind.SEND, 2, 1)])
    assert harbor.ledger.malformed_frames == {"speaks for another node": 1}


def test_waiting_ends_with_an_error_when_nobody_comes(harbor):
    with pytest.raises(WorkerError, match="took too long to join"):
        harbor.bus.wait_for_all(0)


def test_noise_does_not_put_the_deadline_off(harbor):
    stranger = harbor.connect()
    for _ in range(5_000):
        stranger.send(b"noise")
    with pytest.raises(WorkerError, match="took too long to join"):
        harbor.bus.wait_for_all(0)


def test_a_worker_whose_socket_is_gone_is_a_worker_error(harbor):
    workers = harbor.join()
    workers[1].close(linger=0)

    def send_until_it_is_noticed() -> None:
        for _ in range(1_000):
            harbor.bus.send(1, [QUIET])
            time.sleep(0.005)

    with pytest.raises(WorkerError):
        send_until_it_is_noticed()
