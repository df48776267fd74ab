"""A stage holds its own layers only, and shares them; what can't be cut is refused by name."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from atlas.models import LoraSettings, ModelSpec, Range, Session, Stage, costs, initial_adapter
from atlas.models.weights import base_weights
from topologies import InputError

from .conftest import CONFIGS, trained


def frozen(stage: Stage) -> dict[int, int]:
    """Bytes of each tensor that a stage holds, by address."""
    return {
        p.data_ptr(): p.nbytes
        for modules in stage._pool.free
        for model in (modules.front, modules.back)
        if model is not None
        for p in model.parameters()
        if not p.is_meta
    }


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stage_holds_its_layers_and_nothing_else(
    family: str, dtype: torch.dtype, folder_of: Callable[[str], Path], lora: LoraSettings
) -> None:
    spec = ModelSpec.read(folder_of(family), dtype)
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    assert sum(frozen(stage).values()) == costs.span_base_bytes(spec, Range(1, 3))


def test_stages_of_one_process_share_their_tensors(spec: ModelSpec, lora: LoraSettings) -> None:
    one, other = (Stage.load(spec, Range(0, 2), ends=ends, lora=lora) for ends in (True, False))
    assert frozen(other).keys() < frozen(one).keys()


def test_weights_that_nobody_holds_are_let_go(spec: ModelSpec) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    held = base_weights(spec.folder, [name], torch.bfloat16)
    assert base_weights(spec.folder, [name], torch.bfloat16)[name] is held[name]
    address = id(held.pop(name))
    gc.collect()
    ballast = torch.nn.Parameter(torch.zeros(1))
    assert id(base_weights(spec.folder, [name], torch.bfloat16)[name]) != address or ballast is None


def test_a_stage_reads_only_the_files_that_hold_its_layers(
    spec: ModelSpec, lora: LoraSettings, tmp_path: Path
) -> None:
    tensors = load_file(spec.folder / "model.safetensors")
    shutil.copy(spec.folder / "config.json", tmp_path)
    weight_map = {name: f"{name}.safetensors" for name in tensors}
    for name, file in weight_map.items():
        if ".layers.1." in name:
            save_file({name: tensors[name]}, tmp_path / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    sharded = ModelSpec.read(tmp_path)
    state, hidden = trained(spec, lora, seed=1), torch.ones(1, 3, spec.hidden)
    expected, found = (
        Session(Stage.load(one, Range(1, 2), lora=lora), state, learning_rate=1.0).forward(hidden)
        for one in (spec, sharded)
    )
    assert torch.equal(expected, found)


def test_a_session_that_is_gone_leaves_nothing_on_the_stage(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    stage = Stage.load(spec, Range(0, 1), lora=lora)
    Session(stage, trained(spec, lora, 1), learning_rate=1.0).forward(torch.ones(1, 2, spec.hidden))
    (modules,) = stage._pool.free
    assert all(module._parameters["weight"] is None for module in modules.slots.values())


def test_stages_of_the_same_layers_share_what_runs_them_and_no_forward(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    """More is built for forwards that run side by side, and all of it goes with the last stage."""
    stages = [Stage.load(spec, Range(0, 2), ends=True, lora=lora) for _ in range(2)]
    states = [trained(spec, lora, seed) for seed in range(4)]
    tokens = [torch.full((1, 3), number) for number in range(4)]
    together = threading.Barrier(4)

    def embed(number: int, *, alone: bool) -> torch.Tensor:
        session = Session(stages[number % 2], states[number], learning_rate=1.0)
        if alone:
            return session.embed(tokens[number])
        lend = stages[0]._pool.lend
        with lend():
            together.wait(timeout=60)
            return session.embed(tokens[number])

    expected = [embed(number, alone=True) for number in range(4)]
    assert len(stages[0]._pool.free) == 1
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(partial(embed, alone=False), range(4)))
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert stages[0]._pool is stages[1]._pool
    assert len(stages[0]._pool.free) > 4
    pool = weakref.ref(stages.pop()._pool)
    assert pool() is not None
    stages.clear()
    gc.collect()
    assert pool() is None


def test_a_forward_that_fails_leaves_nothing_to_the_next(
    spec: ModelSpec, lora: LoraSettings
) -> None:
    stage = Stage.load(spec, Range(0, 1), lora=lora)
    state, hidden = trained(spec, lora, 1), torch.ones(1, 2, spec.hidden)
    expected = Session(stage, state, learning_rate=1.0).forward(hidden)
    with pytest.raises(RuntimeError):
        stage.run(torch.ones(1, 2, spec.hidden + 1), state)

    assert stage._pool.free == []
    assert torch.equal(Session(stage, state, learning_rate=1.0).forward(hidden), expected)


def test_a_family_that_is_not_known_to_be_exact_is_refused_by_name(
    spec: ModelSpec, tmp_path: Path
) -> None:
    config = json.loads((spec.folder / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "mamba"
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"config.json: model_type: .*'mamba'.*llama"):
        ModelSpec.read(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, spec: ModelSpec) -> None:
    with pytest.raises(InputError, match="no model here"):
        ModelSpec.read(tmp_path)
    shutil.copy(spec.folder / "config.json", tmp_path)
    with pytest.raises(InputError, match="weights are not here"):
        Stage.load(ModelSpec.read(tmp_path), Range(0, 1))


def test_weights_of_another_model_are_refused(spec: ModelSpec, tmp_path: Path) -> None:
    config = json.loads((spec.folder / "config.json").read_text(encoding="utf-8"))
    shutil.copy(spec.folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "intermediate_size": 40}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="asks for"):
        Stage.load(ModelSpec.read(tmp_path), Range(0, 1))
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "num_hidden_layers": 9}), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"no tensor 'model\.layers\.8"):
        Stage.load(ModelSpec.read(tmp_path), Range(8, 9))


@pytest.mark.parametrize("target", ["w_pack", "lm_head"])
def test_a_lora_target_outside_the_layers_is_refused(spec: ModelSpec, target: str) -> None:
    with pytest.raises(InputError, match=r"lora.targets"):
        Stage.load(spec, Range(0, 1), lora=LoraSettings(targets=("q_proj", target)))
    with pytest.raises(InputError, match=r"lora.targets"):
        initial_adapter(spec, LoraSettings(targets=("q_proj", target)), seed=0)


def test_ranges_that_make_no_stage_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match="no range"):
        Range(3, 2)
    with pytest.raises(ValueError, match="starts at layer 0"):
        Stage.load(spec, Range(1, 2), ends=True)
    with pytest.raises(ValueError, match="at least one layer"):
        Stage.load(spec, Range(1, 1))
    with pytest.raises(InputError, match="has 4"):
        Stage.load(spec, Range(3, 5))
