"""The messages between devices, as types, and how a message is asked until it is answered.

Every message has a `kind`. A question (`ask`) may be repeated: a device that has done a thing
answers for it again, and one that has forgotten (it crashed) says so. What a host is asked carries
the attempt and the step that it belongs to, and is refused at any other. Whoever sends keeps what
it sent until the round is over, or a snapshot of what came of it.

    device → coordinator     hello (→ chain), signature (→ assignment), done, result
    client → host            room?, open, forward, backward, replay, sketch, snapshot?,
                             collect, alive?; commit, close
    client → aggregator      update, merged? (→ tensors)
    aggregator → aggregator  mean? (→ tensors)

Where no answer is named it is `accepted`; any answer can be `refused`; commit and close have none.
A question that came without asking for an answer is malformed, and known as such when it is read.
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
    model_validator,
)

from broker import Message, Node
from topologies import InputError

CONTROL = "control"
SIGNATURES = "signatures"
ACTIVATIONS = "activations"
GRADIENTS = "gradients"
ADAPTERS = "adapters"
RECOVERY = "recovery"
"""What is sent only because something failed, or in case it does."""
ASK_AGAIN_S = 20.0
MOST_AGAIN_S = 300.0
SLOWER = 10.0
"""How much slower than the undisturbed way a payload may be before it is sent again."""
PATIENCE_S = 24 * 3600.0
"""How long a device waits for anything before it gives up."""
PURPOSES = (SIGNATURES, ACTIVATIONS, GRADIENTS, ADAPTERS, RECOVERY, CONTROL)

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
    of the whole model would take, and `ends_bytes` what the client's own part takes.
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
    examples: int


class Chain(_Body):
    """Who hosts which layers for one client. `stand_ins` and `fallbacks` are ranked, per span."""

    kind: Literal["chain"] = "chain"
    spans: list[tuple[int, int]]
    hosts: list[str]
    stand_ins: list[list[str]]
    fallbacks: list[list[str]]


class Signature(_Body):
    """Two half-signatures of a client; the payload is int8 [2, dimensions], by `encode`."""

    kind: Literal["signature"] = "signature"
    dimensions: int


class Assignment(_Body):
    """A client's neighborhood. `weights` are the members' examples, in the order of `members`.

    `aggregators` names each neighborhood's aggregator; `similarity` is between neighborhoods, in
    that order.
    """

    kind: Literal["assignment"] = "assignment"
    neighborhood: str
    members: list[str]
    weights: list[int]
    aggregators: dict[str, str]
    similarity: list[list[float]]
    chain: Chain


class Done(_Body):
    """A client has finished its last round."""

    kind: Literal["done"] = "done"


class Result(_Body):
    """A neighborhood's adapter after the last round; the payload is its tensors."""

    kind: Literal["result"] = "result"
    neighborhood: str
    manifest: Manifest


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

    At step 0 the payload is an adapter; later a session's snapshot. Without a manifest it begins
    from the adapter that all start from, which every device can make, or from the parameters that
    come with `forward`.
    """

    kind: Literal["open"] = "open"
    round: int
    manifest: Manifest | None


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


class Replay(_Step):
    """A micro-batch that an earlier host had done: hidden state and gradient in.

    The last one of a step that was committed has the `scale` with which it was.
    """

    kind: Literal["replay"] = "replay"
    micro: int = Field(ge=0)
    scale: float | None
    manifest: Manifest


class Commit(_Step):
    """Apply the gradients of `step`, times `scale`.

    Not answered: what comes next says whether it was done.
    """

    kind: Literal["commit"] = "commit"
    scale: float


class Sketch(_Step):
    """Sketch the gradients held, then drop them; the reply's payload is float64 [dimensions]."""

    kind: Literal["sketch"] = "sketch"
    dimensions: int = Field(ge=1, le=65536)


class AskSnapshot(_Step):
    """Give the session's state: what an `open` at this step begins from."""

    kind: Literal["snapshot?"] = "snapshot?"


class Collect(_Step):
    """Give the session's adapter as it is."""

    kind: Literal["collect"] = "collect"


class Close(_Step):
    """Forget the session. Not answered."""

    kind: Literal["close"] = "close"


class Update(_Body):
    """A client's adapter after a round (payload)."""

    kind: Literal["update"] = "update"
    round: int
    manifest: Manifest


class AskMean(_Body):
    """The mean of your neighborhood after a round?"""

    kind: Literal["mean?"] = "mean?"
    round: int


class AskMerged(_Body):
    """Our neighborhood's adapter for the next round?"""

    kind: Literal["merged?"] = "merged?"
    round: int


class Tensors(_Body):
    """A reply that carries tensors. `norms` of the gradients held are in the parameters' order."""

    kind: Literal["tensors"] = "tensors"
    manifest: Manifest
    norms: list[float] | None = None


class Accepted(_Body):
    """A reply: done, as asked."""

    kind: Literal["accepted"] = "accepted"


class Refused(_Body):
    """A reply: no, and why. `missing` when it knows nothing of what was asked about."""

    kind: Literal["refused"] = "refused"
    reason: str
    missing: bool = False


HostRequest = (
    AskRoom | Alive | Open | Forward | Backward | Replay | Commit | Sketch | AskSnapshot
    | Collect | Close
)  # fmt: skip
AggregatorRequest = Update | AskMean | AskMerged
AnyBody = (
    Hello | Chain | Signature | Assignment | Done | Result | HostRequest | AggregatorRequest
    | Tensors | Accepted | Refused
)  # fmt: skip
_ANSWERS = (Chain, Assignment, Tensors, Accepted, Refused)
_UNANSWERED = (Commit, Close)
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
    if not isinstance(body, (*_ANSWERS, *_UNANSWERED)) and not message.asks:
        raise InputError(
            f"malformed message from {message.source}: {body.kind!r} asks for no answer", key="kind"
        )
    return body


async def ask(
    node: Node,
    to: str,
    body: _Body,
    payload: Sequence[bytes | memoryview] = (),
    *,
    purpose: str = CONTROL,
    answer_bytes: int = 0,
) -> Message:
    """Asks until there is an answer, each time waiting twice as long, up to `MOST_AGAIN_S`.

    The first wait is `ASK_AGAIN_S` and what payload and answer take on a slow way. Raises
    UnansweredError after `PATIENCE_S`.
    """
    way, back = node.link(to), node.link(to, back=True)
    size_bytes = sum(len(part) for part in payload)
    moving_s = size_bytes * 8 / way.bandwidth_bps + answer_bytes * 8 / back.bandwidth_bps
    again_s = ASK_AGAIN_S + SLOWER * (moving_s + way.delay_s + back.delay_s)
    until = node.now + PATIENCE_S
    while node.now < until:
        try:
            header = body.header()
            return await node.request(to, header, payload, purpose=purpose, timeout=again_s)
        except TimeoutError:
            again_s = min(2 * again_s, MOST_AGAIN_S)
    raise UnansweredError(
        f"{to} has not answered {node.name}'s {body.header()['kind']!r} in {PATIENCE_S:,.0f} s"
    )
