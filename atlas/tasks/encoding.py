"""From text to tokens: prompt and answer are tokenized each by itself and put one after the other.

So the tokens of a prompt are the same whatever answer follows, which lets all choices of a
question be scored behind one prompt. A generated answer ends with the end token, for only then is
it exact. A choice needs none, unless the tokens of one choice begin those of another: then all of
them get it.
"""

from __future__ import annotations

from functools import lru_cache

from atlas.tasks.model import Example, TaskError, Tokenizer


def prompt_tokens(example: Example, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the prompt, with the first token that some models ask for (Gemma, Llama 3).

    Raises:
        TaskError: there is none, so nothing to predict the answer from.
    """
    tokens = tokenizer.encode(example.prompt, add_special_tokens=True)
    if tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if not tokens:
        raise TaskError(
            f"the prompt before the answer {example.answer!r} has no tokens",
            remedy="Give each row a prompt",
        )
    return tokens


def answer_tokens(example: Example, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the right answer, with the end token where the example needs one."""
    if example.choices:
        options = choice_tokens(example, tokenizer)
        return list(options[example.choices.index(example.answer)])
    return [*_continuation(example.prompt, example.answer, tokenizer), _end(tokenizer)]


def choice_tokens(example: Example, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Token ids of every choice, in the order of `example.choices`."""
    return _choice_tokens(example.prompt[-1:].isspace(), example.choices, tokenizer)


def count_tokens(example: Example, tokenizer: Tokenizer) -> int:
    """Tokens of prompt and answer together."""
    return len(prompt_tokens(example, tokenizer)) + len(answer_tokens(example, tokenizer))


@lru_cache(maxsize=4096)
def _choice_tokens(
    after_space: bool, choices: tuple[str, ...], tokenizer: Tokenizer
) -> tuple[tuple[int, ...], ...]:
    prompt = " " if after_space else ""
    options = [tuple(_continuation(prompt, choice, tokenizer)) for choice in choices]
    ambiguous = any(
        longer[: len(shorter)] == shorter
        for at, shorter in enumerate(options)
        for other, longer in enumerate(options)
        if at != other
    )
    end = (_end(tokenizer),) if ambiguous else ()
    return tuple(option + end for option in options)


def _continuation(prompt: str, answer: str, tokenizer: Tokenizer) -> list[int]:
    space = "" if prompt[-1:].isspace() else " "
    return tokenizer.encode(space + answer, add_special_tokens=False)


def _end(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise TaskError(
            "the tokenizer has no end token, without which a generated answer has no end",
            key="model",
            remedy="Set eos_token in the model folder's tokenizer_config.json",
        )
    return tokenizer.eos_token_id
