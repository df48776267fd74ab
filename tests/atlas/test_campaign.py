"""The law of faults, on twenty scenarios that a seed draws: no bit of any adapter changes.

`benchmarks/campaign.py` has the rest of them, and says what they are.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

import topologies
from atlas import assets, config, experiment
from benchmarks import campaign as campaigns
from benchmarks.campaign import Campaign, Life, Nobody, Trial
from broker import Note

SEEDS = range(20)
COMPUTED = 3
IN_PROCESSES = 7
"""The seeds of those that leave nothing to the journal, and that live in two processes."""


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    assets.forbid_hub()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    chosen = config.load("tiny", ["faults=none", *campaigns.CONFIGS["tiny"]])
    few = campaigns.small(topologies.load("tiny-clusters"), clients=6, hosts=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topologies, "load", lambda _: few)
        prepared = experiment.prepare(chosen, Nobody())
    with campaigns.campaign(prepared) as opened:
        yield opened
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trials(campaign: Campaign) -> dict[int, Trial]:
    return {
        seed: campaign.trial(
            seed, computed=seed == COMPUTED, processes=2 if seed == IN_PROCESSES else 1
        )
        for seed in SEEDS
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_the_adapters_are_those_of_the_calm_run(
    campaign: Campaign, trials: dict[int, Trial], seed: int
) -> None:
    trial = trials[seed]

    assert trial.life is not None, trial.problem
    assert trial.life.adapters == campaign.calm.adapters
    steps = campaign.steps(trial.life)
    assert (steps["steps_lost"], steps["steps_twice"]) == (0, 0)


def test_these_scenarios_are_worth_living_through(
    campaign: Campaign, trials: dict[int, Trial]
) -> None:
    struck: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for trial in trials.values():
        assert trial.life is not None
        struck.update(trial.life.struck)
        steps.update(campaign.steps(trial.life))

    assert struck["host"] > 20
    assert struck["client"] > 5
    assert struck["aggregator"] > 2
    assert steps["steps_repeated"] > 0
    assert steps["repairs"] > 10
    assert steps["fallbacks"] > 0
    assert len({fault.kind for trial in trials.values() for fault in trial.scenario.timeline}) > 8


def test_the_calm_run_has_two_neighborhoods_to_fall_back_between(campaign: Campaign) -> None:
    found = next(note for note in campaign.calm.notes if note.event == "neighborhoods")

    assert [len(members) for members in found.fields["members"].values()] == [3, 3]


def test_what_the_calm_run_has_computed_no_scenario_computes_again(
    campaign: Campaign, trials: dict[int, Trial]
) -> None:
    assert trials
    assert campaign.journal.recalled > 15 * len(campaign.journal)
    assert campaign.journal.computed < len(campaign.journal) / 10


def test_what_ends_otherwise_is_told_from_the_calm_run(campaign: Campaign) -> None:
    calm = campaign.calm
    lost = [note for note in calm.notes if note is not last_step(calm)]

    assert not campaign.breaks_the_law(calm)
    assert campaign.breaks_the_law(dataclasses.replace(calm, adapters="other"))
    assert campaign.breaks_the_law(dataclasses.replace(calm, notes=lost))
    assert campaign.breaks_the_law(dataclasses.replace(calm, notes=calm.notes * 2))


def last_step(life: Life) -> Note:
    return [note for note in life.notes if note.event == "step"][-1]
