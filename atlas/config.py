"""The config of a run: what a person may choose, with every default, checked at the door.

A config is a YAML file or a bundled name (`catalog/`); `--set key=value` changes one value. Keys
that do not exist are refused with the nearest one that does.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

import faults
import topologies
from atlas.assets import MODELS
from atlas.models import LoraSettings
from atlas.policies import conflict
from atlas.tasks import DealSettings, TaskSpec
from topologies import InputError
from topologies.bundled import Catalog
from topologies.document import Document, parse_yaml
from topologies.errors import did_you_mean


class ConfigError(InputError):
    """A config, or a value on the command line, that can't be meant."""


_CATALOG = Catalog(Path(__file__).with_name("catalog"), "config", ConfigError)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(_Section):
    """Rounds of steps, the same for every client."""

    rounds: int = Field(4, ge=1)
    steps: int = Field(5, ge=1, description="steps of each client in each round")
    batch: int = Field(8, ge=1, description="examples that go through the model at once")
    accumulate: int = Field(1, ge=1, description="batches in a step, whose gradients add up")
    tokens: int = Field(32, ge=4, description="most tokens of an example, answer included")
    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = Field(0, ge=0, description="steps of the run in which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0)
    clip: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest global norm of a step's gradients; null: any"
    )


class Split(_Section):
    """Where the model is cut, and who computes which part of it."""

    placement: Literal["peers", "server", "whole", "gathered"] = Field(
        "peers",
        description="who has the layers that a client doesn't keep: other devices; the "
        "coordinator's node, as server; nobody, since clients hold the whole model; gathered: nor "
        "these, for all text of a group goes to its first client",
    )
    trunk: Literal["own", "shared"] = Field(
        "own",
        description="own: each client has its own adapter on its hosts; shared: all whom a host "
        "serves train one, by the mean of their gradients in each step",
    )
    labels: Literal["client", "server"] = Field(
        "client", description="server: it gets the labels, and has norm, head and loss"
    )
    client_layers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        2,
        description="layers the client keeps after the embedding; auto: as many as make the "
        "slowest client's round shortest, by prediction",
    )
    spans: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="pieces that the layers between are cut into; auto: the fewest with which each "
        "neighborhood lives through the loss of its roomiest hosts",
    )
    spare: float = Field(
        0.34, ge=0, lt=1, description="the share of a neighborhood's hosts that may be lost"
    )
    codec: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "fp32",
        description="how hidden states and gradients cross; fp32 is exact; auto: for each client "
        "the first with which crossings take at most a tenth of a step's computation",
    )
    packed: bool = Field(True, description="leave out positions that change nothing, as padding")
    pairing: Literal["semantic", "titanic", "cheapest", "random"] = Field(
        "semantic",
        description="how hosts are chosen: inside the neighborhoods for the shortest round, or "
        "blind to the task: by TITANIC's rule, the cheapest for each in turn, or any",
    )

    @property
    def kept_layers(self) -> int:
        """How many layers the client keeps, once that is known."""
        if self.client_layers == "auto":
            raise ValueError("how many layers the clients keep is chosen before a run begins")
        return self.client_layers


class Privacy(_Section):
    """How far signatures hide the single examples that they are made of: (epsilon, delta)-privacy
    of all signatures that a client sends in a run. Activations and adapters are not protected.
    """

    epsilon: float = Field(gt=0, le=1e4)
    delta: float = Field(1e-5, gt=0, lt=1)
    clip: float = Field(
        1.0, gt=0, description="longest sketch of one example; longer ones are shortened to it"
    )


class SignatureSettings(_Section):
    """What clients are told apart by."""

    dimensions: int = Field(256, ge=8, le=4096, description="numbers, and bytes, in each half")
    batch: int = Field(8, ge=1, description="examples in each of the two halves")
    answers: bool = Field(
        False,
        description="tell apart clients who mean other things by the same choices, at three times "
        "the computation; without privacy only",
    )
    privacy: Privacy | None = Field(
        None, description="noise for it; each example then goes through the hosts by itself"
    )

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.answers and self.privacy is not None:
            raise ValueError("what answers mean is not private; leave out answers or privacy")
        return self


class Drift(_Section):
    """Whether clients' text is still of the kind that they were divided by."""

    every: int = Field(
        0, ge=0, description="rounds between new signatures of all clients; 0: none are taken"
    )
    significance: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="the chance that any client is moved in a run although no text has changed",
    )


class Aggregation(_Section):
    """Whose adapters are combined after a round, and how."""

    grouping: Literal["semantic", "one", "none", "random", "oracle", "noise"] = Field(
        "semantic",
        description="who is a neighborhood: whose signatures agree; all; nobody, each is alone; "
        "and as controls as many drawn at random as have one task; those that have one task; "
        "those whose signatures agree, where they are noise",
    )
    method: Literal[
        "fedit",
        "flexlora",
        "flora",
        "fedsa",
        "ffa",
        "fedex",
        "hetlora",
        "median",
        "trimmed-mean",
        "clipped-mean",
        "laplacian",
    ] = Field("fedit", description="how those of a neighborhood's clients become one")
    trim: float = Field(
        0.2, ge=0, le=0.5, description="trimmed-mean: the share of clients cut at each end"
    )
    graph: Literal["random", "signatures"] = Field(
        "random",
        description="laplacian: how much each two clients pull at each other, a number drawn from "
        "[0, 1) or how alike their signatures are",
    )
    pull: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="laplacian: how far they move, MIRA's eta times lambda; null: a tenth of what "
        "would settle no more",
    )
    between: float = Field(
        0.1, ge=0, le=1, description="how far a neighborhood moves towards those that are like it"
    )

    @property
    def weighs_signatures(self) -> bool:
        """Whether clients are combined by how alike their signatures are."""
        return self.method == "laplacian" and self.graph == "signatures"


def _span_of_time(text: object) -> str:
    topologies.units.duration(text)
    return str(text)


TimeSpan = Annotated[str, BeforeValidator(_span_of_time)]
"""A time with its unit, as in `90 s`."""


class Membership(_Section):
    """Who takes part, who is waited for, and who decides it."""

    wait: TimeSpan = Field(
        "24 h", description="how long clients are waited for before it begins without them"
    )
    late: Literal["wait", "drop"] = Field(
        "wait",
        description="wait: a round has the adapters of all its members; drop: not of those who are "
        "late, which changes the result",
    )
    least: float = Field(
        0.5, gt=0, le=1, description="drop: the share of members that a round has at least"
    )
    slack: float = Field(
        3.0, ge=1, description="drop: how many times as long as that share took the others may take"
    )
    replace: TimeSpan = Field(
        "1 min", description="how long an aggregator may be silent before another takes its place"
    )
    voters: int = Field(
        9, ge=1, description="devices that elect a coordinator: the first one, and so many clients"
    )


class Recovery(_Section):
    """What is kept in case a host is lost, and where. It changes bytes and time, and no result
    but with `lost: skip`.
    """

    lost: Literal["replay", "skip"] = Field(
        "replay",
        description="skip: the step in which a host is lost is left out, and another begins its "
        "layers again from the round's start; so other systems do, and as a control",
    )
    snapshot_every: int = Field(
        0, ge=0, description="steps between snapshots of the hosts' state; 0: replay alone"
    )
    keep: Literal["host", "client"] = Field(
        "host", description="who keeps parameters and optimizer; the client sends them each step"
    )
    hedge: bool = Field(
        False, description="whether a stand-in is asked, too, when a host's answer is late"
    )


TaskChoice = Annotated[
    Annotated[str, Tag("a name")] | Annotated[TaskSpec, Tag("one's own")],
    Discriminator(lambda value: "a name" if isinstance(value, str) else "one's own"),
]


class Config(_Section):
    """One run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    model: str = "smollm2-135m-instruct"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    topology: str = "edge-clusters"
    faults: str = "none"
    memory: Literal["granted", "ample"] = Field(
        "granted", description="ample: every device grants as much as anybody can need"
    )
    tasks: tuple[TaskChoice, ...] = Field(min_length=1, default=("news-topic",))
    examples_per_client: int = Field(160, ge=2)
    validation: int = Field(
        0, ge=0, description="rows of each task that no client has, to choose settings by"
    )
    held_out: int = Field(100, ge=1, description="rows of each task that no client has")
    scored: Literal["held_out", "validation"] = Field(
        "held_out", description="the rows that scores are of"
    )
    deal: DealSettings = DealSettings()
    lora: LoraSettings = LoraSettings()
    training: Training = Training()
    split: Split = Split()
    signature: SignatureSettings = SignatureSettings()
    drift: Drift = Drift()
    aggregation: Aggregation = Aggregation()
    membership: Membership = Membership()
    recovery: Recovery = Recovery()

    def complete(self) -> dict[str, Any]:
        """Every value, defaults included, as plain data."""
        return self.model_dump(mode="json")


def catalog() -> tuple[str, ...]:
    """Names of the bundled configs."""
    return _CATALOG.names()


def load(name_or_path: str, changes: Sequence[str] = ()) -> Config:
    """The config of that bundled name or file, with `key=value` changes applied in order.

    Paths in the file (a model folder, task files, a topology, a scenario) are relative to the file,
    those in changes to the current folder; in the config all of them are absolute. Raises
    ConfigError naming file, line, key and remedy.
    """
    text, file = _CATALOG.read(name_or_path)
    document = parse_yaml(text, file, ConfigError)
    data: dict[str, Any] = copy.deepcopy(document.mapping())
    if not _CATALOG.is_bundled(name_or_path):
        _resolve_paths(data, Path(name_or_path).parent, data.keys())
    changed = [_set(data, change) for change in changes]
    _resolve_paths(data, Path(), {place[0] for place in changed})
    config = _check(data, document, changed)
    if (found := conflict(config)) is not None:
        raise _error(document, changed, *found)
    return config


def _resolve_paths(data: dict[str, Any], folder: Path, keys: Collection[str]) -> None:
    """Makes what is a path from there absolute: names of bundled things stay as they are."""

    def resolved(value: Any, names: Collection[str] = ()) -> Any:
        if isinstance(value, str) and value not in names and (folder / value).exists():
            return str((folder / value).resolve())
        return value

    bundled = {"model": MODELS, "topology": topologies.catalog(), "faults": faults.catalog()}
    for key, names in bundled.items():
        if key in keys and key in data:
            data[key] = resolved(data[key], names)
    tasks = data.get("tasks") if "tasks" in keys else None
    for task in tasks if isinstance(tasks, list) else ():
        if isinstance(task, dict):
            for key in ("train", "validation", "held_out"):
                if key in task:
                    task[key] = resolved(task[key])


def _set(data: dict[str, Any], change: str) -> tuple[str, ...]:
    """Makes one change of the command line; returns the place that it changed."""
    key, equals, text = change.partition("=")
    key = key.strip()
    if not equals or not key or not text.strip():
        raise ConfigError(
            f"{change!r} is not a setting",
            key="--set",
            remedy="Write key=value, as in training.steps=10",
        )
    *sections, last = key.split(".")
    place = data
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{section} has no keys of its own", key=f"--set {key}")
        place = inner
    place[last] = parse_yaml(text, f"--set {key}", ConfigError).value
    return (*sections, last)


def _check(
    data: Mapping[str, Any], document: Document, changed: Sequence[tuple[str, ...]]
) -> Config:
    """The config in plain data. Raises ConfigError about the first thing that is wrong with it."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
    place = tuple(part for part in first["loc"] if part not in _BRANCHES)
    remedy = None
    if first["type"] == "extra_forbidden":
        problem = f"there is no key {place[-1]!r}"
        remedy = did_you_mean(str(place[-1]), _keys(place[:-1]), what="keys here")
    else:
        message = first["msg"].removeprefix("Value error, ")
        found = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
        problem = f"{message[:1].lower()}{message[1:]}{found}"
    raise _error(document, changed, place, problem, remedy)


def _error(
    document: Document,
    changed: Sequence[tuple[str, ...]],
    place: tuple[str | int, ...],
    problem: str,
    remedy: str | None,
) -> InputError:
    """The error about what stands at a place: in the file, or on the command line."""
    for there in changed:
        if place and there[: len(place)] == place[: len(there)]:
            return ConfigError(problem, key=f"--set {'.'.join(there)}", remedy=remedy)
    return document.error(problem, place, remedy)


_BRANCHES = ("a name", "one's own", "int", "literal['auto']", "str", "tuple[str, ...]")
"""What pydantic puts into a place where a value may be of several kinds."""


def _keys(place: Sequence[str | int]) -> Sequence[str]:
    """The keys that the section at this place has."""
    section: Any = Config
    for part in place:
        section = TaskSpec if part == "tasks" else section
        if isinstance(part, str) and part in section.model_fields:
            section = section.model_fields[part].annotation
    return tuple(section.model_fields)
