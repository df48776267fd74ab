"""What can go wrong in a run, as types.

Every error says which node it concerns and at which virtual time, because that is what repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.ledger import Ledger
    from faults import Event


THE_TEST = "the test"
"""Who acts in a world beside its nodes (see `broker.testing`)."""


class BrokerError(Exception):
    """Base of everything this room raises.

    One that ends a run has the run's `ledger`, as far as it came, and its `faults` (see `Run`).
    """

    ledger: Ledger | None = None
    faults: tuple[Event, ...] = ()


@contextmanager
def with_the_books(ledger: Ledger, faults: Callable[[], tuple[Event, ...]]) -> Iterator[None]:
    """What ends a run with an error within this has the run's books with it."""
    try:
        yield
    except BrokerError as error:
        error.ledger, error.faults = ledger, faults()
        raise


class SpinError(BrokerError):
    """A program keeps itself busy at one instant and never lets time pass."""

    def __init__(self, node: str, time_s: float, steps: int) -> None:
        super().__init__(
            f"{_who(node)} ran {steps:,} steps at virtual time {time_s:.6f} s without waiting for "
            "anything. Let it await a message, a computation or asyncio.sleep."
        )


class HangError(BrokerError):
    """A program has not given its thread back for so long that it was interrupted."""

    def __init__(self) -> None:
        super().__init__("interrupted here: the program did not give its thread back")


class RealWorldError(BrokerError):
    """A program reached for the machine's own network, threads or processes in virtual time."""

    def __init__(self, node: str, what: str, remedy: str) -> None:
        super().__init__(f"{_who(node)} called {what}, which leaves the emulator: {remedy}")


class ProgramError(BrokerError):
    """A program raised. `report` is its traceback; `problem` is not empty where input was bad."""

    def __init__(self, node: str, time_s: float, report: str, problem: str = "") -> None:
        self.node, self.time_s, self.report, self.problem = node, time_s, report, problem
        super().__init__(f"the program of node {node} failed at {time_s:.6f} s:\n{report}")


class DeadlockError(BrokerError):
    """Nothing is running, nothing is to come, and programs still wait."""

    def __init__(self, time_s: float, waiting: Mapping[str, str]) -> None:
        self.time_s, self.waiting = time_s, dict(waiting)
        super().__init__(
            f"deadlock at virtual time {time_s:.6f} s: nothing is under way, and these wait:\n"
            f"{_lines(waiting)}"
        )


class LimitError(BrokerError):
    """The run has not ended within its `limit_s`."""

    def __init__(self, limit_s: float, waiting: Mapping[str, str]) -> None:
        self.limit_s, self.waiting = limit_s, dict(waiting)
        super().__init__(
            f"the run has not ended after {limit_s:,.0f} virtual seconds; these have not "
            f"returned:\n{_lines(waiting)}"
        )


class LostError(BrokerError):
    """A program that the run waits for is down, and no fault to come brings it back."""

    def __init__(self, node: str, time_s: float) -> None:
        self.node, self.time_s = node, time_s
        super().__init__(
            f"node {node} is down for good since {time_s:.6f} s, and the run waits for its "
            "program. Give the fault an end (`for`), or name the node in `background`"
        )


class LivelockError(BrokerError):
    """Programs answer each other for ever at one instant."""

    def __init__(self, time_s: float, rounds: int) -> None:
        super().__init__(
            f"programs exchanged messages for {rounds:,} rounds at virtual time {time_s:.6f} s: "
            "some route has no delay and its ends never wait."
        )


class WorkerError(BrokerError):
    """A process that holds nodes died or fell silent."""


class LedgerError(BrokerError):
    """The books do not balance, or something came too late: a bug of the emulator."""


class FrameError(BrokerError):
    """A frame that can't be read. The bus counts and drops it."""


class DeviceMemoryError(BrokerError):
    """A node asked for more memory than its device has left to give."""

    def __init__(self, node: str, purpose: str, wanted: int, free: int, capacity: int) -> None:
        self.wanted, self.free, self.capacity = wanted, free, capacity
        super().__init__(
            f"node {node} has {free:,} of {capacity:,} bytes left; {purpose} needs {wanted:,}"
        )


def _who(name: str) -> str:
    return name if name == THE_TEST else f"node {name}"


def _lines(waiting: Mapping[str, str]) -> str:
    return "\n".join(f"  {node}: {where}" for node, where in waiting.items())
