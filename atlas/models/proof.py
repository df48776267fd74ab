"""The proof that a model can be cut, for families that the tests don't cover.

Structure alone does not show it: a layer may be given more than the hidden state (something made
of the tokens, say), and then one that stands elsewhere gets something else. So the model itself is
asked. One step is computed twice, by the model as transformers loads it with PEFT's LoRA on every
projection, and by a chain that is cut in front of each layer, and compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from atlas.models.adapters import AdapterState, initial_adapter, join_adapters
from atlas.models.session import Session
from atlas.models.settings import LoraSettings
from atlas.models.skeleton import peft_config
from atlas.models.spec import ModelSpec, Range, read_config, refusal
from atlas.models.stage import Stage

LORA = LoraSettings(rank=2, alpha=2, targets="all-linear")
ROWS, TOKENS = 2, 8


@lru_cache(maxsize=16)
def require_exact(spec: ModelSpec) -> None:
    """Raises InputError unless this very model, cut at each layer, computes what it does whole.

    Takes the memory of the whole model and the time of two steps of 16 tokens; once per process.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, spec.vocabulary, (ROWS, TOKENS), generator=generator)
    padding = read_config(spec.folder).pad_token_id or 0
    tokens[tokens == padding] = (padding + 1) % spec.vocabulary
    targets = _targets(spec, tokens)
    state = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in initial_adapter(spec, LORA, 0).items()
    }
    try:
        with torch.random.fork_rng(devices=()):
            whole = whole_step(spec, LORA, state, tokens, targets)
        chain = _chain(spec, state)
        looks_ahead = _looks_ahead(chain, tokens)
        cut = _cut_step(chain, tokens, targets)
        differing = [name for name in whole if not torch.equal(whole[name], cut[name])]
    except Exception as error:  # what an unknown family may raise is not known
        raise refusal(spec.folder, spec.family, f"{type(error).__name__}: {error}") from error
    if looks_ahead:
        raise refusal(spec.folder, spec.family, "their tokens see those that come after them")
    if differing:
        raise refusal(
            spec.folder,
            spec.family,
            f"cut at each layer, {differing[0]} differs from that of the whole model",
        )


def whole_step(
    spec: ModelSpec,
    lora: LoraSettings,
    state: AdapterState,
    tokens: Tensor,
    targets: Tensor,
) -> dict[str, Tensor]:
    """One step of the unsplit model with PEFT's own classes: its gradients and `loss`, by name.

    The reference that a cut is held against. `tokens` and `targets` [b, t] are as `Session` takes
    them. The model's own dropout is off.
    """
    model = _peft_model(spec, lora)
    trained = {
        name.replace(".default", "").replace(".modules_to_save", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])
    labels = targets.reshape(-1)
    labeled = labels >= 0
    if spec.classes is None:
        logits = model(input_ids=tokens, use_cache=False).logits.reshape(-1, spec.vocabulary)[
            labeled
        ]
    else:
        logits = model(input_ids=tokens, use_cache=False).logits
    loss = cross_entropy(logits.float(), labels[labeled])
    torch.autograd.backward(loss)
    gradients = {name: parameter.grad for name, parameter in trained.items()}
    return {"loss": loss.detach(), **{n: g for n, g in gradients.items() if g is not None}}


def _peft_model(spec: ModelSpec, lora: LoraSettings) -> nn.Module:
    """The whole model as transformers loads it, with PEFT's adapter, in evaluation mode."""
    if spec.classes is None:
        base = AutoModelForCausalLM.from_pretrained(spec.folder, dtype=spec.dtype)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(
            spec.folder, dtype=spec.dtype, num_labels=spec.classes
        )
        if base.config.pad_token_id is None:
            base.config.pad_token_id = 0
    config = peft_config(lora, spec)
    config.inference_mode = False
    model: nn.Module = get_peft_model(base, config)
    model.train(False)
    return model


def _chain(spec: ModelSpec, state: AdapterState) -> list[Session]:
    """Sessions on a stage with both ends and no layer, and on one for each layer."""
    parts = [Stage.load(spec, Range(0, 0), ends=True, lora=LORA)]
    parts += [Stage.load(spec, Range(*cut), lora=LORA) for cut in pairwise(range(spec.layers + 1))]
    return [Session(stage, state, learning_rate=0.0) for stage in parts]


def _forward(chain: Sequence[Session], tokens: Tensor) -> Tensor:
    """Token ids [b, t] → hidden state behind the last layer [b, t, h]."""
    client, *hosts = chain
    hidden = client.embed(tokens)
    for host in hosts:
        hidden = host.forward(hidden)
    return hidden


def _looks_ahead(chain: Sequence[Session], tokens: Tensor) -> bool:
    """Whether another last token changes what is before it."""
    other = tokens.clone()
    other[:, -1] = tokens[:, 0]
    seen = []
    for given in (tokens, other):
        seen.append(_forward(chain, given)[:, :-1])
        for session in chain:
            session.discard()
    return not torch.allclose(seen[0], seen[1])


def _cut_step(chain: Sequence[Session], tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The same step through the chain."""
    client, *hosts = chain
    loss, gradient = client.loss(_forward(chain, tokens), targets)
    for host in reversed(hosts):
        back = host.backward(gradient)
        assert back is not None
        gradient = back
    client.backward(gradient)
    gradients = join_adapters(session.gradients() for session in chain)
    return {"loss": torch.tensor(loss), **gradients}


def _targets(spec: ModelSpec, tokens: Tensor) -> Tensor:
    """What each position predicts: the next token, or at the end of a row its class."""
    targets = torch.full_like(tokens, -100)
    if spec.classes is None:
        targets[:, :-1] = tokens[:, 1:]
    else:
        targets[:, -1] = torch.arange(len(tokens)) % spec.classes
    return targets
