"""Who comes to a bus in wall time, and what processes say of their nodes.

A stranger may say hello and nothing else (`broker.admission` decides). Whoever speaks as if they
had been admitted and was not, is asked to say hello again: so processes find their way back to a
bus that was restarted, or from which a broken connection has cut them off. They tell which of their
programs are still running, and those go on.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from broker.account import Observer
from broker.admission import WAITING, Admission, Newcomer
from broker.clock import NANOSECONDS
from broker.connection import Connection
from broker.errors import FrameError
from broker.intake import Other
from broker.network import Network
from broker.relay import Relay, hello
from broker.strikes import Strikes
from broker.wire import Frame, Kind, decode, pack, unpack
from topologies import Topology

_log = logging.getLogger(__name__)


class Reception:
    """Lets processes in and takes their reports, for one bus.

    Args:
        words: The secret word by which each node's connection proves itself.
        keyed: Whether CURVE keys decide instead.
        welcome: What everybody is told who is let in; it has the run's name under ``run``.
        time: The frame that says what time it is.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        relay: Relay,
        network: Network,
        strikes: Strikes,
        observer: Observer,
        names: tuple[str, ...],
        words: Mapping[str, bytes],
        *,
        keyed: bool,
        welcome: Mapping[str, object],
        time: Callable[[], Frame],
    ) -> None:
        self._socket = socket
        self._relay, self._network, self._strikes = relay, network, strikes
        self._observer = observer
        self._names = names
        self._welcome = welcome
        self._time = time
        self._admission = Admission(names, words, keyed=keyed, is_here=self._is_here)
        self._joined = 0
        self._way_ns: dict[tuple[int, int], int] = {}
        self._sent_back: dict[bytes, None] = {}

    def hear(self, other: Other) -> Newcomer | None:
        """Takes what is no message: a report, or a stranger's hello. Gives who has come by it."""
        try:
            (frame,) = decode([other.packet])
            body = unpack(frame.body)
            if other.connection is not None:
                self._report(other.connection, body)
            elif frame.kind is Kind.HELLO:
                answer = self._admission.hear(other.identity, other.user, body)
                if isinstance(answer, Newcomer):
                    self._admit(answer)
                    return answer
                self._answer(other.identity, answer | {"run": self._welcome["run"]})
            else:
                self._relay.refuse("before hello")
                self._send_back(other.identity)
        except FrameError as error:
            self._relay.refuse(str(error))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            self._relay.refuse("a report that makes no sense")
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
        return None

    def routes_have_changed(self) -> None:
        """A fault has struck: what was worked out of ways does not hold any more."""
        self._way_ns.clear()

    # Who comes.

    def _answer(self, identity: bytes, body: Mapping[str, object]) -> None:
        self._socket.send_multipart([identity, *hello(body)])

    def _send_back(self, identity: bytes) -> None:
        """Tells somebody, once, that they are not known here (any more)."""
        if identity in self._sent_back:
            return
        if len(self._sent_back) >= WAITING:
            del self._sent_back[next(iter(self._sent_back))]
        self._sent_back[identity] = None
        self._answer(identity, {"again": True})

    def _is_here(self, number: int) -> bool:
        """Whether a node's connection is there; one that was cut is found out by asking."""
        connection = self._relay.home(number)
        if connection is None:
            return False
        self._relay.tell(connection, self._time())
        return not connection.gone

    def _admit(self, newcomer: Newcomer) -> None:
        self._joined += 1
        connection = Connection(
            self._joined, newcomer.identity, newcomer.nodes, secrets.token_bytes(8)
        )
        for number in sorted(newcomer.nodes):
            if (before := self._relay.home(number)) is not None:
                self._relay.dismiss(before)  # whoever was cut off knows it before we do
        self._relay.admit(connection)
        self._sent_back.pop(newcomer.identity, None)
        for number in sorted(newcomer.lives):
            self._relay.forget(number)  # what was under way when it was cut off is lost
        word = int.from_bytes(connection.word, "big", signed=True)
        welcome = {**self._welcome, "number": connection.number, "word": word}
        self._relay.tell(connection, Frame(Kind.HELLO, body=pack(welcome)))
        self._relay.tell(connection, self._time())

    # What they say.

    def _report(self, connection: Connection, body: Mapping[str, Any]) -> None:
        """What a process says of its nodes, in the order in which it happened."""
        if "time" in body:
            self._relay.tell(connection, self._time())
        if "bye" in body:
            self._relay.dismiss(connection)
        if "shares" in body:
            connection.shares = bool(body["shares"])
        for at_ns, receiver, source, size, published in body.get("receipts", ()):
            if receiver in connection.nodes:
                way_ns = self._way_back_ns(receiver, source)
                self._relay.receipt(at_ns, receiver, source, size, published, way_ns)
        for _, number, topic, wanted in body.get("topics", ()):
            self._relay.subscribe(_own(connection, number), str(topic), bool(wanted))
        for _, number, fact, nodes in body.get("facts", ()):
            _own(connection, number)
            self._strikes.facts.declare(str(fact), nodes)
        for number, seconds in body.get("worked", ()):
            name = self._names[_own(connection, number)]
            self._strikes.facts.worked(name, float(seconds))
        for at_ns, number, event, fields in body.get("notes", ()):
            self._observer.note(at_ns, self._names[_own(connection, number)], event, fields)
        for at_ns, number, returned in body.get("ended", ()):
            self._observer.ended(at_ns, self._names[_own(connection, number)], returned)
        for at_ns, number, text, problem in body.get("failed", ()):
            name = self._names[_own(connection, number)]
            _log.error("the program of node %s failed:\n%s", name, text)
            self._observer.failed(at_ns, name, text, problem)

    def _way_back_ns(self, receiver: int, source: int) -> int:
        """How long a receipt takes back to its sender."""
        pair = (receiver, source)
        known = self._way_ns.get(pair)
        if known is None:
            links = self._network.route(self._names[receiver], self._names[source]) or ()
            known = round(math.fsum(link.delay_s for link in links) * NANOSECONDS)
            known = self._way_ns[pair] = max(known, self._relay.lookahead_ns, 1)
        return known


def _own(connection: Connection, number: int) -> int:
    if number not in connection.nodes:
        raise FrameError("speaks for another node")
    return number


def plain(topology: Topology) -> dict[str, Any]:
    """A topology as msgpack can carry it; `broker.port.topology_of` reads it."""
    return {
        "name": topology.name,
        "nodes": [node.model_dump(mode="json") for node in topology.nodes.values()],
        "links": [link.model_dump(mode="json") for link in topology.links.values()],
        "transport": topology.transport.model_dump(mode="json"),
    }
