"""A step is applied on commit only, once, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from atlas.models import LoraSettings, ModelSpec, ProtocolError, Range, Session, Stage

from .conftest import trained


@pytest.fixture
def host(spec: ModelSpec, lora: LoraSettings) -> Session:
    stage = Stage.load(spec, Range(1, 3), lora=lora)
    return Session(stage, trained(spec, lora, seed=1), learning_rate=1e-2)


@pytest.fixture
def client(spec: ModelSpec, lora: LoraSettings) -> Session:
    stage = Stage.load(spec, Range(0, 1), ends=True, lora=lora)
    return Session(stage, trained(spec, lora, seed=1), learning_rate=1e-2)


def hidden(spec: ModelSpec) -> torch.Tensor:
    return torch.randn(2, 5, spec.hidden, generator=torch.Generator().manual_seed(0))


def step(session: Session, spec: ModelSpec) -> None:
    output = session.forward(hidden(spec))
    session.backward(torch.ones_like(output))


def test_backward_changes_no_parameter_and_commit_changes_all(
    host: Session, spec: ModelSpec
) -> None:
    before = host.adapter()
    step(host, spec)
    assert all(torch.equal(before[name], now) for name, now in host.adapter().items())
    host.commit()
    assert all(not torch.equal(before[name], now) for name, now in host.adapter().items())
    assert host.gradients() == {}


def test_a_discarded_step_has_never_been(host: Session, spec: ModelSpec) -> None:
    other = Session(host.stage, host.adapter(), learning_rate=1e-2)
    step(host, spec)
    host.discard()
    host.forward(hidden(spec) + 1)
    host.discard()
    for session in (host, other):
        step(session, spec)
        session.commit()
    expected = other.adapter()
    assert all(torch.equal(expected[name], now) for name, now in host.adapter().items())


def test_gradients_of_two_batches_add_up_before_a_commit(host: Session, spec: ModelSpec) -> None:
    step(host, spec)
    once = {name: gradient.clone() for name, gradient in host.gradients().items()}
    step(host, spec)
    assert all(torch.equal(2 * once[name], twice) for name, twice in host.gradients().items())


def test_a_commit_is_torch_adamw_parameter_by_parameter(host: Session, spec: ModelSpec) -> None:
    names = list(host.adapter())
    reference = [torch.nn.Parameter(tensor) for tensor in host.adapter().values()]
    optimizer = torch.optim.AdamW(reference, lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        step(host, spec)
        for name, parameter in zip(names, reference, strict=True):
            parameter.grad = host.gradients()[name].clone()
        optimizer.step()
        host.commit()
    for name, parameter in zip(names, reference, strict=True):
        assert torch.equal(host.adapter()[name], parameter)


def test_an_adapter_that_is_given_away_is_a_copy(host: Session, spec: ModelSpec) -> None:
    given = host.adapter()
    kept = {name: tensor.clone() for name, tensor in given.items()}
    step(host, spec)
    host.commit()
    assert all(torch.equal(given[name], kept[name]) for name in kept)


def test_a_client_without_layers_has_nothing_to_commit(spec: ModelSpec, lora: LoraSettings) -> None:
    stage = Stage.load(spec, Range(0, 0), ends=True, lora=lora)
    session = Session(stage, {}, learning_rate=1e-2)
    output = session.embed(torch.tensor([[1, 2, 3]]))
    assert output.shape == (1, 3, spec.hidden)
    assert session.backward(torch.ones_like(output)) is None
    session.commit()
    assert session.adapter() == {}


def test_a_commit_without_gradients_is_a_bug_that_shows(host: Session, spec: ModelSpec) -> None:
    with pytest.raises(RuntimeError, match="no gradient to apply"):
        host.commit()
    host.forward(hidden(spec))
    with pytest.raises(RuntimeError, match="in flight"):
        host.commit()
    with pytest.raises(RuntimeError, match="in flight"):
        host.forward(hidden(spec))
    host.discard()
    with pytest.raises(RuntimeError, match="nothing to go back through"):
        host.backward(hidden(spec))


def test_calls_for_the_other_kind_of_stage_are_refused(
    host: Session, client: Session, spec: ModelSpec
) -> None:
    with pytest.raises(RuntimeError, match="ends=True"):
        host.embed(torch.tensor([[1]]))
    with pytest.raises(RuntimeError, match="ends=True"):
        client.forward(hidden(spec))
    with pytest.raises(RuntimeError, match="ends=True"):
        host.loss(hidden(spec), torch.zeros(2, 5, dtype=torch.long))


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(2, 5, 7), torch.zeros(2, 32), torch.zeros(2, 5, 32, dtype=torch.bfloat16)],
    ids=["width", "rank", "dtype"],
)
def test_a_hidden_state_that_does_not_fit_is_refused(host: Session, odd: torch.Tensor) -> None:
    with pytest.raises(ProtocolError, match="hidden state"):
        host.forward(odd)


def test_a_gradient_that_does_not_fit_is_refused_and_the_graph_stays(
    host: Session, spec: ModelSpec
) -> None:
    output = host.forward(hidden(spec))
    with pytest.raises(ProtocolError, match="gradient"):
        host.backward(output[:1])
    assert host.backward(torch.ones_like(output)) is not None


def test_an_adapter_that_does_not_fit_is_refused(host: Session) -> None:
    state = host.adapter()
    name = next(iter(state))
    with pytest.raises(ProtocolError, match="shape"):
        Session(host.stage, {**state, name: state[name][:1]}, learning_rate=1e-2)
    del state[name]
    with pytest.raises(ProtocolError, match="lacks"):
        Session(host.stage, state, learning_rate=1e-2)


def test_a_batch_without_labels_has_no_loss(client: Session, spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match="no position"):
        client.loss(hidden(spec), torch.full((2, 5), -100))
    with pytest.raises(ProtocolError, match="came back for"):
        client.loss(hidden(spec), torch.zeros(2, 4, dtype=torch.long))


def test_with_a_fixed_only_b_is_trained(host: Session, spec: ModelSpec) -> None:
    start = host.adapter()
    fixed = Session(host.stage, start, learning_rate=1e-2, weight_decay=0.1, fixed_a=True)
    for session in (host, fixed):
        step(session, spec)
    assert list(fixed.gradients()) == list(start)
    for name, gradient in fixed.gradients().items():
        expected = torch.zeros_like(gradient) if ".lora_A." in name else host.gradients()[name]
        assert torch.equal(gradient, expected)
    fixed.commit()
    later = Session(
        host.stage, state=fixed.snapshot(), learning_rate=1e-2, weight_decay=0.1, fixed_a=True
    )
    step(later, spec)
    later.commit()
    for name, now in later.adapter().items():
        assert torch.equal(now, start[name]) == (".lora_A." in name)
