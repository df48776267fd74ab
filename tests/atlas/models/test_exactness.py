"""A split model computes what the unsplit PEFT model computes: the same bits, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from atlas import assets
from atlas.models import (
    AdapterState,
    LoraSettings,
    ModelSpec,
    Range,
    Session,
    Stage,
    join_adapters,
    save_adapter,
    tensors,
)

from .conftest import CONFIGS, trained

# PEFT asks transformers for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

RATE, DECAY = 1e-2, 0.01
CUTS = [(0, 4), (1, 4), (2, 3, 4), (0, 1, 2, 3, 4), (3, 4), (4,)]
Step = tuple[float, AdapterState]


def batch(vocabulary: int, seed: int, rows: int = 4, length: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (rows, length), generator=generator)
    targets = torch.full_like(tokens, -100)
    targets[:, length - 4 : length - 1] = tokens[:, length - 3 :]
    targets[0, 2:] = -100
    return tokens, targets


def unsplit(
    spec: ModelSpec, lora: LoraSettings, state: AdapterState, folder: Path, steps: int
) -> list[Step]:
    """Steps of the whole model as PEFT trains it, with loss and gradients of each."""
    save_adapter(state, folder, spec, lora)
    base = AutoModelForCausalLM.from_pretrained(spec.folder, dtype=spec.dtype)
    model = PeftModel.from_pretrained(base, folder, is_trainable=True).train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=RATE, weight_decay=DECAY)
    whole = model.get_base_model()
    done: list[Step] = []
    for step in range(steps):
        tokens, targets = batch(spec.vocabulary, step)
        hidden = whole.model(input_ids=tokens, use_cache=False).last_hidden_state
        labeled = targets.reshape(-1) >= 0
        logits = whole.lm_head(hidden.reshape(-1, spec.hidden)[labeled])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets.reshape(-1)[labeled])
        loss.backward()
        gradients = {n.replace(".default", ""): p.grad.clone() for n, p in trainable.items()}
        done.append((loss.item(), gradients))
        optimizer.step()
        optimizer.zero_grad()
    return done


def chain(
    spec: ModelSpec, lora: LoraSettings, state: AdapterState, cuts: Sequence[int]
) -> list[Session]:
    """A client's session and its hosts', cut where `cuts` says."""
    stages = [Stage.load(spec, Range(0, cuts[0]), ends=True, lora=lora)]
    stages += [Stage.load(spec, Range(*ends), lora=lora) for ends in pairwise(cuts)]
    return [Session(stage, state, learning_rate=RATE, weight_decay=DECAY) for stage in stages]


def over_the_wire(tensor: Tensor) -> Tensor:
    manifest, buffers = tensors.pack({"tensor": tensor})
    return tensors.unpack(manifest, [bytes(buffer) for buffer in buffers])["tensor"]


def split_step(sessions: Sequence[Session], tokens: Tensor, targets: Tensor) -> Step:
    """One step through the chain, up to its commit."""
    client, *hosts = sessions
    hidden = client.embed(tokens)
    for host in hosts:
        hidden = host.forward(over_the_wire(hidden))
    loss, gradient = client.loss(over_the_wire(hidden), targets)
    for host in reversed(hosts):
        back = host.backward(over_the_wire(gradient))
        assert back is not None
        gradient = back
    assert client.backward(over_the_wire(gradient)) is None
    return loss, join_adapters(session.gradients() for session in sessions)


def assert_equal(left: AdapterState, right: AdapterState) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_cut_gives_the_loss_and_the_gradients_of_the_unsplit_model(
    family: str, folder_of: Callable[[str], Path], lora: LoraSettings, tmp_path: Path
) -> None:
    spec = ModelSpec.read(folder_of(family))
    state = trained(spec, lora, seed=1)
    expected = unsplit(spec, lora, state, tmp_path, steps=3)
    for cuts in CUTS:
        sessions = chain(spec, lora, state, cuts)
        for step, (loss, gradients) in enumerate(expected):
            found = split_step(sessions, *batch(spec.vocabulary, step))
            assert found[0] == loss, (cuts, step)
            assert_equal(found[1], gradients)
            for session in sessions:
                session.commit()


def test_bf16_gives_the_same_bits_too(
    folder_of: Callable[[str], Path], lora: LoraSettings, tmp_path: Path
) -> None:
    spec = ModelSpec.read(folder_of("llama"), torch.bfloat16)
    state = trained(spec, lora, seed=1)
    expected = unsplit(spec, lora, state, tmp_path, steps=2)
    sessions = chain(spec, lora, state, (1, 3, 4))
    for step, (loss, gradients) in enumerate(expected):
        found = split_step(sessions, *batch(spec.vocabulary, step))
        assert found[0] == loss
        assert_equal(found[1], gradients)
        for session in sessions:
            session.commit()


def test_clients_on_one_stage_do_not_disturb_each_other(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    states = [trained(spec, lora, seed) for seed in (1, 2)]
    inputs = [
        torch.randn(2, 5, spec.hidden, generator=torch.Generator().manual_seed(s)) for s in (3, 4)
    ]

    def run(interleaved: bool) -> list[tuple[Tensor, Tensor | None, AdapterState]]:
        sessions = [Session(stage, state, learning_rate=RATE) for state in states]
        if interleaved:
            outputs = [s.forward(x) for s, x in zip(sessions, inputs, strict=True)]
            backs = [s.backward(torch.ones_like(x)) for s, x in zip(sessions, inputs, strict=True)]
        else:
            outputs, backs = [], []
            for session, given in zip(sessions, inputs, strict=True):
                outputs.append(session.forward(given))
                backs.append(session.backward(torch.ones_like(given)))
        for session in reversed(sessions):
            session.commit()
        return list(zip(outputs, backs, (s.adapter() for s in sessions), strict=True))

    for one, other in zip(run(True), run(False), strict=True):
        assert torch.equal(one[0], other[0])
        assert one[1] is not None
        assert other[1] is not None
        assert torch.equal(one[1], other[1])
        assert_equal(one[2], other[2])


def test_stages_that_share_their_weights_run_in_threads(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    state = trained(spec, lora, seed=1)

    def life(seed: int) -> AdapterState:
        sessions = chain(spec, lora, state, (1, 2, 4))
        for step in range(4):
            split_step(sessions, *batch(spec.vocabulary, seed + step))
            for session in sessions:
                session.commit()
        return join_adapters(session.adapter() for session in sessions)

    alone = [life(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(life, range(4)))
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)


def test_nothing_is_drawn_from_the_global_generator(spec: ModelSpec, lora: LoraSettings) -> None:
    before = torch.random.get_rng_state()
    sessions = chain(spec, lora, trained(spec, lora, seed=1), (1, 4))
    split_step(sessions, *batch(spec.vocabulary, 0))
    for session in sessions:
        session.commit()
    assert torch.equal(before, torch.random.get_rng_state())


def test_smollm2_split_is_smollm2_unsplit(tmp_path: Path) -> None:
    folders = sorted((assets.home() / "models").glob("smollm2-135m-instruct*/config.json"))
    if not folders:
        pytest.skip("SmolLM2 is not in ATLAS_HOME; `atlas run` puts it there")
    spec, lora = ModelSpec.read(folders[-1].parent), LoraSettings()
    state = trained(spec, lora, seed=1)
    ((loss, gradients),) = unsplit(spec, lora, state, tmp_path, steps=1)
    found = split_step(chain(spec, lora, state, (2, 16, 30)), *batch(spec.vocabulary, 0))
    assert found[0] == loss
    assert_equal(found[1], gradients)
