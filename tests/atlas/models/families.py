"""A tiny configuration of each family that is known to be cut exactly: three layers.

Where a family mixes layers (sliding windows with full attention, rotary with none), so do these;
heads are tied as the family has it by default, some both ways. A token is 0 where rows are padded.
"""

from __future__ import annotations

from collections.abc import Callable

import transformers as hf

PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
WIDE = {**PLAIN, "intermediate_size": 48}
GROUPED = {**WIDE, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
MIXED = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
N_LAYER = {"vocab_size": 96, "n_layer": 3, "n_head": 4, "pad_token_id": 0}

FAMILIES: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "bloom": lambda: hf.BloomConfig(hidden_size=32, **N_LAYER),
    "cohere": lambda: hf.CohereConfig(**GROUPED),
    "cohere2": lambda: hf.Cohere2Config(**GROUPED, **MIXED),
    "exaone4": lambda: hf.Exaone4Config(**GROUPED, **MIXED),
    "falcon": lambda: hf.FalconConfig(**PLAIN),
    "falcon-alibi": lambda: hf.FalconConfig(**PLAIN, alibi=True),
    "falcon-new": lambda: hf.FalconConfig(
        **PLAIN, new_decoder_architecture=True, num_kv_heads=2, tie_word_embeddings=False
    ),
    "gemma": lambda: hf.GemmaConfig(**HEADS),
    "gemma2": lambda: hf.Gemma2Config(**HEADS, **MIXED),
    "gemma3": lambda: hf.Gemma3TextConfig(**HEADS, **MIXED),
    "glm": lambda: hf.GlmConfig(**HEADS),
    "gpt2": lambda: hf.GPT2Config(**PLAIN),
    "gpt2-untied": lambda: hf.GPT2Config(**PLAIN, tie_word_embeddings=False),
    "gpt_bigcode": lambda: hf.GPTBigCodeConfig(**PLAIN),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        hidden_size=32,
        vocab_size=96,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global"], 2], [["local"], 1]],
        window_size=4,
        max_position_embeddings=64,
        pad_token_id=0,
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**WIDE),
    "gpt_neox-tied": lambda: hf.GPTNeoXConfig(
        **WIDE, tie_word_embeddings=True, use_parallel_residual=False
    ),
    "gptj": lambda: hf.GPTJConfig(**PLAIN, rotary_dim=4, n_positions=64),
    "granite": lambda: hf.GraniteConfig(
        **GROUPED,
        embedding_multiplier=3.0,
        logits_scaling=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
    ),
    "llama": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "llama-untied": lambda: hf.LlamaConfig(**GROUPED, attention_bias=True),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=4),
    "mpt": lambda: hf.MptConfig(
        vocab_size=96, d_model=32, n_layers=3, n_heads=4, max_seq_len=64, pad_token_id=0
    ),
    "nemotron": lambda: hf.NemotronConfig(**GROUPED),
    "olmo": lambda: hf.OlmoConfig(**GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**GROUPED),
    "olmo3": lambda: hf.Olmo3Config(**GROUPED, **MIXED),
    "opt": lambda: hf.OPTConfig(**PLAIN, ffn_dim=48, word_embed_proj_dim=32),
    "opt-projected": lambda: hf.OPTConfig(
        **PLAIN, ffn_dim=48, word_embed_proj_dim=24, do_layer_norm_before=False
    ),
    "phi": lambda: hf.PhiConfig(**GROUPED),
    "phi3": lambda: hf.Phi3Config(**GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED, use_sliding_window=True, **MIXED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=16),
    "smollm3": lambda: hf.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 1]),
    "stablelm": lambda: hf.StableLmConfig(**GROUPED),
    "starcoder2": lambda: hf.Starcoder2Config(**GROUPED, sliding_window=4),
}

CLASSIFIERS = ("gemma3", "gpt2", "gpt_neox", "llama", "opt-projected")
"""Some of those that transformers also has as sequence classifiers, of each kind one."""

IN_EVERY_WAY = (
    "bloom",
    "falcon",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "olmo2",
    "opt-projected",
    "phi3",
    "qwen2",
    "smollm3",
)
"""Those that are cut in each way there is; the others only in front of each layer at once."""
