"""The events that a run reports, as types.

`read(note)` turns a note into one of these, or into nothing when its event is not listed here:
programs may report more than the results show. Fields that a model does not list are ignored for
the same reason, so that a folder written by a later version stays readable. Layers are numbered
from 0 over the whole model, and a range is half-open: `first` … `last - 1`.
"""

from __future__ import annotations

from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from atlas.results.notes import Note


class Event(BaseModel):
    """One thing that happened; the fields are those of the note."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Registered(Event):
    """A device said hello; the note's node is the device."""

    device: str | None = None
    role: str = ""
    grant_bytes: int = 0
    flops: float = 0.0
    examples: int = 0


class Signed(Event):
    """A client has measured its signature."""

    bytes: int = 0


class NeighborhoodsFound(Event):
    """The coordinator has divided the clients."""

    members: dict[str, tuple[str, ...]]
    silhouette: float | None = None
    p_value: float | None = None


class Link(Event):
    """One part of a chain: a host and the layers that it runs."""

    first: int
    last: int
    host: str


class Paired(Event):
    """A client was given its chain of hosts, and for each part of it the ranked stand-ins.

    `codec` is how its hidden states and gradients cross.
    """

    client: str
    neighborhood: str = ""
    chain: tuple[Link, ...] = ()
    stand_ins: tuple[tuple[str, ...], ...] = ()
    codec: str = "fp32"


class Step(Event):
    """A training step was committed everywhere."""

    client: str
    round: int
    step: int
    loss: float
    neighborhood: str = ""
    tokens: int = 0
    seconds: float = 0.0


class Suspected(Event):
    """A client waited for its host longer than it allows."""

    client: str
    host: str
    deadline_s: float = 0.0
    waited_s: float = 0.0


class Repaired(Event):
    """A stand-in took over layers of a client and replayed what was lost."""

    client: str
    first: int
    last: int
    lost: str
    host: str
    round: int = 0
    step: int = 0
    replayed: int = 0
    fallback: bool = False


class Moved(Event):
    """A round begins at another host than the last one ended with; nothing was lost."""

    client: str
    first: int
    last: int
    host: str
    round: int = 0


class Returned(Event):
    """The host of the plan has a client's layers again, after another had them."""

    client: str
    first: int
    last: int
    host: str
    round: int = 0
    step: int = 0


class Hedged(Event):
    """A stand-in was asked beside a host that was `late`; `host` answered first and goes on."""

    client: str
    late: str
    host: str
    round: int = 0
    step: int = 0
    waited_s: float = 0.0


class Refused(Event):
    """A host would not serve a client."""

    client: str
    host: str
    reason: str = ""


class Evicted(Event):
    """A host gave up a client's session for the sake of its memory.

    `why` is "squeezed" where the device took memory back, "unused" where a newcomer needed it.
    `steps` of the round were committed there, and will be replayed elsewhere if they are needed.
    """

    client: str
    host: str
    first: int
    last: int
    steps: int = 0
    bytes: int = 0
    why: str = ""


class Resumed(Event):
    """A crashed client goes on from its disk: at the beginning of `round`, or at `step` of it."""

    client: str
    round: int
    step: int | None = None


class Aggregated(Event):
    """A neighborhood's adapters were combined after a round."""

    neighborhood: str
    round: int
    aggregator: str = ""
    clients: tuple[str, ...] | int = ()
    mean_loss: float | None = None


class Elected(Event):
    """Another coordinates from now on, or the first one does again, in a new term."""

    coordinator: str
    term: int


class Replaced(Event):
    """A neighborhood has another aggregator, in its next term of office."""

    neighborhood: str
    lost: str
    aggregator: str
    term: int


class Dropped(Event):
    """A round was closed without those who were late."""

    neighborhood: str
    round: int
    clients: tuple[str, ...]


class LeftOut(Event):
    """Training begins without clients who were waited for."""

    clients: tuple[str, ...]
    waited_s: float = 0.0


class Placed(Event):
    """A client that came late has a neighborhood, and trains there from `round` on. `p_value`: how
    likely a member would be as unlike the others.
    """

    client: str
    neighborhood: str
    round: int
    p_value: float


class Drifted(Event):
    """A client's text is no longer of the kind of the neighborhood that it has `left`: it trains
    elsewhere from `round` on.
    """

    client: str
    left: str
    neighborhood: str
    round: int


class Fault(Event):
    """The scenario broke something, or ended a fault."""

    kind: str
    phase: str
    fault: str
    nodes: tuple[str, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()
    text: str = ""


class Evaluated(Event):
    """Held-out text was scored before or after training. Losses are nats per answer token.

    `measure` is the value of `metric`, the one that the task is judged by, 0 to 1.
    `clients` has the scores of each client's own adapter.
    """

    task: str
    phase: str
    loss: float
    choice_loss: float | None = None
    accuracy: float | None = None
    majority: float | None = None
    metric: str | None = None
    measure: float | None = None
    rows: int = 0
    neighborhood: str | None = None
    clients: dict[str, dict[str, float]] = {}


class Skipped(Event):
    """A step was left out, since a host was lost in it."""

    client: str
    round: int
    step: int


class SatOut(Event):
    """A client takes no part, since it does not grant what the method has it hold."""

    client: str
    needed_bytes: int
    grant_bytes: int


class Finished(Event):
    """The coordinator has what came of the last round."""

    rounds: int = 0
    steps: int = 0


EVENTS: MappingProxyType[str, type[Event]] = MappingProxyType(
    {
        "registered": Registered,
        "signature": Signed,
        "neighborhoods": NeighborhoodsFound,
        "paired": Paired,
        "step": Step,
        "suspected": Suspected,
        "repaired": Repaired,
        "moved": Moved,
        "returned": Returned,
        "hedged": Hedged,
        "refused": Refused,
        "evicted": Evicted,
        "resumed": Resumed,
        "aggregated": Aggregated,
        "elected": Elected,
        "replaced": Replaced,
        "dropped": Dropped,
        "left out": LeftOut,
        "placed": Placed,
        "drifted": Drifted,
        "fault": Fault,
        "evaluated": Evaluated,
        "skipped": Skipped,
        "sat out": SatOut,
        "finished": Finished,
    }
)


def read(note: Note) -> Event | None:
    """The note's event with its values checked, or None if its name is not in `EVENTS`.

    Raises:
        pydantic.ValidationError: a value is missing or has the wrong type.
    """
    model = EVENTS.get(note.event)
    return None if model is None else model.model_validate(dict(note.fields))
