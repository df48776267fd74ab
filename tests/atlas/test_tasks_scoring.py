"""A score from one packed pass is what plain passes, one for each choice, would give."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from atlas import config, experiment, tasks
from atlas.journal import Journal
from atlas.results import PlainView
from atlas.tasks import Example, Judgment, TaskError, Tokenizer
from atlas.tasks.encoding import answer_tokens, choice_tokens, prompt_tokens
from atlas.tasks.greedy import write

LENGTH = 60
CHOICES = ("letter", "mark", "number", "no")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(tiny_folder)
    return loaded


def _questions() -> list[Example]:
    prompts = ["GREEK SMALL LETTER ALPHA", "DIGIT TWO", "A", "COMBINING GRAVE ACCENT", "Ⅷ"]
    return [
        Example(prompt, CHOICES[at % len(CHOICES)], CHOICES) for at, prompt in enumerate(prompts)
    ]


def _plainly(
    model: PreTrainedModel, prompt: list[int], answer: list[int]
) -> tuple[list[float], bool]:
    """Log-likelihood of each token of the answer, and whether each is the likeliest."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    found = logits.log_softmax(-1)[range(len(answer)), answer].tolist()
    return found, logits.argmax(-1).tolist() == answer


def _check_choices(model: PreTrainedModel, tokenizer: Tokenizer, examples: list[Example]) -> None:
    losses, choice_losses, right = [], [], 0
    for example in examples:
        prompt = prompt_tokens(example, tokenizer)
        options = [_plainly(model, prompt, list(o))[0] for o in choice_tokens(example, tokenizer)]
        at = example.choices.index(example.answer)
        totals = torch.tensor([sum(option) for option in options], dtype=torch.float64)
        losses.append(-sum(options[at]) / len(options[at]))
        choice_losses.append(float(totals.logsumexp(0) - totals[at]))
        right += int(totals.argmax()) == at
    score = tasks.score(model, tokenizer, examples, max_tokens=LENGTH, batch_size=3)
    assert score.rows == len(examples)
    assert score.loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert score.choice_loss == pytest.approx(sum(choice_losses) / len(losses), abs=1e-5)
    assert score.accuracy == right / len(examples)


def test_choices_packed_behind_one_prompt_score_as_each_alone(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    _check_choices(model, byte_tokenizer, _questions())


def test_choices_of_one_token_are_read_off_the_prompts_end(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    examples = [Example(e.prompt + " ", "b", ("a", "b", "c")) for e in _questions()]
    _check_choices(model, byte_tokenizer, examples)


def test_choices_that_begin_one_another_are_scored_with_their_end(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    examples = [Example(e.prompt, "no", ("no", "none")) for e in _questions()]
    _check_choices(model, byte_tokenizer, examples)


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3", "smollm3", "gpt2", "bloom"])
def test_other_kinds_of_model_score_as_plain_passes_do(
    kind: str, byte_tokenizer: Tokenizer
) -> None:
    sizes = {"vocab_size": 257, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256}
    if kind in {"gpt2", "bloom"}:
        sizes |= {"n_embd": 32, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    else:
        sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    _check_choices(model.eval(), byte_tokenizer, _questions())


def test_generation_is_right_only_when_every_token_is_the_likeliest(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    examples = [Example("def read", "Return"), Example("def write_all", "Set"), Example("x", "Y")]
    losses, right = [], []
    for example in examples:
        answer = answer_tokens(example, byte_tokenizer)
        found, exact = _plainly(model, prompt_tokens(example, byte_tokenizer), answer)
        losses.append(-sum(found) / len(found))
        right.append(exact)
    score = tasks.score(model, byte_tokenizer, examples, max_tokens=LENGTH)
    assert score.loss == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert score.choice_loss is None
    assert score.accuracy == sum(right) / 3
    assert score.majority == 1 / 3


LEARNED = [Example("def read", "Return"), Example("def write_all", "Set")]


@pytest.fixture(scope="module")
def taught(tiny_folder: Path, byte_tokenizer: Tokenizer) -> PreTrainedModel:
    """A model that knows the answers of `LEARNED` by heart."""
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(tiny_folder)
    batch = tasks.batch(LEARNED, byte_tokenizer, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        logits = model(input_ids=batch.tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    return model


def test_what_greedy_decoding_writes_is_scored_as_right(
    byte_tokenizer: Tokenizer, taught: PreTrainedModel
) -> None:
    model = taught
    for example in LEARNED:
        prompt = torch.tensor([prompt_tokens(example, byte_tokenizer)])
        for _ in answer_tokens(example, byte_tokenizer):
            with torch.no_grad():
                following = model(input_ids=prompt).logits[:, -1:].argmax(-1)
            prompt = torch.cat([prompt, following], dim=1)
        assert prompt[0].tolist() == prompt_tokens(example, byte_tokenizer) + answer_tokens(
            example, byte_tokenizer
        )
    assert tasks.score(model, byte_tokenizer, LEARNED, max_tokens=LENGTH).accuracy == 1
    swapped = [Example("def read", "Set"), Example("def write_all", "Return")]
    assert tasks.score(model, byte_tokenizer, swapped, max_tokens=LENGTH).accuracy == 0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_count_and_the_models_mode_is_left_as_it_was(
    tiny_folder: Path, byte_tokenizer: Tokenizer
) -> None:
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM.from_pretrained(tiny_folder)
    before = tasks.score(base, byte_tokenizer, _questions(), max_tokens=LENGTH)
    wrapped = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    wrapped.train()
    same = tasks.score(wrapped, byte_tokenizer, _questions(), max_tokens=LENGTH)
    assert wrapped.training
    assert same.loss == pytest.approx(before.loss, abs=1e-6)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    after = tasks.score(wrapped, byte_tokenizer, _questions(), max_tokens=LENGTH)
    assert abs(after.loss - before.loss) > 1e-3
    _check_choices(wrapped, byte_tokenizer, _questions())


def test_the_size_of_a_batch_does_not_change_a_score(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    one, five = (
        tasks.score(model, byte_tokenizer, _questions(), max_tokens=LENGTH, batch_size=size)
        for size in (1, 5)
    )
    assert one.loss == pytest.approx(five.loss, abs=1e-6)
    assert one.accuracy == five.accuracy


def test_a_model_that_knows_nothing_has_the_loss_of_guessing(
    tiny_folder: Path, byte_tokenizer: Tokenizer
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    examples = [Example("?" * n, "a", ("a", "b", "c")) for n in range(1, 4)]
    score = tasks.score(model, byte_tokenizer, examples, max_tokens=LENGTH)
    assert score.loss == pytest.approx(math.log(257))
    assert score.choice_loss == pytest.approx(math.log(3))
    assert score.accuracy == 1  # the first among equals


def test_the_majority_is_the_most_frequent_answer_of_these_rows(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    examples = [Example(str(n), "b" if n < 3 else "a", ("a", "b")) for n in range(4)]
    assert tasks.score(model, byte_tokenizer, examples, max_tokens=LENGTH).majority == 0.75


def test_examples_of_both_kinds_or_none_have_no_score(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    mixed = [Example("a", "b"), Example("a", "b", ("b", "c"))]
    for examples in ([], mixed):
        with pytest.raises(TaskError, match="all with choices or all without"):
            tasks.score(model, byte_tokenizer, examples, max_tokens=LENGTH)


# Judgments, row by row


def test_what_is_likeliest_is_what_is_said(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    examples = _questions()
    judgments = tasks.judge(model, byte_tokenizer, examples, max_tokens=LENGTH)
    for example, judgment in zip(examples, judgments, strict=True):
        assert judgment.correct == (judgment.said == example.answer)
        assert judgment.said in CHOICES
    score = tasks.summarize(examples, judgments)
    assert score == tasks.score(model, byte_tokenizer, examples, max_tokens=LENGTH)
    right = [example.answer for example in examples]
    said = [judgment.said or "" for judgment in judgments]
    assert score.metrics == {
        "accuracy": score.accuracy,
        "macro-f1": tasks.measure("macro-f1", right, said),
    }


def test_rows_with_choices_of_their_own_have_no_mean_over_classes(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    own = [Example("a", "b", ("b", "c")), Example("a", "d", ("d", "e"))]
    assert set(tasks.score(model, byte_tokenizer, own, max_tokens=LENGTH).metrics) == {"accuracy"}


def test_answers_are_written_until_they_end_and_compared_word_by_word(
    byte_tokenizer: Tokenizer, taught: PreTrainedModel
) -> None:
    examples = [*LEARNED, Example("def read ", "Return"), Example("def read", "Return it")]
    judgments = tasks.judge(taught, byte_tokenizer, examples, max_tokens=LENGTH, written=True)
    assert [judgment.said for judgment in judgments][:2] == ["Return", "Set"]
    assert judgments[3].said == "Return"
    score = tasks.summarize(LEARNED, judgments[:2])
    assert score.metrics == {"exact-match": 1, "token-f1": 1, "rouge-l": 1}
    assert tasks.summarize(examples[3:], judgments[3:]).metrics["rouge-l"] == pytest.approx(2 / 3)
    plain = tasks.score(taught, byte_tokenizer, LEARNED, max_tokens=LENGTH)
    assert plain.metrics == {"exact-match": 1}


def test_what_is_written_does_not_depend_on_the_batch_or_the_padding(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    examples = [Example("?" * n, "no answer") for n in (1, 9, 20, 3, 31, 14)]
    alone, together = (
        tasks.judge(model, byte_tokenizer, examples, max_tokens=48, batch_size=size, written=True)
        for size in (1, 6)
    )
    assert [each.said for each in alone] == [each.said for each in together]
    for one, other in zip(alone, together, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5)


def test_an_answer_is_cut_where_prompt_and_answer_have_their_most_tokens(
    model: PreTrainedModel, byte_tokenizer: Tokenizer
) -> None:
    prompts = [[65] * 4, [66] * 10]
    long = write(model, byte_tokenizer, prompts, max_tokens=40)
    short = write(model, byte_tokenizer, prompts, max_tokens=12)
    for prompt, whole, cut in zip(prompts, long, short, strict=True):
        assert len(cut.encode()) <= 3 * (12 - len(prompt))
        assert whole.startswith(cut.rstrip("\ufffd"))
    assert write(model, byte_tokenizer, prompts, max_tokens=10)[1] == ""


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_count_in_what_is_written(tiny_folder: Path, byte_tokenizer: Tokenizer) -> None:
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM.from_pretrained(tiny_folder)
    before = write(base.eval(), byte_tokenizer, [[65, 66]], max_tokens=30)
    wrapped = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
    assert write(wrapped, byte_tokenizer, [[65, 66]], max_tokens=30) == before
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2)
    assert write(wrapped, byte_tokenizer, [[65, 66]], max_tokens=30) != before


def test_the_same_rows_and_adapter_are_judged_once(tmp_path: Path) -> None:
    examples = [Example("a", "b"), Example("c", "d")]
    adapter = {"lora_A": torch.ones(2, 3), "lora_B": torch.zeros(3, 2)}
    calls = []

    def judge(loss: float) -> list[Judgment]:
        calls.append(loss)
        return [Judgment(loss, None, True, "b"), Judgment(loss, 0.5, False, None)]

    first = tasks.kept(tmp_path, lambda: judge(0.1), examples, adapter, {"tokens": 40})
    again = tasks.kept(tmp_path, lambda: judge(0.2), examples, dict(adapter), {"tokens": 40})
    assert first == again == tuple(judge(0.1))
    assert calls == [0.1, 0.1]
    moved = {**adapter, "lora_B": torch.full((3, 2), 1e-7)}
    for rows, *world in (
        (examples[::-1], adapter, {"tokens": 40}),
        (examples, moved, {"tokens": 40}),
        (examples, adapter, {"tokens": 41}),
    ):
        other = tasks.kept(tmp_path, lambda: judge(0.3), rows, *world)
        assert other[0].loss == 0.3
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_that_was_torn_is_judged_again(tmp_path: Path) -> None:
    examples = [Example("a", "b")]
    tasks.kept(tmp_path, lambda: [Judgment(0.1, None, True, "b")], examples)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:9])
    found = tasks.kept(tmp_path, lambda: [Judgment(0.2, None, True, "b")], examples)
    assert found[0].loss == 0.2
    assert tasks.kept(tmp_path, lambda: pytest.fail("judged again"), examples) == found


def test_an_adapter_of_a_run_is_judged_once_by_its_rows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(tiny_folder.parents[1]))
    changes = ["tasks=[stdlib-docstring]", "held_out=8", "validation=6"]
    run = experiment.prepare(config.load("tiny", changes), PlainView(Console(quiet=True)))
    (task,) = run.tasks
    adapter = run.settings.initial_adapter()
    expected = experiment.evaluate(run, task, adapter)
    first = run.with_journal(Journal(tmp_path, b"here"))
    assert experiment.evaluate(first, task, adapter) == expected
    chosen = experiment.judge(first, task, adapter, task.validation)
    assert len(chosen) == 6

    monkeypatch.setattr(tasks, "judge", lambda *_, **__: pytest.fail("judged again"))
    second = run.with_journal(Journal(tmp_path, b"here"))
    assert experiment.evaluate(second, task, adapter) == expected
    assert experiment.judge(second, task, adapter, task.validation) == chosen
    other = {name: tensor + 1 for name, tensor in adapter.items()}
    with pytest.raises(pytest.fail.Exception, match="judged again"):
        experiment.evaluate(second, task, other)
