"""One run of a config: everything from the cache to the report.

    config ─ model, text, topology, scenario ─ programs on nodes ─ broker.run ─ adapters, scores,
    report

What a person waits for is told to a `View`; what a program of the run notes goes to the run's
folder as it comes. The experimenter stands outside the network: it deals the text out, knows the
true tasks, and scores adapters on held-out text with the whole model, which no device of the run
could hold.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, TypeAlias

import networkx
import numpy as np
import torch

import broker
import faults
import topologies
from atlas import assets, crossings, foresight, models, tasks
from atlas import config as configs
from atlas.aggregation import PERSONAL, completed, parted
from atlas.config import Config, ConfigError
from atlas.journal import Journal
from atlas.journal.values import digest
from atlas.models import AdapterState, ModelSpec, save_adapter, whole_model
from atlas.models.tensors import unpack
from atlas.models.weights import require_readable
from atlas.results import (
    Manifest,
    RunFolder,
    Summary,
    View,
    read_run,
    require_free,
    summarize,
    write_report,
)
from atlas.results.manifest import machine, versions
from atlas.roles import RunSettings, coordinator, device
from atlas.roles.coordinator import Fetched, NeighborhoodResult, Outcome
from atlas.roles.settings import DTYPES
from atlas.tasks import ClientData, Example, Judgment, Score, Task
from broker import Note, Tap
from faults import Scenario
from topologies import InputError, Node, Topology

SCORING_BATCH = 16
AMPLE_BYTES = 2**42
"""More memory than anybody needs."""

Checkpoint: TypeAlias = Literal["remove", "keep", "none"]
"""What becomes of what was computed once a run is finished; "none": it was never kept."""


@dataclass(frozen=True)
class Prepared:
    """A config's inputs, read and checked: what a run needs before virtual time begins."""

    config: Config
    model: str
    """SHA-256 of the model's files."""
    topology: Topology
    scenario: Scenario | None
    tasks: tuple[Task, ...]
    data: dict[str, ClientData]
    settings: RunSettings

    @property
    def truth(self) -> dict[str, str]:
        """The task that each client was dealt."""
        return {client: part.task for client, part in self.data.items()}

    @property
    def steps(self) -> int:
        """Steps of all clients together."""
        training = self.config.training
        return len(self.data) * training.rounds * training.steps

    def served(self, found: NeighborhoodResult) -> tuple[str, ...]:
        """For whom a neighborhood's adapter is: its members, and those whose text they gathered."""
        if self.config.split.placement != "gathered":
            return found.members
        settings = self.settings
        return tuple(each for member in found.members for each in settings.group_of(member))

    def with_journal(self, journal: Journal) -> Self:
        """The same, with results taken from this journal, and written to it."""
        return replace(self, settings=replace(self.settings, journal=journal))


@dataclass(frozen=True)
class Trained:
    """What the programs of a run brought: adapters by neighborhood, or by client where each has its
    own, with the frozen pairs that belong to them; and the emulator's account.
    """

    run: broker.Run
    outcome: Outcome
    adapters: dict[str, AdapterState]

    def of(self, neighborhood: NeighborhoodResult, clients: Sequence[str]) -> list[AdapterState]:
        """The adapters that these of its members go home with."""
        names = clients if neighborhood.own else [neighborhood.name]
        return [self.adapters[name] for name in names if name in self.adapters]


def run(
    config: Config,
    out: Path,
    *,
    processes: int = 1,
    view: View,
    checkpoint: Checkpoint = "remove",
    journal: Path | None = None,
) -> Summary:
    """Runs a config and fills the folder `out`. Raises InputError for bad input of any kind.

    When it is interrupted or killed, the folder keeps what was known by then and is readable, and
    `resume` goes on with it. For that all that is computed is kept in its checkpoint/, unless
    `checkpoint` is "none"; "remove" takes it away once the run is finished. A `journal`, which
    several runs may share, takes the checkpoint's place and is kept.
    """
    started = time.monotonic()
    torch.set_num_threads(1)
    require_free(out)
    prepared = prepare(config, view)
    with RunFolder(out) as folder:
        folder.write_config(prepared.config.complete())
        folder.write_manifest(_manifest(prepared))
        return _fill(folder, prepared, started, processes, view, checkpoint, journal)


def resume(
    out: Path, *, processes: int = 1, view: View, checkpoint: Checkpoint = "remove"
) -> Summary:
    """Goes on with the run in the folder `out`, which ends as if it had never been killed: with the
    same notes, digest and adapters. Of one that is finished it gives the summary.

    It is begun again from the start, and takes from the checkpoint what was computed.

    Raises InputError where `out` is no run, where what went into it has changed since it began, and
    where it is another build or kind of machine.
    """
    started = time.monotonic()
    torch.set_num_threads(1)
    with RunFolder(out, resume=True) as folder:
        record = read_run(out)
        if record.summary is not None and record.summary.finished and folder.report.is_file():
            view.say(f"The run in {out} is finished: there is nothing left to do")
            return record.summary
        if not record.config:
            raise InputError(
                "this run was ended before it had begun",
                file=str(out),
                remedy="Remove the folder and run again",
            )
        prepared = prepare(configs.load(str(folder.config)), view)
        manifest = _manifest(prepared)
        if record.manifest.digests:
            record.manifest.require_same(manifest, file=folder.manifest)
        folder.write_manifest(manifest)
        return _fill(folder, prepared, started, processes, view, checkpoint)


def _fill(
    folder: RunFolder,
    prepared: Prepared,
    started: float,
    processes: int,
    view: View,
    checkpoint: Checkpoint,
    shared: Path | None = None,
) -> Summary:
    """Lives through a run and writes down what comes of it."""
    notes: list[Note] = []

    def record(note: Note) -> None:
        notes.append(note)
        folder.note(note)
        view.note(note)

    config = prepared.config
    view.expect(steps=prepared.steps, truth=prepared.truth)
    summary = functools.partial(_summary, prepared, notes, started=started, finished=False)
    with contextlib.ExitStack() as opened:
        try:
            if checkpoint != "none" or shared is not None:
                journal = Journal(shared or folder.checkpoint, world(prepared))
                opened.callback(journal.close)
                prepared = prepared.with_journal(journal)
                if len(journal):
                    view.say(f"Going on: {len(journal):,} results are known from before")
            view.say("Scoring the model as it is, on text that no client has")
            for note in _evaluate(prepared, None, at_s=0.0, bytes_total=0):
                record(note)
            view.say("Training")
            trained = train(prepared, processes=processes, observe=record)
            folder.write_faults(faults.concrete(trained.run.faults, name=config.name))
            trained.run.ledger.write_parquet(folder.trace)
            spec, lora = prepared.settings.spec, config.lora
            for name, state in trained.adapters.items():
                adapter, frozen = parted(state)
                place = folder.adapter(name)
                save_adapter(adapter, place, spec, lora, base=config.model, frozen=frozen)
            view.say("Scoring the adapters")
            end_s, total = trained.run.virtual_seconds, trained.run.ledger.wire_bytes
            for note in _evaluate(prepared, trained, at_s=end_s, bytes_total=total):
                record(note)
            result = summary(trained=trained, finished=True)
            folder.write_summary(result)
        except BaseException:
            with contextlib.suppress(OSError):  # a full disk must not hide what happened
                folder.write_summary(summary())
            raise
    write_report(folder.path)
    if checkpoint == "remove":
        folder.remove_checkpoint()
    return result


def world(prepared: Prepared) -> bytes:
    """What every result of a run depends on beside its own arguments: the model's files, what
    computes with them, and on what.
    """
    builds = versions()
    own = [
        file.read_bytes()
        for package in (models, tasks)
        for file in sorted(Path(package.__path__[0]).glob("*.py"))
    ]
    used = [builds[name] for name in ("torch", "transformers", "peft", "numpy")]
    return digest(prepared.model, used, machine()["processor"], own)


def network(config: Config) -> tuple[Topology, Scenario | None]:
    """The topology, and the scenario as far as there is one, which fits it. Raises InputError."""
    topology = topologies.load(config.topology)
    scenario = None if config.faults == "none" else faults.load(config.faults)
    if scenario is not None:
        faults.expand(scenario, topology, config.seed)
    return topology, scenario


def prepare(config: Config, view: View) -> Prepared:
    """Reads what a config names. Raises InputError naming file, key and remedy."""
    topology, scenario = network(config)
    if config.memory == "ample":
        topology = granting(topology, AMPLE_BYTES)
    clients, devices, coordinator_name = _roles(topology)
    with assets.progress_bar() as progress:
        folder = assets.model(config.model, progress=progress)
        dtype = _dtype(config)
        settings = RunSettings(
            seed=config.seed,
            folder=folder,
            dtype=dtype,
            lora=config.lora,
            training=config.training,
            split=config.split,
            signature=config.signature,
            drift=config.drift,
            aggregation=config.aggregation,
            membership=config.membership,
            recovery=config.recovery,
            coordinator=coordinator_name,
            clients=clients,
            devices=devices,
            ample=config.memory == "ample",
        )
        spec = ModelSpec.read(folder, DTYPES[dtype])
        if settings.whole:
            nothing_crosses = {"client_layers": spec.layers, "codec": "fp32"}
            kept = config.split.model_copy(update=nothing_crosses)
            config = config.model_copy(update={"split": kept})
            settings = replace(settings, split=kept)
        else:
            _require_cut(config, spec)
        _require_settling(settings)
        if config.split.codec != "auto":
            settings = replace(settings, codecs=crossings.choose(topology, settings))
        settings.initial_adapter()  # raises where a LoRA target is not one of the model's
        require_readable(folder)
        text = tasks.load_all(
            config.tasks,
            tokenizer=settings.tokenizer,
            max_tokens=config.training.tokens,
            held_out=config.held_out,
            validation=config.validation,
            progress=progress,
        )
    loaded = tasks.divided(text, config.deal)
    data = tasks.deal(
        loaded,
        clients,
        examples_per_client=config.examples_per_client,
        seed=config.seed,
        settings=config.deal,
    )
    settings = replace(settings, groups=groups(config, data))
    view.say(
        f"{len(clients)} clients with {len(loaded)} kinds of text, "
        f"{len(devices) - len(clients)} hosts without, on {topology.name}"
    )
    rounding = config.split.codec != "fp32"
    if settings.whole:
        view.say("Clients hold the whole model, and nothing is split")
    elif config.split.client_layers == "auto" or (config.split.spans == "auto" and rounding):
        split = foresight.cut(settings, topology, data)
        config, settings = (
            config.model_copy(update={"split": split}),
            replace(settings, split=split),
        )
        cut = "" if split.spans == "auto" else f", and the others are cut into {split.spans}"
        view.say(f"The clients keep {split.client_layers} of {spec.layers} layers{cut}")
    if config.split.codec == "auto":  # it depends on the cut, which is chosen as if all were fp32
        settings = replace(settings, codecs=crossings.choose(topology, settings))
    return Prepared(config, _files(folder), topology, scenario, loaded, data, settings)


def train(
    prepared: Prepared,
    *,
    processes: int = 1,
    observe: broker.Observer | None = None,
    tap: Tap | None = None,
) -> Trained:
    """One life of a run, in virtual time: from the first hello to the last adapter."""
    settings = prepared.settings
    programs: dict[str, broker.Program] = {
        settings.coordinator: functools.partial(coordinator, settings=settings)
    }
    for name in settings.devices:
        programs[name] = functools.partial(device, settings=settings, data=prepared.data.get(name))
    result = broker.run(
        programs,
        topology=prepared.topology,
        faults=prepared.scenario or (),
        seed=prepared.config.seed,
        processes=processes,
        background=[name for name in settings.devices if name not in settings.voters],
        ends="first",
        observe=observe,
        tap=tap,
    )
    outcome = next(each for each in result.returned.values() if isinstance(each, Outcome))
    method, drawn = settings.aggregation.method, settings.initial_adapter()
    adapters: dict[str, AdapterState] = {}
    for found in outcome.neighborhoods:
        if method in PERSONAL:
            adapters |= {client: _unpacked(own) for client, own in found.own.items()}
        else:
            adapters[found.name] = completed(method, _unpacked(found.merged), drawn, drawn)
    return Trained(result, outcome, adapters)


def _unpacked(fetched: Fetched) -> AdapterState:
    return {name: tensor.clone() for name, tensor in unpack(*fetched).items()}


def granting(topology: Topology, size_bytes: int) -> Topology:
    """The same network, where every device has and grants so much memory."""

    def grown(node: Node) -> Node:
        if node.device is None:
            return node
        memory = {"memory_bytes": size_bytes, "grant_bytes": size_bytes}
        return node.model_copy(update={"device": node.device.model_copy(update=memory)})

    nodes = {name: grown(node) for name, node in topology.nodes.items()}
    return topology.model_copy(update={"nodes": nodes})


def groups(config: Config, data: Mapping[str, ClientData]) -> dict[str, str]:
    """The group of each client, where groups are settled before the run; {} where signatures are
    to find them.

    At random it is those of the tasks, dealt out anew: as many, of the same sizes.
    """
    match config.aggregation.grouping:
        case "one":
            return dict.fromkeys(data, "all")
        case "none":
            return {client: client for client in data}
        case "oracle":
            return {client: part.task for client, part in data.items()}
        case "random":
            seed = hashlib.sha256(f"{config.seed}/random grouping".encode()).digest()
            generator = np.random.default_rng(int.from_bytes(seed[:8], "little"))
            drawn = generator.permutation([part.task for part in data.values()])
            return dict(zip(data, map(str, drawn), strict=True))
        case _:
            return {}


def _roles(topology: Topology) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Names of the clients, of all devices, and of the coordinator."""
    by_role: dict[str, list[str]] = {}
    for node in topology.nodes.values():
        by_role.setdefault(node.role, []).append(node.name)
    for role in ("coordinator", "client"):
        if role not in by_role:
            raise ConfigError(
                f"topology {topology.name} has no node with role {role}",
                key="topology",
                remedy="Give one node role: coordinator, and role: client to each that has text",
            )
    if len(by_role["coordinator"]) > 1:
        raise ConfigError(
            f"topology {topology.name} has {len(by_role['coordinator'])} coordinators",
            key="topology",
            remedy="Give one node role: coordinator",
        )
    clients, (coordinator_name,) = tuple(by_role["client"]), by_role["coordinator"]
    devices = tuple(
        node.name for node in topology.nodes.values() if node.role in ("client", "host")
    )
    for name in (coordinator_name, *devices):
        if topology.nodes[name].device is None:
            raise ConfigError(
                f"{name} of topology {topology.name} has no device",
                key="topology",
                remedy="Give the coordinator and each client and host a device, as in "
                "`device: raspberry-pi-5`",
            )
    graph = topology.to_networkx()
    there = {coordinator_name} | networkx.ancestors(graph, coordinator_name)
    back = {coordinator_name} | networkx.descendants(graph, coordinator_name)
    for name in devices:
        if name not in there & back:
            ends = (coordinator_name, name) if name in there else (name, coordinator_name)
            raise ConfigError(
                f"there is no way from {ends[0]} to {ends[1]} in topology {topology.name}",
                key="topology",
                remedy="Add the links that are missing, one for each direction that they lead",
            )
    return clients, devices, coordinator_name


def _require_cut(config: Config, spec: ModelSpec) -> None:
    """Raises ConfigError where the model has fewer layers than it is to be cut into."""
    split = config.split
    between = spec.layers - (1 if split.client_layers == "auto" else split.client_layers)
    if between < 1:
        raise ConfigError(
            f"clients are to keep {split.client_layers} layers of a model that has {spec.layers}, "
            "which leaves none to host",
            key="split.client_layers",
            remedy=f"Keep {spec.layers - 1} or fewer",
        )
    if split.spans != "auto" and split.spans > between:
        raise ConfigError(
            f"{between} layers between the ends can't be cut into {split.spans} spans",
            key="split.spans",
            remedy=f"Cut them into {between} or fewer, or say auto",
        )


def _require_settling(settings: RunSettings) -> None:
    """Raises ConfigError where clients would pull each other ever farther."""
    aggregation = settings.aggregation
    if aggregation.method == "laplacian" and settings.pull >= (most := settings.most_pull):
        graph = "this random graph of" if aggregation.graph == "random" else "signatures of"
        raise ConfigError(
            f"steps of {settings.pull:g} along {graph} {len(settings.clients)} clients may "
            "never settle",
            key="aggregation.pull",
            remedy=f"Take less than {most:.3g}, or null for a tenth of that",
        )


def _dtype(config: Config) -> str:
    """The base's number format: bfloat16 where the processor computes in it, unless it is said."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if computes_bfloat16() else "float32"


def computes_bfloat16() -> bool:
    """Whether this processor computes in bfloat16; others emulate it, many times slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _evaluate(
    prepared: Prepared, trained: Trained | None, *, at_s: float, bytes_total: int
) -> list[Note]:
    """Scores of every task: of the start, or of each neighborhood that has clients of the task; the
    mean of theirs where each has an adapter of its own.
    """
    jobs: list[tuple[Task, str, list[str], list[AdapterState]]]
    if trained is None:
        start = prepared.settings.initial_adapter()
        jobs = [(task, "", [], [start]) for task in prepared.tasks]
    else:
        jobs = [
            (task, found.name, having, adapters)
            for task in prepared.tasks
            for found in trained.outcome.neighborhoods
            if (
                having := [
                    each
                    for each in prepared.served(found)
                    if task.name in prepared.data[each].tasks
                ]
            )
            and (adapters := trained.of(found, having))
        ]

    broken_off = threading.Event()

    def note(job: tuple[Task, str, list[str], list[AdapterState]]) -> Note:
        task, neighborhood, clients, adapters = job
        scores = [evaluate(prepared, task, each, broken_off) for each in adapters]
        score = _mean(scores)
        each_one = scores if len(scores) == len(clients) else [score] * len(clients)
        fields = {
            "task": task.name,
            "phase": "before" if trained is None else "after",
            "neighborhood": neighborhood,
            "loss": score.loss,
            "choice_loss": score.choice_loss,
            "accuracy": score.accuracy,
            "majority": score.majority,
            "metric": task.metric,
            "measure": score.metrics[task.metric],
            "rows": score.rows,
            "clients": {
                client: {"loss": own.loss, "accuracy": own.accuracy, **own.metrics}
                for client, own in zip(clients, each_one, strict=True)
            },
        }
        return Note(at_s, "", "evaluated", fields, bytes_total)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        try:
            return list(threads.map(note, jobs))
        except BaseException:  # Ctrl-C, too, which should not have to wait for the rest
            broken_off.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _mean(scores: Sequence[Score]) -> Score:
    """The mean of scores on the same rows."""
    if len(scores) == 1:
        return scores[0]
    losses = [score.choice_loss for score in scores if score.choice_loss is not None]
    return replace(
        scores[0],
        loss=statistics.fmean(score.loss for score in scores),
        choice_loss=statistics.fmean(losses) if losses else None,
        accuracy=statistics.fmean(score.accuracy for score in scores),
        metrics={
            name: statistics.fmean(score.metrics[name] for score in scores)
            for name in scores[0].metrics
        },
    )


def evaluate(
    prepared: Prepared,
    task: Task,
    adapter: AdapterState,
    broken_off: threading.Event | None = None,
) -> Score:
    """The whole model with this adapter, frozen pairs and all, on the task's held-out rows, or on
    those for validation where the config has it so.

    Raises CancelledError soon after `broken_off` is set.
    """
    rows = task.validation if prepared.config.scored == "validation" else task.held_out
    return tasks.summarize(rows, judge(prepared, task, adapter, rows, broken_off))


def judge(
    prepared: Prepared,
    task: Task,
    adapter: AdapterState,
    rows: Sequence[Example],
    broken_off: threading.Event | None = None,
) -> tuple[Judgment, ...]:
    """What the whole model with this adapter makes of each of these rows of a task, held out or for
    validation. Answers are written only where the task is judged by what is written.

    With a journal, judgments are kept beside it: each adapter is judged once by the same rows, by
    whichever of the processes that share it comes first. Raises CancelledError soon after
    `broken_off` is set.
    """
    settings, journal = prepared.settings, prepared.settings.journal
    written, tokens = task.metric in tasks.WRITTEN, settings.training.tokens

    def judged() -> tuple[Judgment, ...]:
        return tasks.judge(
            whole_model(settings.spec, settings.lora, *parted(adapter)),
            settings.tokenizer,
            rows,
            max_tokens=tokens,
            batch_size=SCORING_BATCH,
            written=written,
            broken_off=broken_off,
        )

    if journal is None:
        return judged()
    world = (settings.dtype, settings.lora, adapter, tokens, SCORING_BATCH, written)
    return tasks.kept(journal.folder / "scores", judged, rows, journal.world, *world)


def _summary(
    prepared: Prepared,
    notes: Sequence[Note],
    *,
    started: float,
    finished: bool,
    trained: Trained | None = None,
) -> Summary:
    settings = prepared.settings
    result = None if trained is None else trained.run
    return summarize(
        notes,
        truth=prepared.truth,
        steps_expected=prepared.steps,
        bytes_by_purpose=None if result is None else result.ledger.bytes_by_purpose(),
        virtual_seconds=None if result is None else result.virtual_seconds,
        wall_seconds=time.monotonic() - started,
        digest=None if result is None else result.digest,
        whole_step_bytes=settings.whole_step_bytes(settings.training.batch),
        finished=finished,
    )


def _manifest(prepared: Prepared) -> Manifest:
    return Manifest.here(
        name=prepared.config.name,
        seed=prepared.config.seed,
        truth=prepared.truth,
        steps_expected=prepared.steps,
        digests=_digests(prepared),
    )


def _digests(prepared: Prepared) -> dict[str, str]:
    """SHA-256 of what went in."""

    def of(value: object) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

    config = prepared.config.complete()
    digests = {
        "model": prepared.model,
        "config": of({key: config[key] for key in config if key != "model"}),
        "topology": of(prepared.topology.model_dump(mode="json")),
    }
    if prepared.scenario is not None:
        events = faults.expand(prepared.scenario, prepared.topology, prepared.config.seed)
        digests["faults"] = of([repr(event) for event in events])
    for task in prepared.tasks:
        parts = (*task.train, *task.validation, *task.held_out)
        rows = [[row.prompt, row.answer, row.choices] for row in parts]
        digests[f"task {task.name}"] = of(rows)
    return digests


def _files(folder: Path) -> str:
    """SHA-256 of the files that a model is read from, by name."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja"):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()
