"""Worker processes: how they are started, watched and ended.

A worker process holds some of the nodes and talks to the bus over a Unix socket in a folder that
only this user can open. What its programs return comes back over a pipe between parent and child,
so nothing that arrives on a socket is ever unpickled. A worker whose parent is gone ends by itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import zmq

from broker.errors import BrokerError, WorkerError
from broker.watchdog import Watchdog
from broker.worker import Assignment, Worker

Work = Callable[[str, Assignment, Connection], None]
"""The body of a worker process; virtual time's, if no other is given."""

_POLL_MS = 1_000
_END_S = 5.0


class WorkerProcesses:
    """The worker processes of one run."""

    def __init__(
        self, endpoint: str, assignments: list[Assignment], work: Work | None = None
    ) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for assignment in assignments:
            ours, theirs = spawning.Pipe(duplex=False)
            process = spawning.Process(
                target=work or _work,
                args=(endpoint, assignment, theirs),
                name=f"broker-worker-{assignment.index}",
                daemon=True,
            )
            self._pipes.append(ours)
            try:
                with _deaf_to_ctrl_c():
                    process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                self.end()
                raise BrokerError(
                    f"programs can't go to other processes: {error}. Make them functions of a "
                    "module, or run them with processes=1"
                ) from error
            finally:
                theirs.close()
            self._processes.append(process)

    def check(self) -> None:
        """Raises WorkerError when a worker has died, with what it said last."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            if process.is_alive():
                continue
            said = (
                "it said nothing. Where a script starts a run with several processes it has to do "
                'so under `if __name__ == "__main__":`, for they import it'
            )
            with contextlib.suppress(EOFError, OSError):
                if pipe.poll():
                    kind, value = pipe.recv()
                    said = str(value) if kind == "failed" else said
            raise WorkerError(f"{process.name} ended with code {process.exitcode}: {said}")

    def returned(self, deadline_s: float) -> dict[str, object]:
        """What the programs returned. Raises WorkerError when a worker does not say in time."""
        values: dict[str, object] = {}
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            if not pipe.poll(deadline_s):
                raise WorkerError(f"{process.name} did not report what its programs returned")
            try:
                kind, value = pipe.recv()
            except EOFError:
                raise WorkerError(f"{process.name} ended before it reported") from None
            if kind == "failed":
                raise WorkerError(f"{process.name} failed: {value}")
            values |= value
        return values

    def end(self) -> None:
        """Ends every worker: politely, then by terminating it, then by killing it."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(_END_S)
            if process.is_alive():
                process.kill()
                process.join(_END_S)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Ctrl-C is for the parent alone, from the child's first instruction on: it inherits this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _work(endpoint: str, assignment: Assignment, pipe: Connection) -> None:
    """The body of a worker process."""
    parent = multiprocessing.parent_process()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.linger = 1_000
    socket.connect(endpoint)
    worker = Worker(assignment, socket)
    try:
        worker.hello()
        running = True
        with Watchdog():
            while running:
                while not socket.poll(_POLL_MS):
                    if parent is not None and not parent.is_alive():
                        return
                running = worker.pump()
        returned = worker.returned
        worker.close()
        pipe.send(("returned", returned))
    except BaseException:
        with contextlib.suppress(OSError):
            pipe.send(("failed", traceback.format_exc()))
        raise SystemExit(1) from None
    finally:
        pipe.close()
        socket.close()
        context.term()
