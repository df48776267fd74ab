"""Clients whose text becomes another kind are moved, and faults change nothing about who and when.

Runs are of the tiny model, and so are their scenarios; `benchmarks/campaign.py` draws some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

import faults
import topologies
from atlas import assets, config, experiment
from atlas.config import Drift
from atlas.decision import Decision, close, first_decision
from atlas.drift import joined, looks, measured, measures
from atlas.experiment import Prepared
from atlas.semantics import Landmarks, cluster, encode, place
from atlas.tasks import ClientData, Example
from benchmarks.campaign import Campaign, Life, Nobody, campaign, small
from benchmarks.campaign import live as lived
from tests.atlas.test_semantics_placing import DIMENSIONS, halves_of

ORDER = ("a", "b", "c", "d", "e", "f", "late")
KINDS = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0, "f": 1}


@pytest.fixture(scope="module")
def decision() -> Decision:
    """Kinds 0 and 1, three clients of each, in the first round."""
    clients = {name: halves_of(kind, ord(name)) for name, kind in KINDS.items()}
    found = cluster(clients, seed=0)
    assert found.members == (("a", "c", "e"), ("b", "d", "f"))
    return first_decision(
        {f"neighborhood-{n}": dict.fromkeys(group, 10) for n, group in enumerate(found.members)},
        {"neighborhood-0": "a", "neighborhood-1": "b"},
        [[1.0, 0.0], [0.0, 1.0]],
        ORDER,
        silhouette=None,
        p_value=0.0,
        landmarks=found.landmarks.plain(),
    )


def signed(kinds: dict[str, int]) -> dict[str, bytes]:
    return {name: encode(halves_of(kind, 50 + ord(name))) for name, kind in kinds.items()}


def after(decision: Decision, kinds: dict[str, int], *, reverse: bool = False) -> Decision:
    """Round 0, in which these kinds were measured, is closed everywhere, in one order or other."""
    signatures = signed(kinds)
    for name in sorted(decision.offices, reverse=reverse):
        members = list(decision.members(name, 0))
        term = decision.offices[name].term
        decision = measured(
            close(decision, name, 0, term, members),
            0,
            {member: signatures[member] for member in members if member in signatures},
            ORDER,
            dimensions=DIMENSIONS,
            significance=0.001,
        )
    return decision


def homes(decision: Decision, round_: int) -> dict[str, list[str]]:
    return {name: list(decision.members(name, round_)) for name in decision.offices}


def test_drift_is_measured_every_few_rounds_but_not_in_the_last() -> None:
    assert [r for r in range(6) if measures(Drift(every=2), r, 6)] == [1, 3]
    assert looks(Drift(every=2), 6) == 2
    assert not any(measures(Drift(), r, 6) for r in range(6))
    assert looks(Drift(), 6) == 0


def test_who_has_not_drifted_stays(decision: Decision) -> None:
    later = after(decision, KINDS)

    assert homes(later, 1) == homes(decision, 0)
    assert later.signed == {}


@pytest.mark.parametrize("reverse", [False, True])
def test_who_has_drifted_is_moved_from_the_next_round_on_whoever_closes_last(
    decision: Decision, reverse: bool
) -> None:
    later = after(decision, KINDS | {"c": 1}, reverse=reverse)

    assert homes(later, 0) == homes(decision, 0)
    assert homes(later, 1)["neighborhood-0"] == ["a", "e"]
    assert homes(later, 1)["neighborhood-1"] == ["b", "c", "d", "f"]
    assert later.offices == decision.offices


def test_nobody_is_moved_before_all_neighborhoods_have_closed_the_round(
    decision: Decision,
) -> None:
    first = close(decision, "neighborhood-0", 0, 1, ["a", "c", "e"])
    signatures = signed({"a": 0, "c": 1, "e": 0})
    waiting = measured(first, 0, signatures, ORDER, dimensions=DIMENSIONS, significance=0.001)

    assert waiting.stays == decision.stays
    assert waiting.signed == signatures


def test_an_aggregator_who_is_moved_leaves_its_office_to_one_who_stays(decision: Decision) -> None:
    later = after(decision, KINDS | {"a": 1})

    assert later.offices["neighborhood-0"].aggregator == "c"
    assert later.offices["neighborhood-0"].term == 2


def test_who_fits_nowhere_is_alone_in_a_neighborhood_that_begins_then(decision: Decision) -> None:
    later = after(decision, KINDS | {"d": 7})

    assert homes(later, 1)["neighborhood-2"] == ["d"]
    assert later.offices["neighborhood-2"].aggregator == "d"
    assert (later.began("neighborhood-2"), later.running("neighborhood-2")) == (1, 1)
    assert list(later.near("neighborhood-2")) == ["neighborhood-2"]
    assert "neighborhood-2" not in later.near("neighborhood-0")
    landmarks = Landmarks.read(later.landmarks)
    assert place(halves_of(7, 99), landmarks).neighborhood == 2


def test_two_of_one_new_kind_come_together(decision: Decision) -> None:
    later = after(decision, KINDS | {"c": 7, "d": 7})

    assert homes(later, 1)["neighborhood-2"] == ["c", "d"]


def test_the_last_of_a_neighborhood_stays(decision: Decision) -> None:
    later = after(decision, KINDS | {"a": 1, "c": 1, "e": 1})

    assert homes(later, 1)["neighborhood-0"] == ["e"]
    assert later.offices["neighborhood-0"].aggregator == "e"


def test_who_sent_no_signature_stays(decision: Decision) -> None:
    assert homes(after(decision, {}), 1) == homes(decision, 0)
    assert homes(after(decision, {"c": 1}), 1)["neighborhood-1"] == ["b", "c", "d", "f"]


@pytest.mark.parametrize(("kind", "home"), [(0, "neighborhood-0"), (7, "neighborhood-2")])
def test_who_comes_late_joins_its_like_or_is_alone(
    decision: Decision, kind: int, home: str
) -> None:
    running = close(decision, "neighborhood-1", 0, 1, ["b", "d", "f"])
    halves = halves_of(kind, 70)
    placement = place(halves, Landmarks.read(decision.landmarks))
    later = joined(running, "late", placement, halves, 5, ORDER, rounds=4)

    stay = later.home("late")
    assert stay is not None
    assert stay.neighborhood == home
    assert stay.since == (1 if kind == 0 else 0)
    assert joined(later, "late", placement, halves, 5, ORDER, rounds=4) == later


def test_who_comes_when_all_is_over_founds_nothing(decision: Decision) -> None:
    halves = halves_of(7, 70)
    placement = place(halves, Landmarks.read(decision.landmarks))
    over = close(decision, "neighborhood-0", 0, 1, list("ace"))
    over = close(over, "neighborhood-1", 0, 1, list("bdf"))
    later = joined(over, "late", placement, halves, 5, ORDER, rounds=1)

    assert later.offices == decision.offices


# A run.

SETTINGS = (
    "tasks=[stdlib-package,stdlib-unicode]", "examples_per_client=16", "held_out=4", "faults=none",
    "training={rounds: 3, steps: 1, batch: 4, tokens: 48, learning_rate: 0.01}",
)  # fmt: skip


def text(kind: str, client: int) -> ClientData:
    """Text whose kind is plain to see: all its answers are of one letter."""
    rows = tuple(Example(f"say {kind * 8}, {n * n + client}:", kind * 8) for n in range(16))
    return ClientData(kind, rows)


def prepare(kinds: str, *changes: str) -> Prepared:
    """A run of clients with text of these kinds."""
    few = small(topologies.load("tiny-clusters"), clients=len(kinds), hosts=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topologies, "load", lambda _: few)
        prepared = experiment.prepare(config.load("tiny", [*SETTINGS, *changes]), Nobody())
    dealt = zip(prepared.data, kinds, strict=True)
    data = {client: text(kind, number) for number, (client, kind) in enumerate(dealt)}
    return dataclasses.replace(prepared, data=data)


def changing(prepared: Prepared, kinds: dict[str, str]) -> Prepared:
    """The same, where the text of these clients is of other kinds from round 1 on."""
    data = dict(prepared.data)
    for number, (client, kind) in enumerate(kinds.items()):
        data[client] = dataclasses.replace(data[client], then=text(kind, 9 + number), until=1)
    return dataclasses.replace(prepared, data=data)


@pytest.fixture(scope="module")
def tried(one_thread: None) -> Iterator[Campaign]:  # noqa: ARG001 - for its effect
    """client-1 and client-2 aggregate; the text of one becomes that of the other neighborhood, the
    text of the other like nobody's.
    """
    assets.forbid_hub()
    prepared = prepare("xyxyxy", "drift.every=2")
    with campaign(changing(prepared, {"client-1": "x", "client-2": "#"})) as opened:
        yield opened


def members(life: Life, round_: int) -> list[list[str]]:
    """Who was aggregated with whom."""
    notes = [note.fields for note in life.notes if note.event == "aggregated"]
    return sorted(list(each["clients"]) for each in notes if each["round"] == round_)


def test_in_a_run_who_has_drifted_is_moved_and_nobody_else(tried: Campaign) -> None:
    calm = tried.calm
    before = [["client-0", "client-2", "client-5"], ["client-1", "client-4", "client-6"]]
    later = [["client-0", "client-1", "client-5"], ["client-2"], ["client-4", "client-6"]]

    assert [members(calm, number) for number in range(3)] == [before, before, later]
    moved = [note.fields for note in calm.notes if note.event == "drifted"]
    assert {each["client"]: each["neighborhood"] for each in moved} == {
        "client-1": "neighborhood-0",
        "client-2": "neighborhood-2",
    }
    signatures = [note for note in calm.notes if note.event == "signature"]
    assert [note.fields["bytes"] for note in signatures] == [512] * 12


@pytest.mark.parametrize(
    ("moment", "struck"),
    [
        ("closed", "crash: client-1, for: 100 s"),
        ("moved", "crash: [client-2, client-4], for: 2 s"),
        ("closed", "crash: coordinator"),
        ("moved", "partition: [[client-0, client-1, client-6], [others]], for: 20 s"),
    ],
)
def test_whatever_breaks_where_clients_are_moved_no_bit_changes(
    tried: Campaign, moment: str, struck: str
) -> None:
    notes = tried.calm.notes
    last = max(n.time_s for n in notes if n.event == "step" and n.fields["round"] == 1)
    drifted = next(n.time_s for n in notes if n.event == "drifted")
    at_s = drifted if moment == "moved" else last
    scenario = faults.parse(f"timeline: [{{at: {round(at_s * 1e6)} us, {struck}}}]", "test")
    life = tried.live(scenario)

    assert not tried.breaks_the_law(life)
    assert members(life, 2) == members(tried.calm, 2)


def test_nor_does_any_in_a_scenario_that_a_seed_draws(tried: Campaign) -> None:
    assert not tried.trial(3).problem


def test_a_client_that_comes_late_and_fits_nowhere_trains_alone(one_thread: None) -> None:  # noqa: ARG001
    prepared = prepare("xxxx#", "membership.wait=1 s")
    late = list(prepared.data)[4]
    scenario = faults.parse(f"timeline: [{{at: 2.4 s, join: {late}}}]", "test")
    life = lived(prepared, scenario)

    placed = next(note.fields for note in life.notes if note.event == "placed")
    assert (placed["client"], placed["neighborhood"]) == (late, "neighborhood-1")
    alone = [note.fields for note in life.notes if note.event == "aggregated"]
    alone = [each for each in alone if late in each["clients"]]
    assert [each["clients"] for each in alone] == [[late]] * (3 - placed["round"])
