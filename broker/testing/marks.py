"""What stands in `@pytest.mark.network(…)`, checked. An error names the test, the mark and the
setting, and says what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import faults as fault_language
import topologies as networks
from broker.runs import WEEK_S
from faults import Event, Scenario
from topologies import InputError, Topology, units
from topologies.errors import did_you_mean

_KNOWN = ("topology", "faults", "seed", "strict", "limit")


@dataclass(frozen=True)
class Settings:
    """What a test's network is to be, beside its topology.

    `strict`: a message that nobody has read fails the test. `limit_s`: of virtual time.
    """

    faults: Scenario | tuple[Event, ...] = ()
    seed: int = 0
    strict: bool = False
    limit_s: float = WEEK_S


def read(item: pytest.Item) -> Settings:
    """The settings of a test's marks; a nearer mark wins, and the command line over all."""
    said = _said(item)
    option = item.config.option
    trouble = option.network_faults or said.get("faults", ())
    seed = said.get("seed", 0) if option.network_seed is None else int(option.network_seed)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise _error(item, "seed", f"{seed!r} is no whole number from 0 on")
    strict = said.get("strict", False)
    if not isinstance(strict, bool):
        raise _error(item, "strict", f"{strict!r} is neither True nor False")
    limit = said.get("limit", WEEK_S)
    try:
        limit_s = units.duration(limit) if isinstance(limit, str) else float(limit)
    except (InputError, TypeError, ValueError) as error:
        raise _error(item, "limit", str(error), 'Write "10 min"') from error
    return Settings(_faults(item, trouble), seed, strict, limit_s)


def topology(item: pytest.Item, given: object = None) -> Topology:
    """The topology of a test: of the command line, as `given` by a parameter, or of its marks."""
    chosen = item.config.option.network_topology or given or _said(item).get("topology")
    if isinstance(chosen, Topology):
        return chosen
    if chosen is None:
        remedy = f"Name one: {', '.join(networks.catalog()[:4])}, …, a file, or a Topology"
        raise _error(item, "topology", "there is none", remedy)
    if not isinstance(chosen, str | Path):
        problem = f"{chosen!r} is a {type(chosen).__name__}"
        raise _error(item, "topology", problem, "Give a name, a file, or a Topology")
    try:
        return networks.load(_beside(item, chosen))
    except InputError as error:
        raise _error(item, "topology", _problem(error), error.remedy) from error


def misfit(item: pytest.Item, error: InputError) -> InputError:
    """The error where the faults of a mark do not fit its topology."""
    return _error(item, "faults", _problem(error), error.remedy)


def _faults(item: pytest.Item, given: Any) -> Scenario | tuple[Event, ...]:
    if isinstance(given, Scenario):
        return given
    try:
        if isinstance(given, str | Path):
            return fault_language.load(_beside(item, given))
        if isinstance(given, Mapping):
            return Scenario.of({"name": item.name, **given})
    except InputError as error:
        raise _error(item, "faults", _problem(error), error.remedy) from error
    if isinstance(given, list | tuple) and all(isinstance(event, Event) for event in given):
        return tuple(given)
    problem = f"{given!r} is a {type(given).__name__}"
    raise _error(item, "faults", problem, "Give a name, a file, a Scenario, or a timeline")


def _said(item: pytest.Item) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for mark in item.iter_markers("network"):
        if mark.args:
            problem = f"{mark.args[0]!r} stands without a name"
            raise _error(item, "", problem, f"Write network(topology={mark.args[0]!r})")
        for key in mark.kwargs:
            if key not in _KNOWN:
                remedy = did_you_mean(key, _KNOWN, what="settings")
                raise _error(item, key, "this mark has no such setting", remedy)
        said = {**mark.kwargs, **said}
    return said


def _beside(item: pytest.Item, name: str | Path) -> str | Path:
    """A file beside the test's own, where there is one; else what was said."""
    file = item.path.parent / name
    return file if file.is_file() else name


def _problem(error: InputError) -> str:
    return ": ".join(str(part) for part in (error.file, error.key, error.problem) if part)


def _error(item: pytest.Item, key: str, problem: str, remedy: str | None = None) -> InputError:
    mark = f"mark network, {key}" if key else "mark network"
    return InputError(problem, file=item.nodeid, key=mark, remedy=remedy)
