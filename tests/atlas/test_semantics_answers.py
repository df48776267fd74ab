"""What answers mean: batches split by answer, dealt answers, and signatures that tell by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import assets, config, experiment
from atlas.models import LoraSettings, ModelSpec, Session, Stage, initial_adapter
from atlas.semantics import STEEPNESS, encode, meanings, sketch, turned, with_meanings
from atlas.tasks import Batch, ClientData, Example, step_batch
from broker.wire import unpack
from tests.atlas.test_life import Quiet, live

LORA = LoraSettings()

pytestmark = pytest.mark.usefixtures("one_thread")


def batch_of(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """Prompts with answers, padded on the right."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    targets = torch.full_like(tokens, -100)
    for index, (prompt, answer) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        tokens[index, : len(whole) - 1] = whole[:-1]
        targets[index, len(prompt) - 1 : len(whole) - 1] = torch.tensor(answer)
    return Batch(tokens, targets)


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers of a batch, as they are read."""
    found = []
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        first = next(place for place, target in enumerate(targets) if target >= 0)
        answer = [target for target in targets if target >= 0]
        assert tokens[first + 1 : first + len(answer)] == answer[:-1]
        found.append((tokens[: first + 1], answer))
    return found


def test_each_row_is_once_with_its_answer_and_once_with_the_next_ones() -> None:
    rows = [([5, 6], [1]), ([7, 5, 6], [2, 3]), ([8, 9], [1]), ([4], [2, 3])]
    own, dealt = [], []
    for one in meanings(batch_of(rows)):
        own += rows_of(one.own)
        dealt += rows_of(one.dealt)
        assert {tuple(answer) for _, answer in rows_of(one.own)} == {one.answer}
        assert {tuple(answer) for _, answer in rows_of(one.dealt)} == {one.answer}
    assert sorted(own) == sorted(rows)
    following = [answer for _, answer in rows[1:] + rows[:1]]
    assert sorted(dealt) == sorted(
        (prompt, answer) for (prompt, _), answer in zip(rows, following, strict=True)
    )


def test_no_row_is_longer_than_the_longest_of_the_batch() -> None:
    rows = [([5, 6, 7, 8], [1]), ([9], [2, 3])]
    batch = batch_of(rows)
    found = {one.answer: rows_of(one.dealt) for one in meanings(batch)}
    assert found[2, 3] == [([6, 7, 8], [2, 3])]
    for one in meanings(batch):
        for part in (one.own, one.dealt):
            assert part.tokens.shape[1] <= batch.tokens.shape[1]


def test_where_all_answer_alike_nothing_is_told_apart() -> None:
    (only,) = meanings(batch_of([([5, 6], [1]), ([7], [1])]))
    assert torch.equal(only.own.tokens, only.dealt.tokens)
    assert torch.equal(only.own.targets, only.dealt.targets)
    sketched = np.arange(1.0, 9.0)
    np.testing.assert_array_equal(
        encode(np.stack([with_meanings(sketched, np.zeros(8))] * 2)),
        encode(np.stack([sketched] * 2)),
    )


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_answers_have_directions_of_their_own_that_all_clients_share(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=256)
    one, other = turned(values, (3,), seed=seed), turned(values, (4,), seed=seed)
    assert np.array_equal(one, turned(values, (3,), seed=seed))
    assert sorted(np.abs(one)) == sorted(np.abs(values))
    assert abs(one @ other) < 0.5 * (values @ values)


def test_clients_with_the_same_text_and_other_meanings_are_told_apart() -> None:
    """Two kinds of prompts; the second client gives each the other's answer."""
    folder = assets.model("tiny-llama")
    spec = ModelSpec.read(folder, torch.float32)
    stage = Stage.load(spec, spec.whole, ends=True, lora=LORA)

    def half(swapped: bool, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        rows = []
        for n in range(8):
            kind = (n + seed) % 2
            prompt = generator.integers(10 + 40 * kind, 50 + 40 * kind, size=6).tolist()
            rows.append((prompt, [200 + (kind ^ swapped)]))
        batch = batch_of(rows)
        total, meaning = taken(batch, 1), np.zeros(256)
        for one in meanings(batch):
            own, dealt = (taken(part, STEEPNESS) for part in (one.own, one.dealt))
            meaning = meaning + turned(own - dealt, one.answer, seed=0)
        return with_meanings(total, meaning)

    def taken(part: Batch, steepness: int) -> np.ndarray:
        session = Session(stage, initial_adapter(spec, LORA, 0), learning_rate=0.0)
        loss, gradient = session.loss(session.embed(part.tokens), part.targets, 8)
        assert loss > 0
        session.backward(gradient)
        return sketch(session.gradients(), dimensions=256, seed=0, steepness=steepness)

    same, again, other = half(False, 1), half(False, 2), half(True, 3)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert cosine(same, again) > cosine(same, other) + 0.2


def test_a_client_has_choices_only_where_all_its_examples_share_them() -> None:
    one, other = Example("a", "x", ("x", "y")), Example("b", "u", ("u", "v"))
    assert ClientData("t", (one, one)).choices == ("x", "y")
    assert ClientData("t", (one, other)).choices == ()
    assert ClientData("t", (Example("a", "x"),)).choices == ()


def test_a_client_of_a_run_sends_what_the_whole_model_gives() -> None:
    assets.forbid_hub()
    few = ("training.rounds=1", "training.steps=1", "examples_per_client=16", "held_out=4")
    prepared = experiment.prepare(
        config.load("tiny", [*few, "faults=none", "signature.answers=true"]), Quiet()
    )
    run, sent = prepared.settings, {}
    for source, _, frame in live(prepared).frames:
        if frame.payload and unpack(frame.body).get("kind") == "signature":
            sent[source] = b"".join(bytes(part) for part in frame.payload)
    stage = Stage.load(run.spec, run.spec.whole, ends=True, lora=run.lora)

    def sketched(part: Batch, labels: int, steepness: int) -> np.ndarray:
        session = Session(stage, run.initial_adapter(), learning_rate=0.0)
        _, gradient = session.loss(session.embed(part.tokens), part.targets, labels)
        session.backward(gradient)
        return sketch(session.gradients(), dimensions=256, seed=run.seed, steepness=steepness)

    def half(name: str, number: int) -> np.ndarray:
        data = prepared.data[name]
        batch = step_batch(
            data, tokenizer=run.tokenizer, size=8, max_tokens=run.training.tokens, seed=run.seed,
            client=name, round=-1, step=number,
        )  # fmt: skip
        labels, meaning = int((batch.targets >= 0).sum()), np.zeros(256)
        own = sketched(batch, labels, 1)
        if not data.choices:
            return own
        for one in meanings(batch):
            difference = sketched(one.own, labels, 3) - sketched(one.dealt, labels, 3)
            meaning += turned(difference, one.answer, seed=run.seed)
        return with_meanings(own, meaning)

    assert {bool(part.choices) for part in prepared.data.values()} == {True, False}
    assert sent == {
        name: encode(np.stack([half(name, 0), half(name, 1)])) for name in prepared.data
    }


def test_answers_are_not_told_privately() -> None:
    with pytest.raises(config.ConfigError, match="leave out answers or privacy"):
        config.load("tiny", ["signature.answers=true", "signature.privacy={epsilon: 1.0}"])
