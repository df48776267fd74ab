"""Each family, cut in each way, is what PEFT trains in one piece; what can't be cut says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors import safe_open
from torch import Tensor

from atlas.models import (
    LoraSettings,
    ModelSpec,
    Range,
    Session,
    Stage,
    initial_adapter,
    join_adapters,
    load_adapter,
    proof,
    save_adapter,
    skeleton,
    weights,
    whole_model,
)
from atlas.models.spec import FAMILIES as LISTED
from topologies import InputError

from .conftest import trained
from .families import CLASSIFIERS, FAMILIES, GROUPED, IN_EVERY_WAY, PLAIN

# PEFT asks transformers for an attribute by its old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following arguments will be removed:FutureWarning"),
]

LORA = LoraSettings(rank=3, alpha=5, targets="all-linear")
CLASSES = 3
LENGTHS = (10, 7, 8, 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of a random model of a configuration."""

    def make(config: hf.PretrainedConfig, classes: int | None = None) -> Path:
        folder = tmp_path_factory.mktemp(config.model_type)
        auto = hf.AutoModelForCausalLM
        if classes is not None:
            auto, config.num_labels = hf.AutoModelForSequenceClassification, classes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = auto.from_config(config)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def spec_of(made: Callable[..., Path]) -> Callable[..., ModelSpec]:
    """Reads the random model of a family, made once."""

    @cache
    def read(family: str, classes: int | None = None) -> ModelSpec:
        return ModelSpec.read(made(FAMILIES[family](), classes), classes=classes)

    return read


def rows(classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of different length, padded with 0 on the right, and what their positions predict."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 96, (len(LENGTHS), max(LENGTHS)), generator=generator)
    targets = torch.full_like(tokens, -100)
    for row, length in enumerate(LENGTHS):
        tokens[row, length:] = 0
        if classes is None:
            targets[row, 2 : length - 1] = tokens[row, 3:length]
        else:
            targets[row, length - 1] = row % classes
    return tokens, targets


def cuts(layers: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut: the client's last layer, then where each host's layers end."""
    for first in range(layers + 1):
        between = range(first + 1, layers)
        for count in range(len(between) + 1):
            for inner in combinations(between, count):
                yield (first, *inner, layers) if first < layers else (first,)


def assert_exact(spec: ModelSpec, chains: Iterable[tuple[int, ...]]) -> None:
    state, (tokens, targets) = trained(spec, LORA, seed=1), rows(spec.classes)
    with torch.random.fork_rng():
        expected = proof.whole_step(spec, LORA, state, tokens, targets)
    assert expected.keys() == {"loss", *state}

    @cache
    def stage(first: int, last: int, ends: bool) -> Stage:
        return Stage.load(spec, Range(first, last), ends=ends, lora=LORA)

    for cut in chains:
        parts = [stage(0, cut[0], True), *(stage(*ends, False) for ends in pairwise(cut))]
        client, *hosts = (Session(part, state, learning_rate=0.1) for part in parts)
        hidden = client.embed(tokens)
        for host in hosts:
            hidden = host.forward(hidden)
        loss, gradient = client.loss(hidden, targets)
        for host in reversed(hosts):
            gradient = host.backward(gradient)
        client.backward(gradient)
        found = join_adapters(session.gradients() for session in (client, *hosts))
        assert loss == expected["loss"].item(), cut
        assert list(found) == list(state)
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), (cut, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_cut_anywhere_gives_the_loss_and_gradients_of_the_whole(
    family: str, spec_of: Callable[..., ModelSpec]
) -> None:
    spec = spec_of(family)
    assert spec.family in LISTED
    assert_exact(spec, cuts(spec.layers) if family in IN_EVERY_WAY else [(0, 1, 2, 3)])


def test_every_family_listed_is_tested() -> None:
    assert {config().model_type for config in FAMILIES.values()} == set(LISTED)
    assert set(IN_EVERY_WAY) <= set(FAMILIES)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifier_cut_anywhere_gives_the_loss_and_gradients_of_the_whole(
    family: str, spec_of: Callable[..., ModelSpec]
) -> None:
    assert_exact(spec_of(family, CLASSES), [(0, 1, 3), (2, 3), (3,)])


def test_the_reference_is_what_the_classifier_itself_computes(
    spec_of: Callable[..., ModelSpec],
) -> None:
    """Pooled at the last token that is no padding, mean over rows: as transformers has it."""
    spec = spec_of("llama", CLASSES)
    state, (tokens, targets) = trained(spec, LORA, seed=1), rows(CLASSES)
    labels = torch.arange(len(LENGTHS)) % CLASSES
    with torch.random.fork_rng():
        expected = proof.whole_step(spec, LORA, state, tokens, targets)["loss"]
    whole = whole_model(spec, LORA, state)
    assert whole(input_ids=tokens, labels=labels, use_cache=False).loss == expected


def test_a_language_model_becomes_a_classifier_with_a_head_of_its_own(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    spec = ModelSpec.read(made(FAMILIES["gpt2"]()), classes=CLASSES)
    state = initial_adapter(spec, LORA, seed=3)
    head = "base_model.model.score.weight"
    assert list(state)[-1] == head
    assert state[head].shape == (CLASSES, spec.hidden)
    assert 0.005 < state[head].std() < 0.05
    assert torch.equal(state[head], initial_adapter(spec, LORA, seed=3)[head])
    save_adapter(state, tmp_path, spec, LORA)
    assert all(torch.equal(state[n], t) for n, t in load_adapter(tmp_path, spec, LORA).items())
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    stage = Stage.load(spec, Range(0, 1), ends=True, lora=LORA)
    session = Session(stage, state, learning_rate=0.1)
    session.embed(rows()[0])
    gradient = session.loss(torch.randn(4, 10, spec.hidden), rows(CLASSES)[1])[1]
    session.backward(gradient)
    session.commit()
    assert not torch.equal(session.adapter()[head], state[head])


@pytest.mark.parametrize(
    ("family", "chosen"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("gpt2", ("c_attn",)),
        ("gpt_neox", ("query_key_value",)),
        ("phi3", ("qkv_proj",)),
        ("granite", ("q_proj", "v_proj")),
        ("mpt", ("Wqkv",)),
        ("phi", ("q_proj", "v_proj", "fc1", "fc2")),
    ],
)
def test_targets_are_chosen_for_the_family(
    family: str, chosen: tuple[str, ...], spec_of: Callable[..., ModelSpec]
) -> None:
    spec = spec_of(family)
    assert skeleton.targets(spec, LoraSettings(targets="auto")) == chosen


def test_a_target_means_each_projection_that_ends_so(spec_of: Callable[..., ModelSpec]) -> None:
    spec = spec_of("gpt2")
    assert spec.projections == {
        "c_attn": (32, 96),
        "attn.c_proj": (32, 32),
        "c_fc": (32, 128),
        "mlp.c_proj": (128, 32),
    }
    both = LoraSettings(targets=("c_proj",))
    assert skeleton.targets(spec, both) == ("attn.c_proj", "mlp.c_proj")
    with pytest.raises(InputError, match=r"lora.targets.*'q_proj'.*attn.c_proj"):
        skeleton.targets(spec, LoraSettings(targets=("q_proj",)))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_counted_is_what_the_files_hold(
    family: str, spec_of: Callable[..., ModelSpec]
) -> None:
    spec = spec_of(family)
    with safe_open(spec.folder / "model.safetensors", "pt") as tensors:
        held = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    assert spec.layers * spec.layer_elements + spec.ends_elements == held


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma3", "opt-projected"])
def test_a_stage_asks_for_its_own_tensors_only(
    family: str, spec_of: Callable[..., ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Watched:
        def __init__(self, file: Path, framework: str) -> None:
            self._file = safe_open(file, framework)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def keys(self) -> list[str]:
            return list(self._file.keys())

        def get_tensor(self, name: str) -> Tensor:
            asked.append(name)
            return self._file.get_tensor(name)

    monkeypatch.setattr(weights, "safe_open", Watched)
    spec = spec_of(family)
    Stage.load(spec, Range(1, 2), lora=LORA)
    layers = spec.anatomy.layers
    assert asked
    assert all(f".{layers}.1.".endswith(f".{name.split('.1.')[0]}.1.") for name in asked)
    asked.clear()
    Stage.load(spec, Range(0, 0), ends=True, lora=LORA)
    assert asked
    assert not any(f"{layers}." in name for name in asked)
    assert len(asked) == len(set(asked))


def test_a_tied_head_is_the_embedding(spec_of: Callable[..., ModelSpec]) -> None:
    for family, tied in (("gpt2", True), ("gpt2-untied", False), ("gpt_neox-tied", True)):
        spec = spec_of(family)
        stage = Stage.load(spec, Range(0, 1), ends=True)
        (modules,) = stage._pool.free
        assert modules.back is not None
        one = modules.front.get_input_embeddings().weight
        assert (one is modules.back.get_output_embeddings().weight) == tied == spec.tied


def test_a_checkpoint_of_the_bare_model_is_read(made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made(FAMILIES["gpt2"]())
    hf.AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        assert not any(name.startswith("transformer.") for name in tensors.keys())  # noqa: SIM118
    hidden = torch.ones(1, 3, 32)
    outputs = []
    for one in (folder, tmp_path):
        spec = ModelSpec.read(one)
        stage = Stage.load(spec, Range(1, 3), lora=LORA)
        session = Session(stage, trained(spec, LORA, seed=1), learning_rate=1.0)
        outputs.append(session.forward(hidden))
    assert torch.equal(*outputs)


def test_a_family_that_is_not_listed_is_admitted_once_it_is_proven(
    made: Callable[..., Path],
) -> None:
    config = hf.HeliumConfig(**GROUPED, head_dim=8)
    assert config.model_type not in LISTED
    before = torch.random.get_rng_state()
    assert ModelSpec.read(made(config)).layers == 3
    assert torch.equal(before, torch.random.get_rng_state())


REFUSED: Mapping[str, tuple[Callable[[], hf.PretrainedConfig], str]] = {
    "mixtral": (lambda: hf.MixtralConfig(**GROUPED, num_local_experts=2), "mixtures of experts"),
    "t5": (hf.T5Config, "an encoder and a decoder"),
    "gemma3": (hf.Gemma3Config, "more than text"),
    "xlnet": (
        lambda: hf.XLNetConfig(vocab_size=96, d_model=32, n_layer=2, n_head=4),
        "parameters beside its layers",
    ),
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_can_not_be_cut_is_refused_by_name_and_reason(
    family: str, tmp_path: Path
) -> None:
    config, reason = REFUSED[family]
    config().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"model_type: .*'{family}' can't be cut: .*{reason}"):
        ModelSpec.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            hf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4),
            "'mamba' can't be cut: .*incompatible",
        ),
        (
            hf.BertConfig(
                **{**PLAIN, "num_hidden_layers": 2}, intermediate_size=48, is_decoder=False
            ),
            "'bert' can't be cut: their tokens see those that come after",
        ),
    ],
    ids=["mamba", "bert"],
)
def test_a_family_that_fails_the_proof_is_refused_by_name_and_reason(
    config: hf.PretrainedConfig, reason: str, made: Callable[..., Path]
) -> None:
    folder = made(config)
    with pytest.raises(InputError, match=reason):
        ModelSpec.read(folder)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("auto_map", {"AutoModelForCausalLM": "own.Model"}, "code of their own"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "quantized"),
    ],
)
def test_code_and_quantized_weights_of_strangers_are_refused(
    key: str, value: object, reason: str, tmp_path: Path
) -> None:
    FAMILIES["llama"]().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(InputError, match=f"'llama' can't be cut: .*{reason}"):
        ModelSpec.read(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    FAMILIES["llama"]().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    spec = ModelSpec.read(tmp_path)
    with pytest.raises(InputError, match=r"pytorch_model.bin: .*pickled.*save_pretrained"):
        Stage.load(spec, Range(0, 1))
