"""Stages and sessions whose computations are in the journal: the same to whoever holds them.

A session's state is a function of its stage, of what it began from and of the calls since. So its
state has a digest: that of the state before the last call, the call's name and its arguments. Under
that digest the call's result is kept. A call whose result is known is not made but put aside. Only
the first one whose result isn't known needs what stands behind: the stage is loaded then, the
session begun, and the calls that were put aside are made. Sessions begin afresh with each round, so
these are a round's at most.

    stage = load(journal, Stage.load, spec, Range(2, 6), lora=lora)
    session = begin(journal, Session, stage, adapter, learning_rate=2e-3)

Without a journal these are `Stage.load(…)` and `Session(…)`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, cast

from atlas.journal.records import Journal
from atlas.models import Session, Stage, slice_adapter

P = ParamSpec("P")

_READING = frozenset({"loss", "gradients", "adapter", "norms", "snapshot"})
"""Calls that leave a session as it was."""
_CHANGING = frozenset({"forward", "embed", "backward", "commit"})
"""Calls that make another state of it. `discard` brings back that of the last commit."""


def load(
    journal: Journal | None, make: Callable[P, Stage], *args: P.args, **kwargs: P.kwargs
) -> Stage:
    """What `make` (`Stage.load`) gives for these arguments, loaded when it is needed."""
    if journal is None:
        return make(*args, **kwargs)
    return cast("Stage", _Stage(journal, make, _bound(make, args, kwargs)))


def begin(
    journal: Journal | None, make: Callable[P, Session], *args: P.args, **kwargs: P.kwargs
) -> Session:
    """What `make` (`Session`) gives for these arguments, on a stage that `load` gave."""
    if journal is None:
        return make(*args, **kwargs)
    return cast("Session", _Session(journal, make, _bound(make, args, kwargs)))


class _Stage:
    """A stage that was loaded, or could be: an earlier life loaded it without an error."""

    def __init__(
        self, journal: Journal, make: Callable[..., Stage], arguments: dict[str, Any]
    ) -> None:
        self.spec, self.range = arguments["spec"], arguments["layers"]
        self.digest = journal.key("stage", arguments)
        self._make = partial(make, **arguments)
        self._lock = threading.Lock()
        self._real: Stage | None = None
        if journal.recall(self.digest) is None:
            self.real()
            journal.keep(self.digest, None)

    def real(self) -> Stage:
        """The stage itself."""
        with self._lock:
            if self._real is None:
                self._real = self._make()
            return self._real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real(), name)


class _Session:
    """A session as the journal knows it, and the session itself as far as it was needed."""

    def __init__(
        self, journal: Journal, make: Callable[..., Session], arguments: dict[str, Any]
    ) -> None:
        stage: _Stage = arguments["stage"]
        if arguments.get("adapter") is not None:
            arguments["adapter"] = slice_adapter(arguments["adapter"], stage.range)
        if arguments.get("frozen"):
            arguments["frozen"] = slice_adapter(arguments["frozen"], stage.range)
        self.stage = stage
        self._journal = journal
        self._make, self._arguments = make, arguments
        self._real: Session | None = None
        self._aside: list[Callable[[Session], object]] = []
        self._settled = 0  # so many of those put aside are behind the last commit among them
        self._state = self._committed = journal.key("session", arguments)
        if journal.recall(self._state) is None:
            self._caught_up()
            journal.keep(self._state, None)

    def discard(self) -> None:
        """As a session's."""
        self._state = self._committed
        del self._aside[self._settled :]
        if not self._aside and self._real is not None:
            self._real.discard()

    def __getattr__(self, name: str) -> Any:
        if name in _READING or name in _CHANGING:
            return partial(self._call, name)
        return getattr(self._caught_up(), name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        key = self._journal.key(self._state, name, args, kwargs)

        def call(session: Session) -> Any:
            return getattr(session, name)(*args, **kwargs)

        known = self._journal.recall(key)
        if known is None:
            result = call(self._caught_up())
            self._journal.keep(key, result)
        else:
            (result,) = known
        if name in _READING:
            return result
        if known is not None:
            self._aside.append(call)
        self._state = key
        if name == "commit":
            self._committed, self._settled = key, len(self._aside)
        return result

    def _caught_up(self) -> Session:
        """The session itself, in the state that it should be in."""
        if self._real is None:
            self._real = self._make(**{**self._arguments, "stage": self.stage.real()})
        for call in self._aside:
            call(self._real)
        self._aside.clear()
        self._settled = 0
        return self._real


def _bound(
    make: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, with those that were left at their defaults."""
    bound = inspect.signature(make).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
