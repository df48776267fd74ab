"""What is made of right answers and of those that were said: one number for each metric, 0 to 1.

- `accuracy`, `exact-match`: the share of rows that are right.
- `macro-f1`: the mean over classes of 2·TP ÷ (2·TP + FP + FN), so a class counts alike whether it
  is rare or not. Over the classes that are asked for or said (as scikit-learn has it).
- `token-f1`: the mean over rows of 2·P·R ÷ (P + R) over the words that answer and reference have in
  common, as often as in both (SQuAD: Rajpurkar et al., 2016, without its dropping of articles).
- `rouge-l`: as `token-f1`, over the longest common subsequence of words: P = LCS ÷ words said,
  R = LCS ÷ words of the reference (Lin, 2004, with beta 1, as the package rouge-score has it).

Words are runs of letters and digits, in lower case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from atlas.tasks.model import Metric


def measure(metric: Metric, right: Sequence[str], said: Sequence[str]) -> float:
    """The metric over rows.

    Args:
        right: the right answer of each row.
        said: what was chosen or written for it.

    Raises:
        ValueError: no rows, or not as many of one as of the other.
    """
    if not right or len(right) != len(said):
        raise ValueError(f"{len(right)} right answers and {len(said)} that were said")
    if metric == "macro-f1":
        return _macro_f1(right, said)
    return fmean(of_row(metric, *pair) for pair in zip(right, said, strict=True))


def of_row(metric: Metric, right: str, said: str) -> float:
    """What one row adds to a metric that is a mean over rows. Raises ValueError for macro-f1."""
    match metric:
        case "accuracy" | "exact-match":
            return float(right == said)
        case "token-f1":
            truth, found = Counter(words(right)), Counter(words(said))
            return _f1((truth & found).total(), found.total(), truth.total())
        case "rouge-l":
            reference, candidate = words(right), words(said)
            return _f1(common(reference, candidate), len(candidate), len(reference))
        case _:
            raise ValueError(f"{metric} is no mean over rows")


def words(text: str) -> list[str]:
    """The words that are compared."""
    return re.findall(r"[^\W_]+", text.lower())


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        below = [0]
        for (corner, above), also in zip(pairwise(row), other, strict=True):
            below.append(corner + 1 if word == also else max(above, below[-1]))
        row = below
    return row[-1]


def _f1(shared: int, said: int, right: int) -> float:
    """2·P·R ÷ (P + R) with P = shared ÷ said and R = shared ÷ right; 1 where both are nothing."""
    return 2 * shared / (said + right) if said + right else 1.0


def _macro_f1(right: Sequence[str], said: Sequence[str]) -> float:
    hits = Counter(answer for answer, found in zip(right, said, strict=True) if answer == found)
    asked, given = Counter(right), Counter(said)
    return fmean(2 * hits[each] / (asked[each] + given[each]) for each in asked | given)
