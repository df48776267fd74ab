"""What the tests of this room share: the tiny model, made once, and its tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atlas import assets
from atlas.tasks import Tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiny-llama, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_HOME", str(tmp_path_factory.mktemp("atlas-home")))
        return assets.model("tiny-llama")


@pytest.fixture(scope="session")
def byte_tokenizer(tiny_folder: Path) -> Tokenizer:
    """The tokenizer of tiny-llama: one token for each byte, and one that ends a text."""
    return assets.tokenizer(tiny_folder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread, as it does in a run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
