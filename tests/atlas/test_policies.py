"""Lives under other policies: what is equal by construction is equal, and faults change no bit."""

import dataclasses
import functools

import pytest
import torch

import topologies
from atlas import assets, config, experiment, tasks
from atlas.config import ConfigError
from atlas.decision import first_decision
from atlas.drift import joined_group
from atlas.experiment import Prepared, granting, groups
from atlas.models import slice_adapter
from atlas.models.spec import Range
from atlas.protocol import _ADAPTER as BODIES
from atlas.protocol import Forward, Learn, Text
from atlas.tasks import ClientData
from broker.wire import unpack

from .test_life import Life, Quiet, assert_same_adapters, figures, live

TOPOLOGY = """
name: four-and-four
nodes:
  coordinator: {role: coordinator, device: small-server}
  exchange: {role: gateway}
  client-0..3: {role: client, device: raspberry-pi-5, grant: 3400 KiB}
  host-0..3: {role: host, device: mini-pc, grant: 4400 KiB}
links:
  - {between: [coordinator, exchange], bandwidth: 1 Gbit/s, delay: 3 ms}
  - {between: [client-0..3, exchange], bandwidth: 100 Mbit/s, delay: 5 ms}
  - {between: [host-0..3, exchange], bandwidth: 100 Mbit/s, delay: 5 ms}
"""
CHANGES = (
    *("faults=none", "training.rounds=1", "training.steps=2"),
    *("tasks=[stdlib-keyword, stdlib-unicode]", "examples_per_client=16", "held_out=4"),
)
CLIENTS = tuple(f"client-{number}" for number in range(4))
FEDIT = ("aggregation.grouping=one", "memory=ample")
TITANIC = (*FEDIT, "split.pairing=titanic", "split.trunk=shared")
SPLITLORA = ("aggregation.grouping=one", "split.placement=server", "split.labels=server")

pytestmark = pytest.mark.usefixtures("one_thread")


read_tasks = functools.cache(tasks.load_all)
read_topology = functools.cache(topologies.parse)


def prepare(*changes: str) -> Prepared:
    """A run of four clients with two kinds of text, and four hosts."""
    assets.forbid_hub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topologies, "load", lambda _: read_topology(TOPOLOGY))
        patch.setattr(tasks, "load_all", read_tasks)
        return experiment.prepare(config.load("tiny", [*CHANGES, *changes]), Quiet())


def bodies(life: Life) -> list[object]:
    return [BODIES.validate_python(unpack(frame.body)) for _, _, frame in life.frames]


@pytest.fixture(scope="module")
def fedit() -> Life:
    return live(prepare("split.placement=whole", *FEDIT))


def test_fedit_split_over_peers_is_fedit_byte_for_byte(fedit: Life) -> None:
    split = live(prepare("split.placement=peers", *FEDIT))

    assert_same_adapters(fedit.trained, split.trained)
    assert fedit.trained.run.ledger.bytes_by_purpose().keys() == {"adapters", "control"}
    assert "signatures" not in split.trained.run.ledger.bytes_by_purpose()


def test_labels_at_the_server_change_bytes_and_no_bit_of_what_is_learned(fedit: Life) -> None:
    server = live(prepare(*SPLITLORA))

    assert_same_adapters(fedit.trained, server.trained)
    kinds = [type(body) for body in bodies(server)]
    assert Learn in kinds
    assert Forward not in kinds
    hosts = {step["host"] for note in server.events("paired") for step in note.fields["chain"]}
    assert hosts == {"coordinator"}


def test_who_shares_a_trunk_trains_one_whatever_host_or_client_is_lost(fedit: Life) -> None:
    prepared = prepare(*TITANIC)
    calm = live(prepared)
    hosts = {tuple(step["host"] for step in note.fields["chain"]) for note in calm.events("paired")}
    ((first, *_),) = hosts  # one chain for all
    ends = [note.time_s for note in calm.events("step")]
    crashes = f"""
timeline:
  - {{at: {ends[4]:.4f} s, crash: {first}, for: 2 s}}
  - {{at: {ends[-1] + 2:.4f} s, crash: {first}, for: 1 s}}
  - {{at: {ends[4]:.4f} s, crash: client-2, for: 1 s}}
"""
    storm = live(prepared, crashes)

    assert_same_adapters(calm.trained, storm.trained)
    assert storm.events("repaired")
    assert figures(prepared, storm).steps_lost == 0
    shared, own = (life.trained.adapters["neighborhood-0"] for life in (calm, fedit))
    trunk = Range(prepared.settings.ends.last, prepared.settings.spec.layers)
    assert any(not torch.equal(shared[name], own[name]) for name in slice_adapter(shared, trunk))


def test_without_recovery_the_step_in_which_a_host_is_lost_is_left_out() -> None:
    prepared = prepare("recovery.lost=skip", "training.steps=4")
    steps = live(prepared).events("step")
    first = min(note.time_s for note in steps if note.fields["client"] == "client-0")
    crash = f"timeline:\n  - {{at: {first + 0.01:.3f} s, crash: hosts of client-0, for: 1 s}}"

    storm = live(prepared, crash)
    told = figures(prepared, storm)

    skipped = {note.fields["client"] for note in storm.events("skipped")}
    assert "client-0" in skipped
    assert told.steps_lost == len(storm.events("skipped")) > 0
    assert told.steps_repeated == told.steps_twice == 0


def test_who_cannot_hold_the_whole_model_sits_out_and_the_summary_says_why() -> None:
    prepared = prepare("split.placement=whole", "aggregation.grouping=one")
    roomy = granting(prepared.topology, 2**30)
    scarce = {f"client-{number}": prepared.topology.nodes[f"client-{number}"] for number in (1, 2)}
    mixed = roomy.model_copy(update={"nodes": {**roomy.nodes, **scarce}})
    prepared = dataclasses.replace(prepared, topology=mixed)

    told = figures(prepared, life := live(prepared))

    assert list(told.sat_out) == ["client-1", "client-2"]
    assert min(told.sat_out.values()) > prepared.topology.nodes["client-1"].device.grant_bytes
    assert told.steps_lost == 0
    assert told.steps == 2 * 2
    (found,) = life.trained.outcome.neighborhoods
    assert set(found.members).isdisjoint(scarce)


def test_text_is_gathered_at_one_client_which_takes_the_steps_of_all() -> None:
    prepared = prepare("split.placement=gathered", *FEDIT)
    calm = live(prepared)
    storm = live(prepared, "timeline: [{at: 20 ms, crash: client-0, for: 1 s}]")

    sent = [source for source, to, frame in calm.frames if to == "client-0" and is_text(frame)]
    assert tuple(sorted(sent)) == CLIENTS[1:]
    assert {note.fields["client"] for note in calm.events("step")} == {"client-0"}
    assert figures(prepared, calm).steps == 4 * 2
    assert_same_adapters(calm.trained, storm.trained)
    (found,) = calm.trained.outcome.neighborhoods
    assert prepared.served(found) == CLIENTS


def is_text(frame: object) -> bool:
    return isinstance(BODIES.validate_python(unpack(frame.body)), Text)


def test_scores_are_of_the_rows_that_are_asked_for() -> None:
    prepared = prepare("scored=validation", "validation=6")
    start, (task, _) = prepared.settings.initial_adapter(), prepared.tasks

    assert experiment.evaluate(prepared, task, start).rows == len(task.validation) == 6
    held_out = dataclasses.replace(prepared, config=config.load("tiny", CHANGES))
    assert experiment.evaluate(held_out, task, start).rows == len(task.held_out) == 4


def test_who_comes_late_goes_where_its_group_is_or_is_alone() -> None:
    before = first_decision(
        {"neighborhood-0": {"client-0": 5}, "neighborhood-1": {"client-1": 5}},
        {"neighborhood-0": "client-0", "neighborhood-1": "client-1"},
        [[1.0, 0.0], [0.0, 1.0]],
        CLIENTS,
        silhouette=None,
        p_value=None,
        landmarks={},
    )
    groups = {"client-0": "a", "client-1": "b", "client-2": "b", "client-3": "c"}

    after = joined_group(before, "client-2", groups, 7, CLIENTS)
    after = joined_group(after, "client-3", groups, 7, CLIENTS)

    homes = {client: after.home(client) for client in CLIENTS}
    assert [home and home.neighborhood for home in homes.values()] == [
        *("neighborhood-0", "neighborhood-1", "neighborhood-1", "neighborhood-2")
    ]
    assert after.offices["neighborhood-2"].aggregator == "client-3"
    assert joined_group(after, "client-3", groups, 7, CLIENTS) is after


def test_groups_drawn_at_random_are_as_large_as_the_tasks() -> None:
    data = {f"client-{n}": ClientData(f"task-{n % 3}", ()) for n in range(8)}
    by_task, drawn, again = (
        groups(config.load("tiny", [f"aggregation.grouping={how}"]), data)
        for how in ("oracle", "random", "random")
    )

    assert by_task == {client: part.task for client, part in data.items()}
    assert sorted(drawn.values()) == sorted(by_task.values())
    assert drawn != by_task
    assert drawn == again


def test_nobody_is_asked_for_a_signature_where_none_is_needed() -> None:
    alone = live(prepare("aggregation.grouping=none", "aggregation.between=0", "training.steps=1"))

    assert not alone.events("signature")
    assert len(alone.trained.adapters) == 4


def test_signatures_of_noise_show_no_tasks() -> None:
    noise = live(prepare("aggregation.grouping=noise", "training.steps=1"))

    assert len(noise.events("signature")) == 4
    assert len(noise.trained.outcome.neighborhoods) == 1


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (("split.labels=server",), "split.labels"),
        (("split.placement=whole", "split.pairing=random"), "split.pairing"),
        (("split.placement=gathered",), "aggregation.grouping"),
        (("split.trunk=shared", "split.pairing=cheapest"), "split.trunk"),
        (("split.trunk=shared", "split.placement=whole"), "split.trunk"),
        (("split.trunk=shared", "aggregation.method=fedsa"), "split.trunk"),
        (("split.trunk=shared", "recovery.lost=skip"), "split.trunk"),
        (("split.trunk=shared", "membership.late=drop"), "split.trunk"),
        ((*SPLITLORA, "recovery.keep=client"), "recovery.keep"),
        (("aggregation.grouping=one", "drift.every=1"), "drift.every"),
    ],
)
def test_policies_that_cannot_both_be_are_refused_with_the_key_and_a_remedy(
    changes: tuple[str, ...], key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load("tiny", changes)

    assert str(refused.value.key).removeprefix("--set ").replace(" > ", ".") == key
    assert refused.value.remedy
