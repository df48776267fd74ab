"""A mapping that is never changed: `put` and `drop` give another one and leave this as it is.

The new one shares with the old all but what leads to the entry (P. Bagwell, "Ideal Hash Trees",
2001), so a change costs a few hundred nanoseconds however many entries there are, and what two of
them don't have in common is found (`Table.differing`) without looking at what they share.

Entries come in the order of their keys: nothing depends on Python's hashes, which differ from one
process to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

_BITS = 4
_WIDTH = 1 << _BITS
_DEEPEST = 60 // _BITS
_FULL = 8

K = TypeVar("K")
V = TypeVar("V")
_Trie: TypeAlias = "dict[Any, Any] | tuple[_Trie, ...]"


class Table(Mapping[K, V], Generic[K, V]):
    """A persistent mapping; its keys are of one type that can be ordered and hashed."""

    __slots__ = ("_root", "_size")

    def __init__(self, entries: Mapping[K, V] | None = None) -> None:
        self._root: _Trie = {}
        self._size = 0
        for key, value in (entries or {}).items():
            self._root = _put(self._root, hash(key), 0, key, value)
            self._size += 1

    def put(self, key: K, value: V) -> Table[K, V]:
        """This table with that entry in it."""
        return self._with(
            _put(self._root, hash(key), 0, key, value), self._size + (key not in self)
        )

    def drop(self, key: K) -> Table[K, V]:
        """This table without that entry. Raises KeyError where there is none."""
        if key not in self:
            raise KeyError(key)
        if self._size == 1:
            return Table()
        return self._with(_drop(self._root, hash(key), key), self._size - 1)

    def differing(self, other: Table[K, V]) -> list[K]:
        """The keys, in their order, under which this one and that one don't hold the same."""
        return sorted(_differing(self._root, other._root))

    def get(self, key: K, default: Any = None) -> Any:
        """What stands under this key, or the default."""
        trie, bits = self._root, hash(key)
        while trie.__class__ is tuple:
            trie = trie[bits & _WIDTH - 1]
            bits >>= _BITS
        return trie.get(key, default)  # type: ignore[union-attr]

    def __getitem__(self, key: K) -> V:
        found = self.get(key, _MISSING)
        if found is _MISSING:
            raise KeyError(key)
        return found  # type: ignore[no-any-return]

    def __contains__(self, key: object) -> bool:
        return self.get(key, _MISSING) is not _MISSING  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[K]:
        return iter(sorted(_keys(self._root)))

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Table({dict(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Table, (dict(self),))

    def _with(self, root: _Trie, size: int) -> Table[K, V]:
        made: Table[K, V] = Table()
        made._root, made._size = root, size
        return made


_MISSING = object()


def _put(trie: _Trie, bits: int, depth: int, key: Any, value: Any) -> _Trie:
    if isinstance(trie, tuple):
        place = bits & _WIDTH - 1
        below = _put(trie[place], bits >> _BITS, depth + 1, key, value)
        return (*trie[:place], below, *trie[place + 1 :])
    leaf = {**trie, key: value}
    if len(leaf) <= _FULL or depth == _DEEPEST:
        return leaf
    branches: list[dict[Any, Any]] = [{} for _ in range(_WIDTH)]
    for held, what in leaf.items():
        branches[hash(held) >> _BITS * depth & _WIDTH - 1][held] = what
    return tuple(branches)


def _drop(trie: _Trie, bits: int, key: Any) -> _Trie:
    if isinstance(trie, tuple):
        place = bits & _WIDTH - 1
        below = _drop(trie[place], bits >> _BITS, key)
        return (*trie[:place], below, *trie[place + 1 :])
    return {held: what for held, what in trie.items() if held != key}


def _keys(trie: _Trie) -> Iterator[Any]:
    if isinstance(trie, tuple):
        for branch in trie:
            yield from _keys(branch)
    else:
        yield from trie


def _differing(one: _Trie, other: _Trie) -> Iterator[Any]:
    if isinstance(one, tuple) and isinstance(other, tuple):
        for a, b in zip(one, other, strict=True):
            if a is not b:
                yield from _differing(a, b)
        return
    here, there = dict(_entries(one)), dict(_entries(other))
    for key in {**here, **there}:
        if here.get(key, _MISSING) is not there.get(key, _MISSING):
            yield key


def _entries(trie: _Trie) -> Iterator[tuple[Any, Any]]:
    if isinstance(trie, tuple):
        for branch in trie:
            yield from _entries(branch)
    else:
        yield from trie.items()
