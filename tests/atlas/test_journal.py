"""What is computed is kept by content; nothing else is found, and nothing damaged is believed."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.journal import Journal, begin, load
from atlas.journal.values import decode, digest, encode
from atlas.models import (
    AdapterState,
    LoraSettings,
    ModelSpec,
    Range,
    Session,
    Stage,
    initial_adapter,
    slice_adapter,
)

LAYERS = Range(1, 4)


def results(number: int) -> list[tuple[bytes, object]]:
    """Keys and results of different kinds and lengths."""
    generator = torch.Generator().manual_seed(number)
    return [
        (
            digest(index),
            [None, 1.5, torch.rand(index % 7, 5, generator=generator), {"a": (index, "b")}][
                index % 4
            ],
        )
        for index in range(number)
    ]


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    return one == other


def written(folder: Path, number: int) -> Path:
    """The only file of a journal with so many results."""
    journal = Journal(folder, b"here")
    for key, result in results(number):
        journal.keep(key, result)
    journal.close()
    (file,) = folder.glob("*.journal")
    return file


def test_a_result_is_found_in_the_next_life_and_not_in_the_same(tmp_path: Path) -> None:
    first = Journal(tmp_path, b"here")
    for key, result in results(20):
        first.keep(key, result)
        assert first.recall(key) is None
    second = Journal(tmp_path, b"here")

    assert (first.computed, len(second)) == (20, 20)
    for key, result in results(20):
        known = second.recall(key)
        assert known is not None
        assert same(known[0], result)
    assert second.recall(digest("another")) is None
    assert (second.recalled, second.computed) == (20, 0)


def test_every_kind_of_number_comes_back_bit_for_bit() -> None:
    value = {
        "half": torch.tensor([1.0, -0.0, float("nan")], dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
        "step": torch.tensor(7),
        "bits": torch.tensor([True, False]),
        "loss": (0.1 + 0.2, 3, None, "text", b"bytes"),
    }
    back = decode(bytearray(encode(value)))

    assert list(back) == list(value)
    assert back["loss"] == value["loss"]
    for name in ("half", "none", "step", "bits"):
        assert back[name].dtype == value[name].dtype
        assert back[name].shape == value[name].shape
        assert encode(back[name]) == encode(value[name])


def test_what_can_not_be_kept_or_told_apart_is_refused() -> None:
    with pytest.raises(TypeError, match="set can't be kept"):
        encode({1, 2})
    with pytest.raises(TypeError, match="object has no digest"):
        digest(object())


@dataclass
class Place:
    path: Path
    number: int


def test_a_digest_is_of_content_its_kind_and_its_place() -> None:
    tensor = torch.arange(6.0)
    different = [
        *(None, True, 1, 1.0, "1", b"1", (1,), ((1,),), {"a": 1}, {"b": 1}),
        *(tensor, tensor.view(2, 3), tensor.to(torch.bfloat16), ("a", "b"), ("ab", "")),
        *(Place(Path("a"), 1), Place(Path("a"), 2), LoraSettings(), LoraSettings(rank=4)),
    ]

    assert len({digest(thing) for thing in different}) == len(different)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(tensor.view(2, 3).T) == digest(tensor.view(2, 3).T.contiguous())
    assert digest(Place(Path("a"), 1)) == digest(Place(Path("b"), 1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_torn_or_damaged_file_gives_right_results_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    file = written(folder, 12)
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans(), label="torn"):
        del content[data.draw(st.integers(0, len(content)), label="length") :]
    for place in data.draw(st.lists(st.integers(0, 1 << 20), max_size=3), label="flipped"):
        if content:
            content[place % len(content)] ^= 1 << (place % 8)
    file.write_bytes(content)

    journal = Journal(folder, b"here")
    for key, result in results(12):
        known = journal.recall(key)
        assert known is None or same(known[0], result)
        if known is None:
            journal.keep(key, result)
    journal.close()
    mended = Journal(folder, b"here")
    for key, result in results(12):
        known = mended.recall(key)
        assert known is not None
        assert same(known[0], result)
    mended.close()


def test_a_file_cut_anywhere_keeps_all_records_before_the_cut(tmp_path: Path) -> None:
    file = written(tmp_path, 12)
    content = file.read_bytes()
    counts = []
    for length in range(0, len(content) + 1, 32):
        file.write_bytes(content[:length])
        journal = Journal(tmp_path, b"here")
        counts.append(len(journal))
        journal.close()

    assert counts == sorted(counts)
    assert set(counts) == set(range(13))


def test_each_life_and_each_process_writes_a_file_of_its_own(tmp_path: Path) -> None:
    first = Journal(tmp_path, b"here")
    other = pickle.loads(pickle.dumps(first))
    for journal, key in ((first, b"1"), (other, b"2"), (first, b"3")):
        journal.keep(digest(key), key)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    later = Journal(tmp_path, b"here")
    later.keep(digest(b"4"), b"4")

    assert len(before) == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(Journal(tmp_path, b"here")) == 4


def test_a_closed_journal_finds_and_writes_nothing(tmp_path: Path) -> None:
    written(tmp_path, 3)
    journal = Journal(tmp_path, b"here")
    journal.close()
    journal.close()
    journal.keep(digest("late"), 1)

    assert journal.recall(results(1)[0][0]) is None
    assert len(Journal(tmp_path, b"here")) == 3


# Sessions.


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    return ModelSpec.read(tiny_folder, torch.float32)


class Counted:
    """A factory that counts what it made."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make, self.made = make, 0
        self.__signature__ = inspect.signature(make)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.made += 1
        return self.make(*args, **kwargs)


class Life:
    """A host's stage and a session on it, over a journal."""

    def __init__(
        self, journal: Journal | None, spec: ModelSpec, adapter: AdapterState, rate: float = 0.01
    ) -> None:
        self.loading, self.beginning = Counted(Stage.load), Counted(Session)
        self.stage = load(journal, self.loading, spec, LAYERS, lora=LoraSettings())
        self.session = begin(journal, self.beginning, self.stage, adapter, learning_rate=rate)

    def step(self, number: int, *, commit: bool = True) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        shape = (2, 5, self.stage.spec.hidden)
        hidden = self.session.forward(torch.randn(shape, generator=generator))
        back = self.session.backward(torch.randn(shape, generator=generator))
        assert back is not None
        if commit:
            self.session.commit()
        else:
            self.session.discard()
        return [hidden, back, *self.session.adapter().values()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_what_a_killed_life_had_computed_is_not_computed_again(
    tmp_path: Path, spec: ModelSpec
) -> None:
    adapter = initial_adapter(spec, LoraSettings(), 1)
    plain = Life(None, spec, adapter)
    expected = [plain.step(number) for number in range(4)]
    first = Journal(tmp_path, b"here")
    killed = Life(first, spec, adapter)
    assert all(equal(killed.step(number), expected[number]) for number in range(2))
    second = Journal(tmp_path, b"here")
    # It may as well be given the layers that it holds alone.
    resumed = Life(second, spec, slice_adapter(adapter, LAYERS))
    again = [resumed.step(number) for number in range(2)]

    assert all(map(equal, again, expected))
    assert (second.computed, second.recalled) == (0, first.computed)
    assert (resumed.loading.made, resumed.beginning.made) == (0, 0)
    assert resumed.stage.range == LAYERS
    assert all(equal(resumed.step(number), expected[number]) for number in (2, 3))
    assert (resumed.loading.made, resumed.beginning.made) == (1, 1)
    assert second.computed == 2 * 4


@pytest.mark.parametrize("known", [0, 4, 9])
def test_a_session_goes_on_from_wherever_its_journal_ends(
    tmp_path: Path, spec: ModelSpec, known: int
) -> None:
    """Steps that are given up, and results that are lost in the middle, among them."""
    adapter = initial_adapter(spec, LoraSettings(), 1)
    course = [(0, True), (1, False), (2, True), (2, False), (3, True)]

    def live(journal: Journal | None) -> list[torch.Tensor]:
        life = Life(journal, spec, adapter)
        return [tensor for number, commit in course for tensor in life.step(number, commit=commit)]

    expected = live(None)
    whole = Journal(tmp_path / "whole", b"here")
    assert equal(live(whole), expected)
    reading = Journal(tmp_path / "whole", b"here")
    part = Journal(tmp_path / "part", b"here")
    keys = list(reading._known)
    for number, key in enumerate(keys):
        if number < known or number % 3 == known % 3:
            part.keep(key, reading.recall(key)[0])
    holed = Journal(tmp_path / "part", b"here")

    assert equal(live(holed), expected)
    assert holed.recalled
    assert holed.recalled + holed.computed == whole.computed
    for journal in (whole, reading, part, holed):
        journal.close()


def test_another_start_setting_or_model_is_another_session(tmp_path: Path, spec: ModelSpec) -> None:
    adapter = initial_adapter(spec, LoraSettings(), 1)
    Life(Journal(tmp_path, b"here"), spec, adapter).step(0)

    for world, seed, rate in ((b"here", 2, 0.01), (b"here", 1, 0.02), (b"there", 1, 0.01)):
        journal = Journal(tmp_path, world)
        Life(journal, spec, initial_adapter(spec, LoraSettings(), seed), rate).step(0)
        assert journal.computed >= 5
        journal.close()


def test_an_error_is_the_same_error_in_every_life(tmp_path: Path, spec: ModelSpec) -> None:
    adapter = initial_adapter(spec, LoraSettings(), 1)
    for _ in range(2):
        journal = Journal(tmp_path, b"here")
        life = Life(journal, spec, adapter)
        life.step(0)
        with pytest.raises(RuntimeError, match="no gradient to apply"):
            life.session.commit()
        life.step(1)
        with pytest.raises(Exception, match="adapter lacks"):
            Life(journal, spec, {})
        journal.close()
    assert journal.computed == 0
