"""A table is a dict that leaves earlier versions alone."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.table import Table

KEYS = st.integers(-40, 40) | st.integers(0, 4).map(lambda n: n << 60)
STEPS = st.lists(st.tuples(KEYS, st.none() | st.integers()), max_size=200)


def built(steps) -> tuple[Table, dict]:
    table, known = Table(), {}
    for key, value in steps:
        if value is not None:
            table, known = table.put(key, value), {**known, key: value}
        elif key in known:
            table = table.drop(key)
            known = {other: kept for other, kept in known.items() if other != key}
    return table, known


@given(STEPS)
@settings(derandomize=True, deadline=None)
def test_it_holds_what_a_dict_would_in_the_order_of_the_keys(steps):
    table, known = built(steps)
    assert list(table.items()) == sorted(known.items())
    assert len(table) == len(known)
    assert all(table[key] == value and key in table for key, value in known.items())
    assert table == Table(known)
    assert pickle.loads(pickle.dumps(table)) == table


@given(STEPS, STEPS)
@settings(derandomize=True, deadline=None)
def test_what_differs_is_found_and_the_earlier_version_is_as_it_was(first, then):
    before, known = built(first)
    after, _ = built([*first, *then])
    wanted = [key for key in sorted({*before, *after}) if before.get(key) is not after.get(key)]
    assert after.differing(before) == before.differing(after) == wanted
    assert dict(before) == known


def test_what_is_not_there_is_an_error_or_the_default():
    table = Table({"a": 1})
    with pytest.raises(KeyError):
        table.drop("b")
    with pytest.raises(KeyError):
        table["b"]
    assert table.get("b", 7) == 7
    assert len(table.drop("a")) == 0
    assert repr(table) == "Table({'a': 1})"


def test_two_versions_share_all_but_the_way_to_what_differs():
    """Or else a change would cost as much as there is."""
    table = Table({number: str(number) for number in range(10_000)})
    changed = table.put(17, "another")

    def branches(trie):
        if isinstance(trie, tuple):
            return [trie] + [below for branch in trie for below in branches(branch)]
        return [trie]

    known = {id(branch) for branch in branches(table._root)}
    fresh = [branch for branch in branches(changed._root) if id(branch) not in known]
    assert len(fresh) <= 5
