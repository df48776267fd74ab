"""A client's round, through its hosts, is the round of plain PEFT training on the client's text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, get_scheduler

import faults
from atlas import assets, config, experiment
from atlas.experiment import Prepared
from atlas.models import AdapterState, save_adapter
from atlas.models.dropout import Draws
from atlas.models.tensors import unpack
from atlas.protocol import _ADAPTER as BODIES
from atlas.protocol import Replay, Update
from atlas.results import summarize
from atlas.tasks import step_batch
from broker import Frame, Note
from broker.wire import unpack as header_of

from .models.test_training import seeded_dropout
from .test_life import Quiet

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SETTINGS = (
    "faults=none",
    "held_out=8",
    "training={rounds: 1, steps: 2, batch: 4, accumulate: 2, tokens: 48, learning_rate: 0.01, "
    "clip: 0.05, schedule: cosine, warmup: 1, weight_decay: 0.01}",
    "lora={rank: 4, alpha: 8, targets: [q_proj, v_proj], dropout: 0.2, rslora: true}",
    "split={client_layers: 1, spans: 3}",
)
HOSTS = """
timeline:
  - {at: 4.3 s, crash: hosts of client-4, for: 10 s}
  - {at: 5.2 s, crash: hosts of client-0, for: 10 s}
"""


@dataclasses.dataclass
class Seen:
    """A life: the adapters that each client handed in, by client and round, and what was noted."""

    adapters: dict[tuple[str, int], AdapterState]
    final: dict[str, AdapterState]
    notes: list[Note]
    replays: list[Replay]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    assets.forbid_hub()
    return experiment.prepare(config.load("tiny", SETTINGS), Quiet())


def live(prepared: Prepared, scenario: str | None = None) -> Seen:
    seen = Seen({}, {}, [], [])

    def tap(source: str, _: str, frame: Frame) -> None:
        body = BODIES.validate_python(header_of(frame.body))
        if isinstance(body, Update):
            state = unpack(body.manifest, [bytes(part) for part in frame.payload])
            seen.adapters[source, body.round] = state
        elif isinstance(body, Replay):
            seen.replays.append(body)

    if scenario is not None:
        prepared = dataclasses.replace(prepared, scenario=faults.parse(scenario, "test"))
    seen.final = experiment.train(prepared, observe=seen.notes.append, tap=tap).adapters
    return seen


@pytest.fixture(scope="module")
def calm(prepared: Prepared) -> Seen:
    return live(prepared)


def alone(prepared: Prepared, client: str, folder: Path) -> tuple[AdapterState, list[float]]:
    """The first round of a client as PEFT, torch and transformers do it; adapter and losses."""
    settings, training = prepared.settings, prepared.config.training
    spec = settings.spec
    save_adapter(settings.initial_adapter(), folder, spec, settings.lora)
    base = AutoModelForCausalLM.from_pretrained(spec.folder, dtype=spec.dtype)
    model = PeftModel.from_pretrained(base, folder, is_trainable=True).train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trainable.values(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = get_scheduler(
        training.schedule, optimizer, training.warmup, training.rounds * training.steps
    )
    losses = []
    for step in range(training.steps):
        batches = [
            step_batch(
                prepared.data[client],
                tokenizer=settings.tokenizer,
                size=training.batch,
                max_tokens=training.tokens,
                seed=settings.seed,
                client=client,
                round=0,
                step=step * training.accumulate + micro,
                steps_per_round=training.steps * training.accumulate,
            )
            for micro in range(training.accumulate)
        ]
        labels = sum(int((batch.targets >= 0).sum()) for batch in batches)
        losses.append(0.0)
        for micro, batch in enumerate(batches):
            with seeded_dropout(model, Draws(settings.seed, client, 0, step, micro)):
                loss = summed_loss(model, batch.tokens, batch.targets) / labels
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(trainable.values(), training.clip, foreach=False)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return {name.replace(".default", ""): p.detach() for name, p in trainable.items()}, losses


def summed_loss(model: PeftModel, tokens: Tensor, targets: Tensor) -> Tensor:
    whole = model.get_base_model()
    hidden = whole.model(input_ids=tokens, use_cache=False).last_hidden_state
    labeled = targets.reshape(-1) >= 0
    logits = whole.lm_head(hidden.reshape(-1, hidden.shape[-1])[labeled])
    return nn.functional.cross_entropy(
        logits.float(), targets.reshape(-1)[labeled], reduction="sum"
    )


def test_a_clients_round_through_its_hosts_is_plain_peft_training_of_its_text(
    prepared: Prepared, calm: Seen, tmp_path: Path
) -> None:
    """With dropout, rsLoRA, two micro-batches a step, clipping, a schedule and weight decay."""
    first = [client for client, round_ in calm.adapters if round_ == 0]
    assert first
    for client in first[:2]:
        expected, losses = alone(prepared, client, tmp_path / client)
        noted = [
            note.fields["loss"]
            for note in calm.notes
            if note.event == "step" and note.fields["client"] == client and not note.fields["round"]
        ]
        assert noted == losses
        found = calm.adapters[client, 0]
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (client, name)


def test_faults_change_no_bit_of_accumulated_clipped_scheduled_steps_with_dropout(
    prepared: Prepared, calm: Seen
) -> None:
    stormy = live(prepared, HOSTS)
    summary = summarize(stormy.notes, truth=prepared.truth, steps_expected=prepared.steps)

    assert summary.repairings > 0
    assert {replay.micro for replay in stormy.replays} == {0, 1}
    assert any(replay.scale is not None and replay.scale < 1 for replay in stormy.replays)
    assert summary.steps_lost == summary.steps_twice == 0
    assert list(stormy.final) == list(calm.final)
    for name, adapter in calm.final.items():
        assert all(torch.equal(adapter[key], stormy.final[name][key]) for key in adapter)
