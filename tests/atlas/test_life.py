"""One life of a run, whole, with the tiny model: faults change time and bytes, and nothing else."""

import dataclasses
import hashlib
import json

import pytest
import torch

import faults
from atlas import assets, config, experiment
from atlas.config import Recovery
from atlas.experiment import Prepared, Trained
from atlas.models import save_adapter
from atlas.protocol import _ADAPTER as BODIES
from atlas.results import Manifest, Summary, summarize
from broker import Frame, Note
from broker.wire import unpack

SETTINGS = ("training.rounds=2", "training.steps=3", "examples_per_client=24", "held_out=8")

HOSTS = """
name: hosts
timeline:
  - {{at: {0} ms, crash: hosts of the neighborhood of client-7, for: 10 s}}
  - {{at: {1} ms, crash: host of client-0, for: 2 s}}
  - {{at: {1} ms, slow: {{nodes: client-2, compute: 4x}}, for: 2 s}}
  - {{at: {1} ms, degrade: {{nodes: client-5, bandwidth: 10 %, delay: +150 ms}}, for: 2 s}}
"""
CLIENTS = """
name: clients
timeline:
  - {at: 100 ms, crash: client-2, for: 500 ms}
  - {at: 900 ms, crash: client-5, for: 1 s}
  - {at: 1.1 s, crash: client-0, for: 2 s}
"""
PARTITION = """
name: partition
timeline:
  - {at: 900 ms, partition: [[cluster=0], [cluster=1, coordinator]], for: 5 s}
"""
CHURN = """
name: churn
processes:
  - churn: {nodes: role=host, mean_up: 2 s, mean_down: 1 s, until: 8 s}
  - churn: {nodes: role=client, mean_up: 2 s, mean_down: 500 ms, until: 8 s}
"""

SCARCE = """
name: scarce
timeline:
  - {at: 100 ms, full_disk: "*", for: 3 s}
  - {at: 200 ms, squeeze: {nodes: any 50 % of role=host, memory: 1 KiB}, for: 2 s}
  - {at: 500 ms, squeeze: {nodes: client-3, memory: 1 KiB}, for: 3 s}
  - {at: 900 ms, crash: client-3, for: 500 ms}
"""
CHOSEN = """
name: chosen
timeline:
  - {at: 1 s, crash: busiest host, for: 1 s}
  - {at: 1.2 s, crash: the elected aggregator, for: 1 s}
  - {at: 2.5 s, stop: the elected aggregator of client-7, for: 1 s}
  - {at: 3 s, leave: hosts of client-1, for: 3 s}
  - {at: 1.5 s, nat: {nodes: client-6, gateway: gateway-1}}
"""


class Quiet:
    """A view for nobody."""

    def expect(self, **_: object) -> None: ...
    def say(self, text: str) -> None: ...
    def note(self, note: object) -> None: ...
    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclasses.dataclass
class Life:
    """A run with all that was seen of it."""

    trained: Trained
    notes: list[Note]
    frames: list[tuple[str, str, Frame]]

    def events(self, name: str) -> list[Note]:
        return [note for note in self.notes if note.event == name]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    assets.forbid_hub()
    return experiment.prepare(config.load("tiny", ["faults=none", *SETTINGS]), Quiet())


def live(prepared: Prepared, scenario: str | None = None, **options: int) -> Life:
    notes: list[Note] = []
    frames: list[tuple[str, str, Frame]] = []
    if scenario is not None:
        prepared = dataclasses.replace(prepared, scenario=faults.parse(scenario, "test"))
    trained = experiment.train(
        prepared,
        observe=notes.append,
        tap=lambda source, to, frame: frames.append((source, to, frame)),
        **options,
    )
    return Life(trained, notes, frames)


def figures(prepared: Prepared, life: Life) -> Summary:
    return summarize(life.notes, truth=prepared.truth, steps_expected=prepared.steps)


def assert_same_adapters(one: Trained, other: Trained) -> None:
    assert list(one.adapters) == list(other.adapters)
    for name, adapter in one.adapters.items():
        assert list(adapter) == list(other.adapters[name])
        for parameter, tensor in adapter.items():
            assert torch.equal(tensor, other.adapters[name][parameter]), (name, parameter)


@pytest.fixture(scope="module")
def calm(prepared: Prepared) -> Life:
    return live(prepared)


@pytest.fixture(scope="module")
def hosts_die(calm: Life) -> str:
    """All hosts of client-7 in the middle of its second step, and that of client-0."""

    def middle_ms(client: str) -> int:
        ends = [n.time_s for n in calm.events("step") if n.fields["client"] == client]
        first, second = ends[:2]
        return round(1000 * (first + second) / 2)

    return HOSTS.format(middle_ms("client-7"), middle_ms("client-0"))


@pytest.fixture(scope="module")
def stormy(prepared: Prepared, hosts_die: str) -> Life:
    return live(prepared, hosts_die)


def test_every_client_takes_every_step_once(prepared: Prepared, calm: Life) -> None:
    taken = [
        (note.fields["client"], note.fields["round"], note.fields["step"])
        for note in calm.events("step")
    ]

    assert len(taken) == len(set(taken)) == prepared.steps == 8 * 2 * 3


def test_training_changes_the_adapters_of_every_neighborhood(
    prepared: Prepared, calm: Life
) -> None:
    start = prepared.settings.initial_adapter()

    for adapter in calm.trained.adapters.values():
        assert list(adapter) == list(start)
        assert all(not torch.equal(adapter[name], start[name]) for name in start)


def test_dead_hosts_are_replaced_and_change_no_bit_of_any_adapter(
    prepared: Prepared, calm: Life, stormy: Life
) -> None:
    summary = figures(prepared, stormy)

    assert summary.deaths >= 3
    assert summary.repairings > 0
    assert summary.fallbacks > 0
    assert summary.steps_repeated > 0
    assert summary.steps_lost == summary.steps_twice == 0
    assert_same_adapters(stormy.trained, calm.trained)


def test_a_host_that_dies_in_the_middle_of_a_step_had_not_committed_it(stormy: Life) -> None:
    repaired = stormy.events("repaired")[0]
    client, at = repaired.fields["client"], repaired.fields["step"]
    before = [
        note.fields["step"]
        for note in stormy.events("step")
        if note.fields["client"] == client
        and note.fields["round"] == repaired.fields["round"]
        and note.time_s < repaired.time_s
    ]

    assert repaired.fields["replayed"] == at == len(before)


@pytest.mark.parametrize("scenario", [CLIENTS, PARTITION], ids=["clients", "cut"])
def test_crashes_of_clients_and_aggregators_and_partitions_change_no_bit(
    prepared: Prepared, calm: Life, scenario: str
) -> None:
    life = live(prepared, scenario)
    summary = figures(prepared, life)

    assert life.trained.run.faults
    assert summary.steps_lost == summary.steps_twice == 0
    assert_same_adapters(life.trained, calm.trained)


@pytest.mark.parametrize(
    ("scenario", "recovery"),
    [(CHURN, {"snapshot_every": 1, "hedge": True}), (None, {"keep": "client"})],
    ids=["snapshots", "client"],
)
def test_snapshots_hedging_and_parameters_at_the_client_change_no_bit(
    prepared: Prepared,
    calm: Life,
    hosts_die: str,
    scenario: str | None,
    recovery: dict[str, object],
) -> None:
    settings = dataclasses.replace(prepared.settings, recovery=Recovery.model_validate(recovery))
    life = live(dataclasses.replace(prepared, settings=settings), scenario or hosts_die)
    summary = figures(prepared, life)

    assert summary.repairings > 0
    assert summary.steps_lost == summary.steps_twice == 0
    assert_same_adapters(life.trained, calm.trained)
    if scenario == CHURN:  # clients that came back went on in the middle of a round
        assert any(note.fields.get("step") for note in life.events("resumed"))


def test_squeezed_memory_and_full_disks_are_waited_out_and_change_no_bit(
    prepared: Prepared, calm: Life
) -> None:
    life = live(prepared, SCARCE)

    assert life.events("disk full")
    assert life.trained.run.virtual_seconds > 3.5  # what client-3 needs it gets by then
    assert_same_adapters(life.trained, calm.trained)


def test_a_scenario_can_strike_whom_only_the_run_can_name(prepared: Prepared, calm: Life) -> None:
    life = live(prepared, CHOSEN)
    struck = {event.fault: event.nodes for event in life.trained.run.faults}
    aggregators = {note.fields["aggregator"] for note in calm.events("aggregated")}

    assert all(struck[fault] for fault in ("1", "2", "3", "4"))
    assert all(name.startswith("host-") for name in struck["1"] + struck["4"])
    assert {*struck["2"], *struck["3"]} <= aggregators
    assert len(struck["1"]) == len(struck["2"]) == len(struck["3"]) == 1
    assert_same_adapters(life.trained, calm.trained)


def test_a_chain_of_hosts_that_die_trains_the_adapters_of_one_host(
    prepared: Prepared,
) -> None:
    """Nothing is moved between neighborhoods: their likeness is a sum over hosts, and rounded."""
    lives = {}
    for spans, scenario in ((1, None), (3, None), (3, CHURN)):
        settings = dataclasses.replace(
            prepared.settings,
            training=prepared.config.training.model_copy(update={"rounds": 1}),
            split=prepared.config.split.model_copy(update={"spans": spans}),
            aggregation=prepared.config.aggregation.model_copy(update={"between": 0.0}),
        )
        lives[spans, scenario] = live(dataclasses.replace(prepared, settings=settings), scenario)

    for note in lives[3, None].events("paired"):
        assert len(note.fields["chain"]) == 3
        assert len({link["host"] for link in note.fields["chain"]}) > 1
    assert figures(prepared, lives[3, CHURN]).repairings > 0
    assert_same_adapters(lives[3, None].trained, lives[1, None].trained)
    assert_same_adapters(lives[3, CHURN].trained, lives[1, None].trained)


def test_tensors_in_int8_are_sent_again_as_they_were_so_faults_change_no_bit(
    prepared: Prepared, calm: Life
) -> None:
    codecs = dict.fromkeys(prepared.settings.clients, "int8")
    split = prepared.settings.split.model_copy(update={"spans": 2})
    settings = dataclasses.replace(prepared.settings, codecs=codecs, split=split)
    coarse = dataclasses.replace(prepared, settings=settings)
    steady = live(coarse)
    second = {
        note.fields["client"]: note.time_s
        for note in steady.events("step")
        if (note.fields["round"], note.fields["step"]) == (0, 1)
    }
    strikes = [
        f"{{at: {second[client]} s, crash: hosts of {client}, for: 5 s}}"
        for client in ("client-0", "client-7")
    ]
    struck = live(coarse, f"name: struck\ntimeline: [{', '.join(strikes)}]")

    assert sum(note.fields["replayed"] for note in struck.events("repaired")) >= 2
    assert_same_adapters(struck.trained, steady.trained)
    assert {note.fields["codec"] for note in steady.events("paired")} == {"int8"}
    for name, adapter in steady.trained.adapters.items():
        for parameter, tensor in adapter.items():
            assert not torch.equal(tensor, calm.trained.adapters[name][parameter])
    second_span = steady.events("paired")[0].fields["chain"][1]["first"]
    came, went_on = set(), []
    for _, to, frame in steady.frames:
        header = unpack(frame.body)
        if to.startswith("client-") and header["kind"] == "tensors":
            came.add(bytes(frame.payload[0]))
        elif header["kind"] == "forward" and header["first"] == second_span:
            went_on.append(bytes(frame.payload[0]))
    assert went_on
    assert came.issuperset(went_on), "what one host sends goes on to the next as it came"


def test_two_processes_under_another_hash_seed_give_the_same_digest(
    prepared: Prepared, hosts_die: str, stormy: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "4242")
    again = live(prepared, hosts_die, processes=2)

    assert again.trained.run.digest == stormy.trained.run.digest
    assert [note.event for note in again.notes] == [note.event for note in stormy.notes]
    assert_same_adapters(again.trained, stormy.trained)


def test_the_faults_as_they_happened_can_be_run_again(prepared: Prepared, stormy: Life) -> None:
    written = faults.concrete(stormy.trained.run.faults, name="again")

    assert "of client" not in written
    assert live(prepared, written).trained.run.digest == stormy.trained.run.digest


def test_another_seed_is_another_run(prepared: Prepared, calm: Life) -> None:
    settings = dataclasses.replace(prepared.settings, seed=1)
    other = dataclasses.replace(
        prepared, settings=settings, config=prepared.config.model_copy(update={"seed": 1})
    )

    assert live(other).trained.run.digest != calm.trained.run.digest


def test_the_books_balance_and_every_byte_has_a_purpose(calm: Life, stormy: Life) -> None:
    for life in (calm, stormy):
        ledger = life.trained.run.ledger
        assert sum(ledger.fates().values()) == len(ledger) == len(life.frames)
        assert set(ledger.bytes_by_purpose()) == {
            "activations", "adapters", "control", "gradients", "signatures",
            *(("recovery",) if life is stormy else ()),
        }  # fmt: skip
        assert sum(ledger.bytes_by_purpose().values()) == ledger.wire_bytes
    assert set(calm.trained.run.ledger.fates()) <= {"delivered", "in flight"}
    assert "destination down" in stormy.trained.run.ledger.fates()


def test_no_frame_carries_text_labels_or_token_ids_of_any_client(
    prepared: Prepared, stormy: Life
) -> None:
    tokenizer = prepared.settings.tokenizer
    secrets: list[bytes] = []
    for part in prepared.data.values():
        for example in part.examples:
            text = f"{example.prompt} {example.answer}"
            ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
            secrets += [text.encode()[start : start + 8] for start in range(0, len(text) - 8, 8)]
            for dtype in (torch.int64, torch.int32, torch.int16, torch.float32):
                secrets.append(ids[-4:].to(dtype).numpy().tobytes())

    parts = [part for _, _, frame in stormy.frames for part in (frame.body, *frame.payload)]
    seen = b"\0between\0".join(bytes(part) for part in parts)
    assert len(seen) > 5_000_000
    for secret in set(secrets):
        assert secret not in seen, secret


def test_all_that_devices_send_is_of_the_protocol_and_tensors_are_floats(stormy: Life) -> None:
    answers = {"news", "tasks", "labels", "tokens", "targets", "text"}
    for _, _, frame in stormy.frames:
        header = unpack(frame.body)
        body = BODIES.validate_python(header)
        assert not answers & set(header)
        if frame.payload and body.kind not in ("signature", "accepted"):
            assert len(header["manifest"]) == len(frame.payload)
            assert {entry["dtype"] for entry in header["manifest"]} == {"float32"}


def test_no_device_grants_the_memory_of_a_whole_step(prepared: Prepared, calm: Life) -> None:
    whole = prepared.settings.whole_step_bytes(prepared.settings.training.batch)

    for note in calm.events("registered"):
        assert note.fields["grant_bytes"] < note.fields["whole_step_bytes"]
        assert note.fields["whole_step_bytes"] >= whole


def test_a_device_that_could_take_a_whole_step_is_refused_by_name(prepared: Prepared) -> None:
    nodes = dict(prepared.topology.nodes)
    rich = nodes["host-3"]
    assert rich.device is not None
    device = rich.device.model_copy(update={"grant_bytes": 64 * 2**20})
    nodes["host-3"] = rich.model_copy(update={"device": device})
    topology = prepared.topology.model_copy(update={"nodes": nodes})

    with pytest.raises(Exception, match=r"host-3 grants 67,108,864 bytes.*no need of a split"):
        live(dataclasses.replace(prepared, topology=topology))


def test_a_run_leaves_everything_behind_that_a_person_needs(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("run") / "out"
    chosen = config.load("tiny", [*SETTINGS, "faults=none"])
    summary = experiment.run(chosen, folder, view=Quiet())

    assert {path.name for path in folder.iterdir()} == {
        "adapters", "config.yaml", "faults.yaml", "manifest.json", "metrics.jsonl",
        "report.html", "summary.json", "trace.parquet",
    }  # fmt: skip
    assert config.load(str(folder / "config.yaml")) == chosen
    assert summary.finished
    assert set(summary.tasks) == set(chosen.tasks)
    assert all(task.loss_after < task.loss_before for task in summary.tasks.values())
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    assert len(manifest.truth) == 8

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from atlas import tasks

    base = assets.model("tiny-llama")
    tokenizer = AutoTokenizer.from_pretrained(base)
    losses: dict[str, list[float]] = {}
    for name, members in summary.neighborhoods.members.items():
        model = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, folder / "adapters" / name)
        for client in members:
            task = tasks.load(
                manifest.truth[client],
                tokenizer=tokenizer,
                max_tokens=chosen.training.tokens,
                held_out=chosen.held_out,
            )
            score = tasks.score(model, tokenizer, task.held_out, max_tokens=chosen.training.tokens)
            losses.setdefault(task.name, []).append(score.loss)
    for name, measured in losses.items():
        mean = sum(measured) / len(measured)
        assert summary.tasks[name].loss_after == pytest.approx(mean, rel=1e-5)


def test_saving_the_same_adapter_twice_gives_the_same_bytes(
    prepared: Prepared, calm: Life, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digests = set()
    for number in range(2):
        folder = tmp_path_factory.mktemp(f"adapter-{number}")
        adapter = calm.trained.adapters["neighborhood-0"]
        save_adapter(adapter, folder, prepared.settings.spec, prepared.config.lora)
        digests.add(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).digest())

    assert len(digests) == 1


def test_a_model_folder_and_text_of_ones_own_take_the_place_of_the_bundled_ones(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("own")
    (folder / "model").symlink_to(assets.model("tiny-llama"))
    rows = [
        json.dumps({"prompt": f"{one} + {two} =", "answer": str(one + two)})
        for one in range(12)
        for two in range(12)
    ]
    (folder / "sums.jsonl").write_text("\n".join(rows))
    (folder / "own.yaml").write_text(
        """
        name: own
        model: model
        tasks: [{name: sums, train: sums.jsonl}, stdlib-unicode]
        topology: tiny-clusters
        held_out: 8
        examples_per_client: 24
        split: {client_layers: 1}
        training: {rounds: 1, steps: 2, batch: 4, tokens: 48}
        """
    )
    prepared = experiment.prepare(config.load(str(folder / "own.yaml")), Quiet())
    trained = experiment.train(prepared)

    assert [task.name for task in prepared.tasks] == ["sums", "stdlib-unicode"]
    assert sorted(prepared.truth.values()) == ["stdlib-unicode"] * 4 + ["sums"] * 4
    assert trained.adapters


def test_pairing_by_another_rule_changes_hosts_and_not_the_adapters(
    prepared: Prepared, calm: Life
) -> None:
    split = prepared.settings.split.model_copy(update={"pairing": "titanic"})
    settings = dataclasses.replace(prepared.settings, split=split)
    other = live(dataclasses.replace(prepared, settings=settings))

    def hosts(life: Life) -> list[str]:
        return [span["host"] for note in life.events("paired") for span in note.fields["chain"]]

    assert hosts(other) != hosts(calm)
    assert len(set(hosts(other))) == len(hosts(other))
    assert_same_adapters(other.trained, calm.trained)


def test_the_cut_is_chosen_before_the_run_and_stands_in_its_config() -> None:
    assets.forbid_hub()
    chosen = experiment.prepare(
        config.load("tiny", ["faults=none", "split.client_layers=auto", *SETTINGS]), Quiet()
    )

    layers = chosen.config.split.client_layers
    assert layers == chosen.settings.split.client_layers
    assert layers in range(1, chosen.settings.spec.layers)
    assert chosen.config.complete()["split"]["client_layers"] == layers


def test_where_codecs_round_the_number_of_spans_is_settled_before_the_run() -> None:
    """It has a part in what is rounded, and may not depend on who says hello in time."""
    chosen = experiment.prepare(
        config.load("tiny", ["faults=none", "split.codec=int8", *SETTINGS]), Quiet()
    )

    assert isinstance(chosen.config.split.spans, int)
    assert chosen.settings.split == chosen.config.split
