"""What a model writes after a prompt: at each place the likeliest token, until it ends the text.

Prompts of a batch are padded on the left, which is masked, and positions are counted from each
prompt's first token. So what is written doesn't depend on the batch, but for the rounding of sums
that are taken in another order: where two tokens are as likely as each other to within that, either
may be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from atlas.tasks.batching import PADDING
from atlas.tasks.model import Tokenizer


def write(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
) -> list[str]:
    """The text behind each prompt, without white space at its ends.

    Args:
        model: a causal language model as transformers has it, in evaluation mode.
        prompts: token ids, each at least one.
        max_tokens: the most tokens of prompt and answer together; an answer ends there.
    """
    longest, shortest = max(map(len, prompts)), min(map(len, prompts))
    if shortest >= max_tokens:
        return [""] * len(prompts)
    whole = cast("Any", model)  # generate is a method that transformers mixes in
    tokens = torch.tensor([[PADDING] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    end = tokenizer.eos_token_id
    found = whole.generate(
        input_ids=tokens.to(whole.device),
        attention_mask=mask.to(whole.device),
        max_new_tokens=max_tokens - shortest,
        do_sample=False,
        num_beams=1,
        eos_token_id=end,
        pad_token_id=PADDING if end is None else end,
    )
    texts = []
    for prompt, row in zip(prompts, found[:, longest:].tolist(), strict=True):
        answer = row[: max_tokens - len(prompt)]
        if end in answer:
            answer = answer[: answer.index(end)]
        texts.append(tokenizer.decode(answer).strip())
    return texts
