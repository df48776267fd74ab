"""TCP end to end through the proxy: bytes, back pressure, half-close, resets, faults."""

from __future__ import annotations

import random
import select
import socket
import threading
import time

import pytest

import topologies
from tests.broker.proxy.sockets import (
    PAIR,
    between,
    call,
    echo,
    everything,
    serving,
    swallow,
)

SLOW = topologies.parse("""
name: slow
nodes: {phone: {}, tablet: {}, shop: {}}
links:
  - {from: phone, to: shop, bandwidth: 8 Mbit/s, delay: 5 ms}
  - {from: shop, to: phone, bandwidth: 80 Mbit/s, delay: 5 ms}
  - {between: [tablet, shop], bandwidth: 80 Mbit/s, delay: 5 ms}
""")
TEXT = random.Random(5).randbytes(300_000)


def send(connection: socket.socket, data: bytes) -> threading.Thread:
    """Sends in a thread, so that the caller can read."""
    thread = threading.Thread(target=connection.sendall, args=(data,), daemon=True)
    thread.start()
    return thread


def wait_until(happened: object, seconds: float = 30.0) -> None:
    """Waits for something to come true, in small steps."""
    assert callable(happened)
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


@pytest.mark.parametrize("topology", [None, PAIR, SLOW], ids=["plain", "pair", "slow"])
def test_bytes_arrive_as_they_were_sent_both_ways_and_the_books_balance(topology):
    with serving() as server, between(server, topology) as running:
        with call(running) as client:
            sender = send(client, TEXT)
            assert everything(client, len(TEXT)) == TEXT
            sender.join()
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        wait_until(lambda: not running.proxy.gates["shop"].connections)
        tally = running.tally()
        assert (tally.opened, tally.taken, tally.handed) == (1, 2 * len(TEXT), 2 * len(TEXT))
        assert (tally.lost, tally.reset, tally.refused) == (0, 0, 0)


def test_a_request_takes_its_round_trips_and_no_less():
    with serving() as server, between(server) as running:
        begun = time.monotonic()
        with call(running) as client:
            client.sendall(b"?")
            assert client.recv(1) == b"?"
            assert time.monotonic() - begun >= 0.04, "SYN, SYN-ACK, request, answer"
            again = time.monotonic()
            client.sendall(b"!")
            assert client.recv(1) == b"!"
            assert time.monotonic() - again >= 0.02


def test_one_half_can_be_closed_while_the_other_goes_on():
    with serving(swallow) as server, between(server) as running, call(running) as client:
        client.sendall(TEXT)
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == str(len(TEXT)).encode()


def test_each_direction_of_a_link_has_its_own_bandwidth():
    size = 400_000

    def upload(connection):
        swallow(connection)

    def download(connection):
        connection.recv(1)
        connection.sendall(bytes(size))

    took = {}
    for name, serve in (("up", upload), ("down", download)):
        with serving(serve) as server, between(server, SLOW) as running, call(running) as client:
            begun = time.monotonic()
            client.sendall(bytes(size) if name == "up" else b"?")
            client.shutdown(socket.SHUT_WR)
            everything(client)
            took[name] = time.monotonic() - begun
    assert took["up"] >= size * 8 / 8e6, "8 Mbit/s"
    assert took["down"] < took["up"]


def test_connections_on_a_link_share_its_bandwidth():
    size = 200_000
    with serving(swallow) as server, between(server, SLOW) as running:
        clients = [call(running) for _ in range(3)]
        begun = time.monotonic()
        for client in clients:
            send(client, bytes(size)).join()
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            with client:
                assert everything(client) == str(size).encode()
        assert time.monotonic() - begun >= 3 * size * 8 / 8e6


def test_a_sender_is_held_back_by_a_slow_link_and_by_a_receiver_that_does_not_read():
    read_on = threading.Event()

    def lazy(connection):
        read_on.wait(30)
        swallow(connection)

    for topology in (SLOW, None):
        read_on.clear()
        with (
            serving(lazy) as server,
            between(server, topology) as running,
            call(running) as client,
        ):
            client.setblocking(False)
            sent = 0
            while select.select((), (client,), (), 0.3)[1]:
                sent += client.send(bytes(65_536))
                assert sent < 64 * 2**20, "nobody takes it, and it goes on"
            tally = running.tally()
            assert tally.taken - tally.handed <= 2 * 2**20
            read_on.set()
            if topology is None:
                client.settimeout(60)
                client.shutdown(socket.SHUT_WR)
                assert everything(client) == str(sent).encode()


def test_a_reset_by_one_program_reaches_the_other():
    with serving() as server, between(server) as running:
        client = call(running)
        client.sendall(b"?")
        assert client.recv(1) == b"?"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert server.ended.acquire(timeout=30)
        assert server.errors == [ConnectionResetError]
        wait_until(lambda: running.tally().reset == 1)


def test_a_server_that_is_not_there_refuses_a_round_trip_later():
    with serving() as server:
        nowhere = server.address
    with between(nowhere) as running:
        begun = time.monotonic()
        with call(running) as client, pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - begun >= 0.02
        assert running.tally().refused == 1


def test_a_partition_silences_both_ways_and_loses_nothing():
    faults = "  - {at: 300 ms, partition: [[phone], [shop]], for: 500 ms}"
    with serving() as server, between(server, faults=faults) as running, call(running) as client:
        begun = time.monotonic()
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        time.sleep(max(0.4 - (time.monotonic() - begun), 0))
        client.sendall(b"2")
        assert client.recv(1) == b"2"
        assert time.monotonic() - begun >= 0.8


def test_who_connects_through_a_partition_hears_nothing_until_it_is_over():
    faults = "  - {at: 0 s, partition: [[phone], [shop]], for: 600 ms}"
    with serving() as server, between(server, faults=faults, at_once=True) as running:
        with pytest.raises(TimeoutError):
            call(running, timeout=0.2)
        assert server.accepted == 0
        with call(running) as client:  # its kernel sends the SYN again after a second
            client.sendall(b"?")
            assert client.recv(1) == b"?"


def test_a_partition_of_the_first_instant_is_there_before_the_first_client():
    faults = "  - {at: 0 s, partition: [[phone], [shop]]}"
    with serving() as server, between(server, faults=faults) as running:
        with pytest.raises(TimeoutError):
            call(running, timeout=0.1)
        assert running.tally().opened == server.accepted == 0


def test_a_crash_resets_the_server_and_leaves_its_client_with_half_a_connection():
    faults = "  - {at: 300 ms, crash: shop, for: 300 ms}"
    with serving() as server, between(server, faults=faults) as running, call(running) as client:
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        assert server.ended.acquire(timeout=30)
        assert server.errors == [ConnectionResetError]
        client.settimeout(0.6)
        with pytest.raises(TimeoutError):
            client.recv(1)  # the shop is back, and the client has not asked
        client.settimeout(30)
        client.sendall(b"2")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert server.accepted == 1


def test_what_was_said_to_a_node_that_is_down_is_answered_by_a_reset_once_it_is_back():
    faults = "  - {at: 200 ms, crash: shop, for: 500 ms}"
    with serving() as server, between(server, faults=faults) as running, call(running) as client:
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        assert server.ended.acquire(timeout=30)
        client.sendall(b"2")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with call(running) as later:
            later.sendall(b"3")
            assert later.recv(1) == b"3"


def test_a_crash_of_the_clients_node_resets_the_client_and_not_the_server():
    faults = "  - {at: 300 ms, crash: phone}"
    with serving() as server, between(server, faults=faults) as running, call(running) as client:
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert not server.ended.acquire(timeout=0.2)


def test_a_stop_resets_those_who_are_connected_and_refuses_those_who_come():
    faults = "  - {at: 200 ms, stop: shop, for: 600 ms}"
    with serving() as server, between(server, faults=faults) as running:
        with call(running) as client:
            client.sendall(b"1")
            assert client.recv(1) == b"1"
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert server.ended.acquire(timeout=30)
        with pytest.raises(ConnectionRefusedError):
            call(running)
        wait_until(lambda: running.proxy.gates["shop"]._state() == "open")
        with call(running) as client:
            client.sendall(b"2")
            assert client.recv(1) == b"2"


def test_a_paused_node_answers_when_it_goes_on():
    faults = "  - {at: 200 ms, pause: shop, for: 500 ms}"
    with serving() as server, between(server, faults=faults) as running, call(running) as client:
        begun = time.monotonic()
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        time.sleep(max(0.3 - (time.monotonic() - begun), 0))
        client.sendall(b"2")
        assert client.recv(1) == b"2"
        assert time.monotonic() - begun >= 0.7


def test_many_clients_come_and_go_and_nothing_is_left_of_them():
    with serving() as server, between(server) as running:

        def talk(number: int) -> None:
            with call(running) as client:
                said = str(number).encode() * 1_000
                client.sendall(said)
                assert everything(client, len(said)) == said

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: not running.proxy.gates["shop"].connections)
        world = running.proxy.world
        assert not running.call(lambda: world._network._streams._streams)
        assert not running.call(lambda: world.in_flight)
        tally = running.tally()
        assert tally.opened == 50
        assert tally.taken == tally.handed


def test_a_server_that_speaks_first_is_heard():
    def greet(connection):
        connection.sendall(b"220 hello\r\n")
        echo(connection)

    with serving(greet) as server, between(server) as running, call(running) as client:
        assert everything(client, 11) == b"220 hello\r\n"
