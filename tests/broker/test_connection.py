"""What waits to go out to one process."""

from __future__ import annotations

import time

import pytest
import zmq

from broker.connection import BYTES, FRAMES, Connection
from broker.wire import Frame, Kind, decode


def connection(identity: bytes = b"\0none") -> Connection:
    return Connection(1, identity, frozenset({0}), b"a word..")


def test_a_packet_is_full_by_its_frames_by_its_bytes_and_by_a_part_of_its_own():
    one = connection()
    for _ in range(FRAMES):
        assert not one.is_full
        one.add(Frame(Kind.DELIVER))
    assert one.is_full
    large = connection()
    large.add(Frame(Kind.DELIVER, body=bytes(BYTES)))
    assert large.is_full
    apart = connection()
    apart.add(Frame(Kind.DELIVER))
    apart.apart.append(b"apart")
    assert apart.is_full


def test_what_a_process_does_not_take_waits_in_order():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as bus:
        bus.setsockopt(zmq.ROUTER_MANDATORY, 1)
        bus.setsockopt(zmq.SNDHWM, 1)
        bus.bind("inproc://bus")
        with context.socket(zmq.DEALER) as process:
            process.setsockopt(zmq.RCVHWM, 1)
            process.connect("inproc://bus")
            process.send(b"hello")
            identity, _ = bus.recv_multipart()
            one = connection(identity)
            for number in range(10):
                one.add(Frame(Kind.DELIVER, sequence=number))
                one.post(bus)
            assert one.backlog
            assert one.backlog_bytes == sum(len(part) for parts in one.backlog for part in parts)
            heard: list[int] = []
            until = time.monotonic() + 20
            while len(heard) < 10:
                assert time.monotonic() < until
                one.push(bus)
                if process.poll(10):
                    heard += [frame.sequence for frame in decode(process.recv_multipart())]
            assert heard == list(range(10))
            assert (one.backlog_bytes, one.gone) == (0, False)


@pytest.mark.parametrize("waiting", [0, 3])
def test_what_waits_for_somebody_who_is_gone_goes_nowhere(waiting):
    one = connection()
    one.backlog.extend([(one.identity, b"a packet")] * waiting)
    one.backlog_bytes = waiting * len(one.identity + b"a packet")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as bus:
        bus.setsockopt(zmq.ROUTER_MANDATORY, 1)
        one.add(Frame(Kind.DELIVER))
        one.push(bus)
        one.post(bus)
    assert one.gone
    assert (len(one.backlog), one.backlog_bytes) == (0, 0)
