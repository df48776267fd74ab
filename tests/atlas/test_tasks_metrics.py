"""Metrics are the numbers that their papers and scikit-learn give."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from atlas.tasks.metrics import common, measure, of_row, words

SENTENCE = st.lists(st.sampled_from("abcd"), max_size=7)


@pytest.mark.parametrize(
    ("metric", "right", "said", "expected"),
    [
        ("exact-match", "Paris", "Paris", 1),
        ("exact-match", "Paris", "paris", 0),
        ("token-f1", "the cat sat", "The cat!", 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("token-f1", "a b b", "b b b c", 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
        ("token-f1", "cat", "dog", 0),
        ("token-f1", "cat", "", 0),
        # Lin (2004), section 3.1: the second has the words of the reference, not their order.
        ("rouge-l", "police killed the gunman", "police kill the gunman", 3 / 4),
        ("rouge-l", "police killed the gunman", "the gunman kill police", 2 / 4),
        ("rouge-l", "one two three four", "one three", 2 * 1 * (2 / 4) / (1 + 2 / 4)),
        ("rouge-l", "one", "", 0),
    ],
)
def test_a_row_has_the_value_that_the_formula_gives(
    metric: str, right: str, said: str, expected: float
) -> None:
    assert of_row(metric, right, said) == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    right, said = zip(*pairs, strict=True)
    expected = f1_score(right, said, average="macro", zero_division=0)
    assert measure("macro-f1", right, said) == pytest.approx(expected)


@given(SENTENCE, SENTENCE)
def test_the_longest_common_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    def in_order(part: list[str], whole: list[str]) -> bool:
        left = iter(whole)
        return all(word in left for word in part)

    parts = ([w for at, w in enumerate(one) if mask >> at & 1] for mask in range(1 << len(one)))
    assert common(one, other) == max(len(part) for part in parts if in_order(part, other))
    assert common(one, other) == common(other, one)


@given(st.sampled_from(["token-f1", "rouge-l"]), st.text(), st.text())
def test_a_text_is_wholly_like_itself_and_never_more(metric: str, one: str, other: str) -> None:
    assert of_row(metric, one, one) == 1
    value = of_row(metric, one, other)
    assert 0 <= value <= 1
    assert math.isclose(value, of_row(metric, other, one))


def test_a_metric_over_rows_is_their_mean() -> None:
    assert measure("rouge-l", ["a b", "c"], ["a b", "d"]) == 0.5
    assert words("Don't, 2nd_try") == ["don", "t", "2nd", "try"]


def test_rows_that_do_not_go_together_have_no_metric() -> None:
    with pytest.raises(ValueError, match="2 right answers and 1"):
        measure("accuracy", ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="macro-f1 is no mean"):
        of_row("macro-f1", "a", "a")
