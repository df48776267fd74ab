"""The nodes that live in one process, behind one DEALER socket, in virtual time.

A worker is told a window of time, what arrives in it and what breaks at its beginning; it runs its
nodes through it, hands over what they sent, and says when it next has something to do. Within a
window its nodes can't hear of each other, so each runs through by itself. Real work runs in threads
meanwhile: a worker only waits for it when its virtual end has come and nothing else is left to do.
That is where parallelism comes from, and why it can't change a result.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import zmq

from broker import guard
from broker.clock import driving
from broker.errors import BrokerError
from broker.machine import Machine, dispose_of_remains
from broker.map import Map
from broker.node import Program, Programs, Route
from broker.wire import Frame, Kind, collect, decode, pack, post, unpack
from topologies import Node as Place
from topologies import Topology


@dataclass(frozen=True)
class Assignment:
    """What one worker is to run: `names` are all nodes of the run, `programs` those here."""

    index: int
    token: bytes
    names: tuple[str, ...]
    programs: Programs
    topology: Topology
    seed: int
    threads: int


class Worker:
    """Runs the nodes of an `Assignment`, driven by the frames that come over `socket`."""

    virtual: ClassVar[bool] = True

    def __init__(
        self,
        assignment: Assignment,
        socket: zmq.Socket[bytes],
        interrupted: Callable[[], bool] = bool,
    ) -> None:
        dispose_of_remains()
        self._assignment = assignment
        self._socket = socket
        self.interrupted = interrupted
        self._threads = ThreadPoolExecutor(assignment.threads, thread_name_prefix="compute")
        self._numbers = {name: number for number, name in enumerate(assignment.names)}
        self._map = Map(assignment.topology)
        nodes = assignment.topology.nodes
        self._machines = {
            self._numbers[name]: self._machine(nodes[name], self._numbers[name], program)
            for name, program in assignment.programs.items()
        }
        self._agenda: list[tuple[int, int]] = []
        self._touched: dict[int, Machine] = {}
        self._guard = contextlib.ExitStack()
        if self.virtual:
            self._guard.enter_context(guard.guarded())

    def _machine(self, place: Place, number: int, program: Program) -> Machine:
        return Machine(place, number, program, self, self._threads)

    @property
    def returned(self) -> dict[str, object]:
        """What programs have returned, by node."""
        return {
            machine.place.name: machine.returned
            for machine in self._machines.values()
            if machine.has_returned
        }

    # What nodes ask (`Surroundings`).

    @property
    def names(self) -> Sequence[str]:
        """All nodes of the run, in its order."""
        return self._assignment.names

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._assignment.seed

    @property
    def send_buffer_bytes(self) -> int:
        """What may be under way from one node to another before it has to wait."""
        return self._assignment.topology.transport.send_buffer_bytes

    def number(self, name: str) -> int:
        """A node's place in the order of the run. Raises BrokerError where no program is."""
        number = self._numbers.get(name)
        if number is None:
            raise BrokerError(f"no program runs on a node {name!r}")
        return number

    def route(self, source: str, destination: str) -> Route | None:
        """What the way costs now, or None where the topology has none."""
        return self._map.route(source, destination)

    # The conversation with the bus.

    def hello(self) -> None:
        """Joins the run."""
        body = {"index": self._assignment.index, "token": self._assignment.token}
        post(self._socket, [Frame(Kind.HELLO, body=pack(body))])

    def pump(self) -> bool:
        """Reads packets until a window is done (True) or the run is over (False)."""
        while True:
            for frame in decode(collect(self._socket)):
                answered = self._take(frame)
                if answered is not None:
                    return answered

    def _take(self, frame: Frame) -> bool | None:
        """What the bus says. True: it was answered; False: the run is over."""
        if frame.kind in (Kind.DELIVER, Kind.RECEIPT):
            self._machines[frame.destination].arrive(frame)
            self._put_down(frame.destination, frame.due_ns)
        elif frame.kind == Kind.ORDERS:
            self._obey(frame.instant_ns, unpack(frame.body))
        elif frame.kind == Kind.ADVANCE:
            with driving():
                self._advance(frame.instant_ns, frame.due_ns)
            return True
        elif frame.kind == Kind.DESCRIBE:
            body = pack({"waiting": self._describe(), "idle": self._is_idle()})
            self._post([Frame(Kind.QUIET, body=body)])
            return True
        elif frame.kind == Kind.CLOSE:
            return False
        return None

    def _post(self, frames: Sequence[Frame]) -> None:
        """Hands frames to the bus."""
        post(self._socket, frames)

    def close(self) -> None:
        """Drops all nodes; real work still under way is not waited for."""
        with self._guard:
            for machine in self._machines.values():
                machine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _obey(self, now_ns: int, orders: dict[str, Any]) -> None:
        """What happens to nodes before anything else at this instant."""
        if "links" in orders:
            self._map.change(orders["links"])
        for action, number, *values in orders["actions"]:
            machine = self._machines[number]
            self._act(machine, action, now_ns, values)
            self._put_down(number, machine.next_ns())
            if machine.failure is not None:
                self._touched[number] = machine

    def _advance(self, now_ns: int, end_ns: int) -> None:
        """Runs the window from `now_ns` until before `end_ns`."""
        touched, self._touched = self._touched, {}
        agenda = self._agenda
        blocked: list[Machine] = []
        while agenda and agenda[0][0] < end_ns:
            due_ns, number = heapq.heappop(agenda)
            machine = self._machines[number]
            if machine.scheduled_ns != due_ns:
                continue
            machine.scheduled_ns = None
            touched[number] = machine
            if not machine.run(now_ns, end_ns, patient=False):
                blocked.append(machine)
                continue
            self._put_down(number, machine.upcoming_ns)
        for machine in blocked:
            machine.run(now_ns, end_ns, patient=True)
            self._put_down(machine.number, machine.upcoming_ns)
        self._report(end_ns, touched.values())

    def _put_down(self, number: int, due_ns: int | None) -> None:
        """Notes on the agenda when a node is next to be run, if that is earlier than noted."""
        if due_ns is None:
            return
        machine = self._machines[number]
        if machine.scheduled_ns is None or due_ns < machine.scheduled_ns:
            machine.scheduled_ns = due_ns
            heapq.heappush(self._agenda, (due_ns, number))

    def _act(self, machine: Machine, action: str, now_ns: int, values: Sequence[Any]) -> None:
        if action in ("boot", "crash"):
            machine.crash(now_ns)
            if action == "boot" and machine.failure is None:
                machine.boot(now_ns, *values)
        elif action == "stop":
            machine.stop(now_ns)
        elif action == "pause":
            machine.pause(now_ns, *values)
        elif action == "speed":
            machine.set_speed(now_ns, *values)
        elif action == "skew":
            machine.skew(now_ns, *values)
        elif action == "memory":
            machine.squeeze(now_ns, *values)
        elif action == "disk":
            machine.disk.fill(*values)

    def _report(self, end_ns: int, machines: Iterable[Machine]) -> None:
        """Hands over what the nodes sent, and says how they are."""
        frames: list[Frame] = []
        news: dict[str, list[Any]] = {}
        for machine in machines:
            gather(machine, frames, news)
        quiet = Frame(Kind.QUIET, sequence=len(frames), instant_ns=end_ns)
        next_ns = self._next_ns()
        quiet.due_ns = -1 if next_ns is None else next_ns
        if news:
            quiet.body = pack(news)
        frames.append(quiet)
        self._post(frames)

    def _next_ns(self) -> int | None:
        """When there is next something to do here, or None."""
        return self._agenda[0][0] if self._agenda else None

    def _is_idle(self) -> bool:
        """Whether nothing more happens here until something is heard."""
        return all(machine.is_idle() for machine in self._machines.values())

    def _describe(self) -> dict[str, str]:
        """What each node's program waits for, as its innermost line."""
        return {
            machine.place.name: machine.describe()
            for machine in self._machines.values()
            if not machine.has_returned
        }


def gather(machine: Machine, frames: list[Frame], news: dict[str, list[Any]]) -> None:
    """Takes what a node has sent into `frames`, and what else it has said, and how it ended, into
    `news`, as a report has it.
    """
    number, node = machine.number, machine.node
    if node is not None:
        said, owed = node.said, node._traffic.receipts
        frames += said.frames
        said.frames.clear()
        if said.worked_s:
            news.setdefault("worked", []).append([number, said.worked_s])
            said.worked_s = 0.0
        if said.notes or said.facts or said.topics:
            for what, things in (
                ("notes", said.notes), ("facts", said.facts), ("topics", said.topics),
            ):  # fmt: skip
                if things:
                    news.setdefault(what, []).extend(
                        [at_ns, number, *rest] for at_ns, *rest in things
                    )
            said.clear()
        if owed:
            news.setdefault("receipts", []).extend([at_ns, number, *rest] for at_ns, *rest in owed)
            owed.clear()
    if machine.ended_ns is not None and not machine.reported:
        machine.reported = True
        end: list[Any] = [machine.ended_ns, number]
        if machine.failure is not None:
            news.setdefault("failed", []).append([*end, *machine.failure])
        else:
            news.setdefault("ended", []).append([*end, machine.has_returned])
