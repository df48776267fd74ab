"""Training with all that it may have (dropout, rsLoRA, accumulation, clipping, schedules), cut
anywhere and cut anew on the way, is the training of the unsplit PEFT model: the same bits.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, get_scheduler

from atlas.config import Training
from atlas.models import (
    AdapterState,
    LoraSettings,
    ModelSpec,
    ProtocolError,
    Range,
    Session,
    Stage,
    join_adapters,
    save_adapter,
)
from atlas.models.dropout import Draws
from atlas.models.optimizer import FlatAdamW, clip_scale, norms
from atlas.models.skeleton import lora_shapes
from atlas.schedule import rate

from .conftest import trained
from .test_exactness import batch

# PEFT asks transformers for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TRAINING = Training(
    rounds=2,
    steps=2,
    accumulate=2,
    learning_rate=1e-2,
    weight_decay=0.01,
    clip=0.5,
    schedule="cosine",
    warmup=1,
)
STEPS = [(round_, step) for round_ in range(TRAINING.rounds) for step in range(TRAINING.steps)]
SEED, CLIENT = 7, "client-3"


@dataclass
class Trained:
    """What training came to: each step's loss and clipping factor, adapter, AdamW's moments."""

    steps: list[tuple[float, float]]
    adapter: AdapterState
    moments: dict[str, Tensor]


@pytest.fixture
def lora() -> LoraSettings:
    targets = ("q_proj", "v_proj", "down_proj")
    return LoraSettings(rank=3, alpha=5, targets=targets, dropout=0.25, rslora=True)


def micro_batches(spec: ModelSpec, number: int) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """The micro-batches of a step, of unlike numbers of labels, and how many labels they have."""
    batches = [batch(spec.vocabulary, seed=10 * number + micro) for micro in range(2)]
    batches[1][1][2:] = -100
    return batches, sum(int((targets >= 0).sum()) for _, targets in batches)


def unsplit(spec: ModelSpec, lora: LoraSettings, state: AdapterState, folder: Path) -> Trained:
    """As PEFT, torch and transformers do it. Dropout is torch's, reseeded where it stands."""
    save_adapter(state, folder, spec, lora)
    base = AutoModelForCausalLM.from_pretrained(spec.folder, dtype=spec.dtype)
    model = PeftModel.from_pretrained(base, folder, is_trainable=True).train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trainable.values(), lr=TRAINING.learning_rate, weight_decay=TRAINING.weight_decay
    )
    schedule = get_scheduler(TRAINING.schedule, optimizer, TRAINING.warmup, len(STEPS))
    whole, done = model.get_base_model(), []
    for number, (round_, step) in enumerate(STEPS):
        total, (batches, labels) = 0.0, micro_batches(spec, number)
        for micro, (tokens, targets) in enumerate(batches):
            with seeded_dropout(model, Draws(SEED, CLIENT, round_, step, micro)):
                hidden = whole.model(input_ids=tokens, use_cache=False).last_hidden_state
            labeled = targets.reshape(-1) >= 0
            logits = whole.lm_head(hidden.reshape(-1, spec.hidden)[labeled]).float()
            loss = nn.functional.cross_entropy(
                logits, targets.reshape(-1)[labeled], reduction="sum"
            )
            (loss / labels).backward()
            total += (loss / labels).item()
        assert TRAINING.clip is not None
        norm = nn.utils.clip_grad_norm_(trainable.values(), TRAINING.clip, foreach=False)
        done.append((total, min(1.0, (TRAINING.clip / (norm + 1e-6)).item())))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    named = {name.replace(".default", ""): p for name, p in trainable.items()}
    moments = {
        f"{name}.{moment}": optimizer.state[p][moment]
        for name, p in named.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return Trained(done, {name: p.detach() for name, p in named.items()}, moments)


@contextlib.contextmanager
def seeded_dropout(model: nn.Module, draws: Draws) -> Iterator[None]:
    """torch's own dropout, each time from a global generator with the seed of its place."""
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
            seed = draws.seed_of(f"{name.partition('.lora_dropout.')[0]}.lora_A.weight")
            hooks.append(module.register_forward_pre_hook(functools.partial(_seed, seed)))
    with torch.random.fork_rng():
        yield
    for hook in hooks:
        hook.remove()


def _seed(seed: int, *_: object) -> None:
    torch.manual_seed(seed)


def split(
    spec: ModelSpec, lora: LoraSettings, state: AdapterState, cuts: Sequence[Sequence[int]]
) -> Trained:
    """The same through sessions, with a cut for each step; between two the state moves."""
    done, snapshot = [], None
    for number, (round_, step) in enumerate(STEPS):
        if number == 0 or cuts[number] != cuts[number - 1]:
            sessions = chain(spec, lora, state, cuts[number], snapshot)
        total, (batches, labels) = 0.0, micro_batches(spec, number)
        for micro, (tokens, targets) in enumerate(batches):
            draws = Draws(SEED, CLIENT, round_, step, micro)
            total += forward_and_back(sessions, tokens, targets, labels, draws)
        found = {name: norm for session in sessions for name, norm in session.norms().items()}
        assert TRAINING.clip is not None
        scale = clip_scale([found[name] for name in lora_shapes(spec, lora)], TRAINING.clip)
        for session in sessions:
            session.commit(scale, rate(TRAINING, round_, step))
        done.append((total, scale))
        snapshot = {name: t for session in sessions for name, t in session.snapshot().items()}
    assert snapshot is not None
    assert snapshot.pop("step").item() == len(STEPS)
    adapter = join_adapters(session.adapter() for session in sessions)
    return Trained(done, adapter, {name: snapshot[name] for name in snapshot.keys() - adapter})


def chain(
    spec: ModelSpec,
    lora: LoraSettings,
    state: AdapterState,
    cuts: Sequence[int],
    snapshot: dict[str, Tensor] | None = None,
) -> list[Session]:
    stages = [Stage.load(spec, Range(0, cuts[0]), ends=True, lora=lora)]
    stages += [Stage.load(spec, Range(*ends), lora=lora) for ends in pairwise(cuts)]
    return [
        Session(
            stage,
            state if snapshot is None else None,
            state=snapshot,
            learning_rate=TRAINING.learning_rate,
            weight_decay=TRAINING.weight_decay,
        )
        for stage in stages
    ]


def forward_and_back(
    sessions: Sequence[Session], tokens: Tensor, targets: Tensor, labels: int, draws: Draws | None
) -> float:
    client, *hosts = sessions
    hidden = client.embed(tokens, draws)
    for host in hosts:
        hidden = host.forward(hidden, draws)
    loss, gradient = client.loss(hidden, targets, labels)
    for host in reversed(hosts):
        back = host.backward(gradient)
        assert back is not None
        gradient = back
    client.backward(gradient)
    return loss


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_training_with_everything_on_any_cut_is_the_training_of_the_unsplit_model(
    folder_of: Callable[[str], Path], lora: LoraSettings, dtype: torch.dtype, tmp_path: Path
) -> None:
    spec = ModelSpec.read(folder_of("llama"), dtype)
    state = trained(spec, lora, seed=1)
    expected = unsplit(spec, lora, state, tmp_path)
    assert all(scale < 1 for _, scale in expected.steps)
    for cuts in (
        [(4,)] * 4,
        [(1, 2, 4)] * 4,
        [(0, 4), (0, 4), (2, 3, 4), (1, 4)],
    ):
        found = split(spec, lora, state, cuts)
        assert found.steps == expected.steps
        assert_equal(found.adapter, expected.adapter)
        assert_equal(found.moments, expected.moments)


def test_a_repeated_step_draws_what_it_drew_and_another_place_draws_otherwise(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    session = Session(stage, trained(spec, lora, seed=1), learning_rate=1e-2)
    hidden = torch.randn(2, 5, spec.hidden, generator=torch.Generator().manual_seed(0))

    def output(draws: Draws | None) -> Tensor:
        session.discard()
        return session.forward(hidden, draws)

    here = Draws(SEED, CLIENT, 0, 1, 0)
    assert torch.equal(output(here), output(here))
    elsewhere = [
        Draws(SEED + 1, CLIENT, 0, 1, 0),
        Draws(SEED, "client-4", 0, 1, 0),
        Draws(SEED, CLIENT, 1, 1, 0),
        Draws(SEED, CLIENT, 0, 2, 0),
        Draws(SEED, CLIENT, 0, 1, 1),
        None,
    ]
    assert not any(torch.equal(output(here), output(other)) for other in elsewhere)
    assert len({here.seed_of(name) for name in lora_shapes(spec, lora)}) == len(
        lora_shapes(spec, lora)
    )


def test_dropout_leaves_the_global_generator_alone(spec: ModelSpec, lora: LoraSettings) -> None:
    before = torch.random.get_rng_state()
    sessions = chain(spec, lora, trained(spec, lora, seed=1), (1, 4))
    forward_and_back(sessions, *batch(spec.vocabulary, 0), 10, Draws(SEED, CLIENT, 0, 0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_two_micro_batches_are_one_batch_of_all_their_rows(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    """Up to rounding: each label counts alike, in whichever micro-batch it is."""
    batches, labels = micro_batches(spec, 0)
    together = [torch.cat(part) for part in zip(*batches, strict=True)]
    state, losses, gradients = trained(spec, lora, seed=1), [], []
    for parts in (batches, [(together[0], together[1])]):
        sessions = chain(spec, lora, state, (1, 4))
        losses.append(sum(forward_and_back(sessions, *part, labels, None) for part in parts))
        gradients.append(join_adapters(session.gradients() for session in sessions))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_fused_function_gives_the_same_bits_on_every_cut_and_nearly_those_of_peft(
    folder_of: Callable[[str], Path], lora: LoraSettings, dtype: torch.dtype, dropout: float
) -> None:
    spec = ModelSpec.read(folder_of("llama"), dtype)
    state = trained(spec, lora, seed=1)
    exact = lora.model_copy(update={"dropout": dropout})
    fused = exact.model_copy(update={"fused": True})

    def gradients(settings: LoraSettings, cuts: Sequence[int]) -> AdapterState:
        sessions = chain(spec, settings, state, cuts)
        tokens, targets = batch(spec.vocabulary, 0)
        forward_and_back(sessions, tokens, targets, 10, Draws(SEED, CLIENT, 0, 0))
        return join_adapters(session.gradients() for session in sessions)

    whole, near = gradients(fused, (4,)), gradients(exact, (4,))
    for cuts in ((0, 4), (1, 2, 4)):
        assert_equal(gradients(fused, cuts), whole)
    most = max(gradient.norm().item() for gradient in near.values())
    for name, gradient in whole.items():
        error = (gradient - near[name]).norm().item() / most
        assert error < (1e-5 if dtype == torch.float32 else 5e-2), name


@pytest.mark.parametrize("odd", [(3, 7), (5,), (1, 1), (17, 3)])
def test_flat_adamw_is_torch_adamw_for_any_shapes_and_scales(odd: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": torch.Size(odd), "b": torch.Size((8, 16)), "c": torch.Size((2, 9))}
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    flat = FlatAdamW(shapes, values, learning_rate=1e-2, weight_decay=0.1)
    reference = [nn.Parameter(value.clone()) for value in values.values()]
    optimizer = torch.optim.AdamW(reference, lr=1e-2, weight_decay=0.1)
    for number in range(5):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes.values()]
        for parameter, gradient in zip(reference, gradients, strict=True):
            parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_(reference, 3.0, foreach=False)
        scale = clip_scale(list(norms(dict(zip(shapes, gradients, strict=True))).values()), 3.0)
        optimizer.param_groups[0]["lr"] = 1e-2 / (number + 1)
        optimizer.step()
        flat.apply(gradients, scale=scale, rate=1e-2 / (number + 1))
        if number == 2:
            now = flat.snapshot()
            flat = FlatAdamW(shapes, now, learning_rate=1e-2, weight_decay=0.1, state=now)
    for parameter, (name, found) in zip(reference, flat.parameters.items(), strict=True):
        assert torch.equal(parameter, found), name


def test_a_snapshot_that_does_not_fit_is_refused(spec: ModelSpec, lora: LoraSettings) -> None:
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    snapshot = Session(stage, trained(spec, lora, seed=1), learning_rate=1e-2).snapshot()
    for name in ("step", next(name for name in snapshot if name.endswith("exp_avg_sq"))):
        lacking = {key: tensor for key, tensor in snapshot.items() if key != name}
        with pytest.raises(ProtocolError):
            Session(stage, state=lacking, learning_rate=1e-2)
    with pytest.raises(TypeError, match="one of them"):
        Session(stage, learning_rate=1e-2)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 5, 20])
def test_rates_are_those_of_transformers_schedulers(schedule: str, warmup: int) -> None:
    training = Training.model_validate(
        {"rounds": 3, "steps": 4, "learning_rate": 3e-3, "schedule": schedule, "warmup": warmup}
    )
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=3e-3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    reference = get_scheduler(name, optimizer, warmup, 12)
    for round_ in range(3):
        for step in range(4):
            assert rate(training, round_, step) == optimizer.param_groups[0]["lr"]
            optimizer.step()
            reference.step()
