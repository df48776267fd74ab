"""What the control interface says, as types: the server writes them, the client reads them.

Times are seconds since the run's clock started; sizes are bytes, rates bit/s.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

NodeState = Literal["absent", "up", "down", "stopped", "paused"]


class Said(BaseModel):
    """Base of all that is said: frozen, and nothing but what is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Fault(Said):
    """A fault that holds or is to come."""

    id: str = Field(description="its name: by which it is cleared")
    kind: str
    holds: bool = Field(description="whether it holds now; else it is to come")
    by_hand: bool = Field(description="whether it was injected; else the scenario has it")
    begins_s: float
    ends_s: float | None = Field(description="null: it does not end by itself")
    nodes: list[str]
    links: list[tuple[str, str]]
    text: str = Field(description="in a few words")


class Faults(Said):
    """Those that hold, and then those to come, by when they begin."""

    faults: list[Fault]
    more: int = Field(default=0, description="further ones to come that are not listed")


class Cleared(Said):
    """What was cleared, by id."""

    cleared: list[str]
    at_s: float = Field(description="when what held is over")


class Node(Said):
    """A node, and how it is."""

    name: str
    role: str
    state: NodeState = Field(description="absent: no process has joined with it, or that is gone")
    deaths: int = Field(description="how often it has crashed, been stopped, or left")
    waiting_bytes: int = Field(description="what waits for its process, which does not read")


class Link(Said):
    """One direction of a link with something on it, or that a fault has changed."""

    source: str
    target: str
    bandwidth_bps: float
    delay_s: float
    loss: float
    state: Literal["whole", "worse", "cut"]
    share: float = Field(description="how much of it is in use now; 1 is all")
    queue_s: float = Field(description="how long what comes now waits before it")


class Queue(Said):
    """What a node has sent to another that has not been taken up."""

    source: str
    destination: str
    waiting_bytes: int
    full: bool = Field(description="whether the sender has to wait")


class Happening(Said):
    """Something that has happened."""

    at_s: float
    what: Literal["fault", "death", "came", "went", "ended", "failed"]
    nodes: list[str]
    text: str


class Totals(Said):
    """What has become of all messages, and how the bus fares."""

    sent: int
    delivered: int
    duplicated: int
    dropped: dict[str, int]
    in_flight: int
    malformed: dict[str, int]
    late: int
    lag_s: float
    connections: int
    turned_away: int


class State(Said):
    """Everything that the live page shows."""

    run: str
    topology: str
    seed: int
    time_s: float | None = Field(description="null: the clock has not started")
    totals: Totals
    nodes: list[Node]
    links: list[Link]
    graph: list[tuple[str, str]] = Field(description="which nodes have a link, for drawing")
    queues: list[Queue] = Field(description="the longest first")
    faults: list[Fault]
    happenings: list[Happening] = Field(description="the latest first")


class Problem(Said):
    """Why something was not done."""

    problem: str
    key: str | None = None
    remedy: str | None = None
