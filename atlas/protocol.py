"""The messages between devices, as types, and how long an answer may take.

Every message has a `kind`. A question may be repeated: a device that has done a thing
answers for it again, and one that has forgotten (it crashed) says so. What a host is asked carries
the attempt and the step that it belongs to, and is refused at any other. Whoever sends keeps what
it sent until the round is over, or a snapshot of what came of it.

    device → coordinator     hello (→ chain), signature (→ assignment), orders? (→ orders)
    aggregator → coordinator over (→ orders)
    coordinator → device     there?; orders
    voter ↔ voter            vote?, vote, lead, follow: see `atlas.roles.election`
    client → host            room?, open, forward, backward, learn, replay, sketch, snapshot?,
                             collect, alive?; commit, close
    client → client          text
    member → aggregator      update, merged? (→ tensors)
    aggregator → member      update?, merged? (→ tensors)
    coordinator → client     own? (→ tensors)
    aggregator → aggregator  mean? (→ tensors)

Where no answer is named it is `accepted`; any answer can be `refused`, or `elsewhere` where the
coordinator was asked for, or `orders` where the aggregator was; commit, close, orders and what
voters say have none. A question that came without asking for an answer is malformed, and known as
such when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from atlas.decision import Decision
from broker import Message, Node
from topologies import InputError

CONTROL = "control"
SIGNATURES = "signatures"
ACTIVATIONS = "activations"
GRADIENTS = "gradients"
ADAPTERS = "adapters"
TEXT = "text"
RECOVERY = "recovery"
"""What is sent only because something failed, or in case it does."""
ASK_AGAIN_S = 20.0
MOST_AGAIN_S = 300.0
SLOWER = 10.0
"""How much slower than the undisturbed way a payload may be before it is sent again."""
PATIENCE_S = 24 * 3600.0
"""How long a device waits for anything before it gives up."""
MOST_BEAT_S = 60.0
"""The longest time between two signs of life of who coordinates."""
PURPOSES = (SIGNATURES, ACTIVATIONS, GRADIENTS, ADAPTERS, TEXT, RECOVERY, CONTROL)

Manifest = list[dict[str, Any]]


class UnansweredError(InputError):
    """A device was asked again and again and has not answered in all the time there is."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem,
            key="faults",
            remedy="Give what a run can't do without (clients, the coordinator) a way back: `for:`",
        )


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def header(self) -> dict[str, Any]:
        """The message as plain values."""
        return self.model_dump()


class Hello(_Body):
    """A device introduces itself. `examples` is 0 for one without text.

    `free_bytes` is what its grant leaves to host with; `whole_step_bytes` is what one training step
    of the whole model would take, and `ends_bytes` what the client's own part takes. `round` is
    where a client is that has its assignment; it is through when that is the number of rounds.
    """

    kind: Literal["hello"] = "hello"
    device: str
    role: str
    grant_bytes: int
    free_bytes: int
    ends_bytes: int
    whole_step_bytes: int
    flops: float
    uplink_bps: float
    downlink_bps: float
    delay_s: float
    examples: int = Field(ge=0)
    round: int | None = None


class Chain(_Body):
    """Who hosts which layers for one client. `stand_ins` and `fallbacks` are ranked, per span;
    `sharing` names those who share the span's trunk, this client among them, if anybody does.
    """

    kind: Literal["chain"] = "chain"
    spans: list[tuple[int, int]]
    hosts: list[str]
    stand_ins: list[list[str]]
    fallbacks: list[list[str]]
    sharing: list[list[str]] = []


class Signature(_Body):
    """Two half-signatures of a client; the payload is int8 [2, dimensions], by `encode`."""

    kind: Literal["signature"] = "signature"
    dimensions: int


class Assignment(_Body):
    """A client's chain of hosts, and the decision that says where it belongs, as in `orders`."""

    kind: Literal["assignment"] = "assignment"
    term: int
    number: int
    decision: Decision
    chain: Chain


class AskOrders(_Body):
    """What is decided?"""

    kind: Literal["orders?"] = "orders?"


class Orders(_Body):
    """The last decision that counts: the `number`th of all, told by the coordinator of `term`."""

    kind: Literal["orders"] = "orders"
    term: int
    number: int
    decision: Decision


class Over(_Body):
    """The round may be closed: the adapters of `present` are here, in my `office`th term.

    With `signatures`, as in `signature`, where they were taken again in that round.
    """

    kind: Literal["over"] = "over"
    neighborhood: str
    round: int
    office: int
    present: list[str]
    signatures: dict[str, bytes] = {}


class AskThere(_Body):
    """Are you there?"""

    kind: Literal["there?"] = "there?"


class Elsewhere(_Body):
    """A reply: I don't coordinate. As far as I know `leader` does, in `term`."""

    kind: Literal["elsewhere"] = "elsewhere"
    leader: str | None
    term: int


class CallVote(_Body):
    """A voter in `term` would lead term `asked`; its record is `version`. A `trial` binds nobody.

    A version is the term and the number of a decision; a greater one is newer.
    """

    kind: Literal["vote?"] = "vote?"
    term: int
    asked: int
    version: tuple[int, int]
    trial: bool


class Vote(_Body):
    """The answer to `vote?` of term `asked`, by a voter that is in `term`."""

    kind: Literal["vote"] = "vote"
    term: int
    asked: int
    trial: bool
    granted: bool


class Lead(_Body):
    """A sign of life of who leads `term`. The next one comes within `next_s`.

    `decision` is the record of that `version`, where the voter is not known to have it.
    """

    kind: Literal["lead"] = "lead"
    term: int
    version: tuple[int, int]
    next_s: float = Field(ge=0, le=MOST_BEAT_S)
    decision: dict[str, Any] | None

    @field_validator("decision")
    @classmethod
    def _is_one(cls, decision: dict[str, Any] | None) -> dict[str, Any] | None:
        if decision:
            Decision.model_validate(decision)
        return decision


class Follow(_Body):
    """A voter's answer to `lead`: its term, and the record that it has on its disk."""

    kind: Literal["follow"] = "follow"
    term: int
    version: tuple[int, int]


class _Step(_Body):
    """A request about one client's session on layers `first` … `last - 1`.

    `attempt` grows with each session that the client opens, so that a request of an abandoned
    session is known as such; `step` is the state that the request expects: how many steps are
    committed.
    """

    attempt: int = Field(ge=0)
    first: int = Field(ge=0)
    last: int = Field(ge=1)
    step: int = Field(ge=0)

    @model_validator(mode="after")
    def _has_layers(self) -> Self:
        if self.first >= self.last:
            raise ValueError(f"layers {self.first} to {self.last} are none")
        return self


class AskRoom(_Step):
    """Could you take these layers on for me? Answered at once, so that the dead are soon known."""

    kind: Literal["room?"] = "room?"


class Alive(_Step):
    """Is this session still with you? Answered at once, whatever else is being computed."""

    kind: Literal["alive?"] = "alive?"


class Open(_Step):
    """Begin a session at `step`; `round` is for the record.

    At step 0 the payload is an adapter; later a session's snapshot. Beside it are the pairs that
    the base has taken over, under names with `frozen.` before them. Without an adapter it begins
    from the one that all start from, which every device can make, or from the parameters that come
    with `forward`. Each step of it is taken together with those in `sharing`.
    """

    kind: Literal["open"] = "open"
    round: int
    manifest: Manifest | None
    sharing: list[str] = []


class Forward(_Step):
    """The payload is the hidden state of micro-batch `micro` of the step; so is the reply's.

    A client that keeps the parameters sends them beside the first one of a step.
    """

    kind: Literal["forward"] = "forward"
    micro: int = Field(ge=0)
    manifest: Manifest


class Backward(_Step):
    """The payload is a gradient; so is the reply's, with those of LoRA's parameters where
    `gradients` are asked for.

    Where training clips, the reply to a step's last micro-batch brings the gradients' norms.
    """

    kind: Literal["backward"] = "backward"
    micro: int = Field(ge=0)
    manifest: Manifest
    gradients: bool = False


class Learn(_Step):
    """Where the server has the labels: the payload is the hidden state of a micro-batch and what
    its positions should predict; the reply's the gradient, beside the loss.

    `positions` is the number of those that have a label, in all of the step.
    """

    kind: Literal["learn"] = "learn"
    micro: int = Field(ge=0)
    positions: int = Field(ge=1)
    manifest: Manifest


class Replay(_Step):
    """A micro-batch that an earlier host had done: hidden state and gradient in, or where there are
    `positions` what they should predict, as in `learn`.

    The last one of a step that was committed has the `scale` with which it was.
    """

    kind: Literal["replay"] = "replay"
    micro: int = Field(ge=0)
    scale: float | None
    manifest: Manifest
    positions: int | None = Field(None, ge=1)


class Commit(_Step):
    """Apply the gradients of `step`, times `scale`.

    Not answered: what comes next says whether it was done.
    """

    kind: Literal["commit"] = "commit"
    scale: float


class Sketch(_Step):
    """Sketch the gradients held, then drop them; the reply's payload is float64 [dimensions].

    A layer counts by its depth to the power of `steepness`.
    """

    kind: Literal["sketch"] = "sketch"
    dimensions: int = Field(ge=1, le=65536)
    steepness: int = Field(1, ge=0, le=3)


class AskSnapshot(_Step):
    """Give the session's state: what an `open` at this step begins from."""

    kind: Literal["snapshot?"] = "snapshot?"


class Collect(_Step):
    """Give the session's adapter as it is."""

    kind: Literal["collect"] = "collect"


class Close(_Step):
    """Forget the session. Not answered."""

    kind: Literal["close"] = "close"


class Text(_Body):
    """Where all text of a group is gathered: the payload is the sender's, for who gathers it."""

    kind: Literal["text"] = "text"


class Update(_Body):
    """What a member hands in after a round (payload), for the aggregator in its `office`th term;
    with its `signature`, as in `signature`, where it was taken again in that round.
    """

    kind: Literal["update"] = "update"
    neighborhood: str
    round: int
    office: int
    manifest: Manifest
    signature: bytes | None = None


class AskMean(_Body):
    """The mean of your neighborhood after a round?"""

    kind: Literal["mean?"] = "mean?"
    neighborhood: str
    round: int


class AskUpdate(_Body):
    """What you handed in after that round, once more? With `start`: what you had begun it from?"""

    kind: Literal["update?"] = "update?"
    round: int
    start: bool = False


class AskOwn(_Body):
    """The adapter that you ended up with, whole?"""

    kind: Literal["own?"] = "own?"


class AskMerged(_Body):
    """A neighborhood's adapter after that round, or after a later one?"""

    kind: Literal["merged?"] = "merged?"
    neighborhood: str
    round: int


class Tensors(_Body):
    """A reply that carries tensors; between rounds, those after `round`.

    `norms` of the gradients held are in the parameters' order.
    """

    kind: Literal["tensors"] = "tensors"
    manifest: Manifest
    round: int | None = None
    norms: list[float] | None = None
    loss: float | None = None


class Accepted(_Body):
    """A reply: done, as asked."""

    kind: Literal["accepted"] = "accepted"


class Refused(_Body):
    """A reply: no, and why. `missing` when it knows nothing of what was asked about."""

    kind: Literal["refused"] = "refused"
    reason: str
    missing: bool = False


HostRequest = (
    AskRoom | Alive | Open | Forward | Backward | Learn | Replay | Commit | Sketch | AskSnapshot
    | Collect | Close
)  # fmt: skip
AggregatorRequest = Update | AskMean | AskMerged
CoordinatorRequest = Hello | Signature | AskOrders | Over
ElectionMessage = CallVote | Vote | Lead | Follow
AnyBody = (
    CoordinatorRequest | ElectionMessage | Chain | Assignment | Orders | AskThere | Elsewhere
    | HostRequest | AggregatorRequest | AskUpdate | AskOwn | Text | Tensors | Accepted | Refused
)  # fmt: skip
ANSWERS = (Chain, Assignment, Orders, Elsewhere, Tensors, Accepted, Refused)
UNANSWERED = (Commit, Close, CallVote, Vote, Lead, Follow)
"""What is never asked; all that is in neither is a question."""
_ADAPTER: TypeAdapter[AnyBody] = TypeAdapter(Annotated[AnyBody, Field(discriminator="kind")])


def parse(message: Message) -> AnyBody:
    """The message as its type. Raises InputError naming the sender and what is wrong: an unknown
    `kind`, other fields than it has, or a question that asks for no answer.
    """
    try:
        body = _ADAPTER.validate_python(message.header)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"malformed message from {message.source}: {first['msg']}", key=key
        ) from None
    if not isinstance(body, (*ANSWERS, *UNANSWERED)) and not message.asks:
        raise InputError(
            f"malformed message from {message.source}: {body.kind!r} asks for no answer", key="kind"
        )
    return body


def answer_within_s(
    node: Node, to: str, payload: Sequence[bytes | memoryview] = (), answer_bytes: int = 0
) -> float:
    """How long an answer may take before it is asked for again: `ASK_AGAIN_S`, and what payload and
    answer take on a slow way.
    """
    if to == node.name:
        return ASK_AGAIN_S
    way, back = node.link(to), node.link(to, back=True)
    size_bytes = sum(len(part) for part in payload)
    moving_s = size_bytes * 8 / way.bandwidth_bps + answer_bytes * 8 / back.bandwidth_bps
    return ASK_AGAIN_S + SLOWER * (moving_s + way.delay_s + back.delay_s)
