"""What is compared: each cell one recipe under one condition with one seed, so one run.

A cell has a digest of all that goes into it: the complete config, the files that it names, and the
versions of the packages that compute. Its folder is named by it, so what is there is the result of
this, and is never computed again; where a file or a version has changed there is another cell.

    DIR/results.parquet, table.md            what came of all
    DIR/cells/<recipe>/<condition>/seed-0-1a2b3c4d5e6f/
        run/                                 the run's own folder
        rows.json                            what was measured of it, once it is finished
        failure.txt                          why it is not
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from atlas import config as configs
from atlas.config import Config
from atlas.methods import Recipe
from atlas.results.manifest import versions
from topologies import InputError


@dataclass(frozen=True)
class Condition:
    """Under which all recipes are run: a name, and changes of the config."""

    name: str
    changes: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Self:
        """Out of `NAME: KEY=VALUE KEY=VALUE`; a bare name changes nothing. Raises InputError."""
        name, _, changes = text.partition(":")
        name = name.strip()
        if not name or name != Path(name).name or name.startswith(".") or "=" in name:
            raise InputError(
                f"{text!r} is no condition",
                key="--condition",
                remedy="Write NAME: KEY=VALUE KEY=VALUE, as in 'churn: faults=churn memory=ample'",
            )
        return cls(name, tuple(changes.split()))


@dataclass(frozen=True)
class Folder:
    """Where a cell's things lie."""

    path: Path

    @property
    def run(self) -> Path:
        """The run's own folder."""
        return self.path / "run"

    @property
    def rows(self) -> Path:
        """What was measured; there once the run is finished."""
        return self.path / "rows.json"

    @property
    def failure(self) -> Path:
        """Why it is not finished."""
        return self.path / "failure.txt"


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    recipe: str
    condition: str
    seed: int
    config: Config

    @property
    def digest(self) -> str:
        """SHA-256 of all that goes into it."""
        config = self.config.complete()
        files = [config["model"], config["topology"], config["faults"]]
        for task in config["tasks"]:
            if isinstance(task, dict):
                files += [value for value in task.values() if isinstance(value, str)]
        contents = {name: _content(Path(name)) for name in files if Path(name).is_absolute()}
        known = {key: value for key, value in config.items() if key != "name"}
        spelled = json.dumps([known, sorted(contents.values()), versions()], sort_keys=True)
        return hashlib.sha256(spelled.encode()).hexdigest()

    def folder(self, out: Path) -> Folder:
        """Its folder in that of the comparison."""
        name = f"seed-{self.seed}-{self.digest[:12]}"
        return Folder(out / "cells" / self.recipe / self.condition / name)

    def __str__(self) -> str:
        return f"{self.recipe}, {self.condition}, seed {self.seed}"


def plan(
    config: str,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    conditions: Sequence[Condition],
    changes: Sequence[str] = (),
    rates: Mapping[str, float] = MappingProxyType({}),
) -> list[Cell]:
    """All cells, seed by seed, so that each seed can be looked at when it is done. Recipes have
    these learning rates, or the config's.

    Raises InputError about the first that can't be meant.
    """
    names = [recipe.name for recipe in recipes]
    for what, given in (("--recipes", names), ("--condition", [each.name for each in conditions])):
        twice = [name for place, name in enumerate(given) if name in given[:place]]
        if twice:
            raise InputError(f"{twice[0]} is named twice", key=what, remedy="Name it once")

    def made(recipe: Recipe, condition: Condition, seed: int) -> Cell:
        own = [*recipe.changes(), *condition.changes, *changes, f"seed={seed}"]
        if recipe.name in rates:
            own.append(f"training.learning_rate={rates[recipe.name]:g}")
        return Cell(recipe.name, condition.name, seed, configs.load(config, own))

    return [
        made(recipe, condition, seed)
        for seed in seeds
        for condition in conditions
        for recipe in recipes
    ]


def _content(path: Path) -> str:
    """SHA-256 of a file; of a folder by its files' sizes and names, since models are large."""
    if path.is_dir():
        listed = sorted((file.name, file.stat().st_size) for file in path.iterdir())
        return hashlib.sha256(repr(listed).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()
