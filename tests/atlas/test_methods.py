"""Lives with other methods of aggregation: what crosses, and that faults change no bit of it."""

import dataclasses

import pytest
import torch

import faults
from atlas import assets, config, experiment
from atlas.aggregation import parted
from atlas.experiment import Prepared, Trained
from atlas.protocol import _ADAPTER as BODIES
from atlas.protocol import Open, Update
from broker import Frame, Note
from broker.wire import unpack

from .test_life import Quiet, assert_same_adapters

CHANGES = (
    *("faults=none", "training.rounds=2", "training.steps=2"),
    *("examples_per_client=24", "held_out=8"),
)
HOSTS = """
timeline:
  - {{at: {0} ms, crash: hosts of the neighborhood of client-7, for: 10 s}}
  - {{at: {1} ms, crash: host of client-0, for: 2 s}}
"""


@dataclasses.dataclass
class Life:
    """A run, its notes, and the names of the tensors in each kind of message."""

    trained: Trained
    notes: list[Note]
    crossed: dict[type, set[str]]


pytestmark = pytest.mark.usefixtures("one_thread")


def prepare(method: str, *more: str) -> Prepared:
    assets.forbid_hub()
    changes = [*CHANGES, f"aggregation.method={method}", *more]
    return experiment.prepare(config.load("tiny", changes), Quiet())


def live(prepared: Prepared) -> Life:
    notes: list[Note] = []
    crossed: dict[type, set[str]] = {Update: set(), Open: set()}

    def tap(_: str, __: str, frame: Frame) -> None:
        body = BODIES.validate_python(unpack(frame.body))
        if isinstance(body, Update | Open):
            crossed[type(body)] |= {entry["name"] for entry in body.manifest or ()}

    return Life(experiment.train(prepared, observe=notes.append, tap=tap), notes, crossed)


def stormy(prepared: Prepared, calm: Life) -> Life:
    """The same with hosts that die in the second round, when its first step ended in the calm."""

    def struck_ms(client: str) -> int:
        ends = [
            note.time_s
            for note in calm.notes
            if note.event == "step" and note.fields["client"] == client
        ]
        return round(1000 * ends[2])

    scenario = faults.parse(HOSTS.format(struck_ms("client-7"), struck_ms("client-0")), "test")
    return live(dataclasses.replace(prepared, scenario=scenario))


def test_with_fedsa_each_client_keeps_its_own_b_through_faults() -> None:
    prepared = prepare("fedsa")
    calm = live(prepared)
    storm = stormy(prepared, calm)

    assert {name for name in calm.crossed[Update] if ".lora_A." not in name} == set()
    adapters = calm.trained.adapters
    assert sorted(adapters) == sorted(prepared.settings.clients)
    assert any(note.event == "repaired" for note in storm.notes)
    assert_same_adapters(storm.trained, calm.trained)
    found = calm.trained.outcome.neighborhoods
    members = next(each.members for each in found if len(each.members) > 1)
    one, other = (adapters[client] for client in members[:2])
    for name in one:
        assert torch.equal(one[name], other[name]) == (".lora_A." in name)


def test_with_fedex_the_base_takes_over_what_is_left_through_faults() -> None:
    prepared = prepare("fedex")
    calm = live(prepared)
    storm = stormy(prepared, calm)

    assert not any(name.startswith("frozen.") for name in calm.crossed[Update])
    assert any(name.startswith("frozen.") for name in calm.crossed[Open])
    assert any(note.event == "repaired" for note in storm.notes)
    assert_same_adapters(storm.trained, calm.trained)
    adapter, frozen = parted(calm.trained.adapters["neighborhood-0"])
    assert frozen.keys() == adapter.keys()
    assert all(tensor.abs().max() > 0 for tensor in frozen.values())


def test_with_laplacian_each_client_has_its_own_through_hosts_and_aggregators_lost() -> None:
    prepared = prepare("laplacian", "aggregation.graph=signatures")
    calm = live(prepared)
    first = next(note for note in calm.notes if note.event == "aggregated")
    step = next(note for note in calm.notes if note.event == "step")
    lost, at = first.fields["aggregator"], f"{round(first.time_s * 1e6)} us"
    text = f"""
    timeline:
      - {{at: {round(step.time_s * 1e6)} us, crash: hosts of {step.node}, for: 10 s}}
      - {{at: {at}, crash: {lost}, for: 5 min}}
    """
    storm = live(dataclasses.replace(prepared, scenario=faults.parse(text, "test")))

    assert {"repaired", "replaced"} <= {note.event for note in storm.notes}
    assert_same_adapters(storm.trained, calm.trained)
    adapters = calm.trained.adapters
    assert sorted(adapters) == sorted(prepared.settings.clients)
    one, other = (adapters[client] for client in first.fields["clients"][:2])
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_a_pull_that_would_not_settle_is_refused_before_anything_runs() -> None:
    with pytest.raises(config.ConfigError, match=r"aggregation\.pull: .*random graph.*less than"):
        prepare("laplacian", "aggregation.pull=0.9")
    with pytest.raises(config.ConfigError, match=r"signatures of 8 clients.*less than 0\.25"):
        prepare("laplacian", "aggregation.graph=signatures", "aggregation.pull=0.25")
