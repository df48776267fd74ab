"""Methods side by side: each a recipe of policies, run by the same roles on the same network.

A recipe says what it takes from whom, what that paper leaves open, and which values of the config
make it (`atlas.policies` has what there is to choose). What it doesn't name has the policy's own
default, whatever the config says; all else, text, budget, model and network, is the config's. So
recipes can be compared.

One's own recipe is a YAML file, a Python file with a `RECIPE`, or comes with a package:

    [project.entry-points."atlas.recipes"]
    mine = "my_package:RECIPE"
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from topologies import InputError
from topologies.document import parse_yaml
from topologies.errors import did_you_mean

GROUP = "atlas.recipes"
"""The entry points under which packages bring recipes along."""

Value = str | int | float | bool | None

POLICIES: Mapping[str, Value] = MappingProxyType(
    {
        "split.placement": "peers",
        "split.pairing": "semantic",
        "split.trunk": "own",
        "split.labels": "client",
        "aggregation.grouping": "semantic",
        "aggregation.method": "fedit",
        "aggregation.graph": "random",
        "aggregation.pull": None,
        "aggregation.between": 0.0,
        "recovery.lost": "replay",
    }
)
"""What a recipe chooses, each with what is taken where it doesn't say."""


class RecipeError(InputError):
    """A recipe that is not there, or can't be meant."""


class Recipe(BaseModel):
    """A method.

    Attributes:
        name: by which it is called.
        paper: whose it is.
        takes: what is taken from there.
        leaves_open: what the paper leaves open, and how it was settled here.
        values: of the config, by key, as in `split.placement: whole`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    paper: str = ""
    takes: str = ""
    leaves_open: str = ""
    values: Mapping[str, Value] = {}

    def changes(self) -> list[str]:
        """The recipe as changes of a config, as `atlas.config.load` takes them."""
        chosen = dict(POLICIES) | dict(self.values)
        return [f"{key}={_spelled(value)}" for key, value in chosen.items()]


_OURS = (
    Recipe(
        name="atlas",
        paper="this project",
        takes=(
            "split over peers who are alike; an adapter for each neighborhood, moved a "
            "little towards the others'; what is lost with a host is repeated"
        ),
        values={"aggregation.between": 0.1},
    ),
    Recipe(
        name="atlas-shared-trunk",
        paper="this project",
        takes=(
            "`atlas`, but all whom a host serves train one trunk: so who is paired with "
            "whom changes what is learned"
        ),
        values={"split.trunk": "shared", "aggregation.between": 0.1},
    ),
    Recipe(
        name="centralized",
        paper="-",
        takes=(
            "all text at one place, one adapter; as many examples as all clients see "
            "together, in as many steps as all take"
        ),
        leaves_open=(
            "where the place is: the first client, whose device it computes on; the text's "
            "way there is counted"
        ),
        values={"split.placement": "gathered", "aggregation.grouping": "one"},
    ),
    Recipe(
        name="centralized-by-task",
        paper="-",
        takes=(
            "`centralized` for each task by itself, at its first client: one adapter for "
            "each, by somebody who knows the tasks"
        ),
        values={"split.placement": "gathered", "aggregation.grouping": "oracle"},
    ),
    Recipe(
        name="local",
        paper="-",
        takes=("each client for itself: no adapter is shared, layers are split all the same"),
        values={"split.pairing": "cheapest", "aggregation.grouping": "none"},
    ),
    Recipe(
        name="fedit",
        paper="FedIT (Zhang et al., 2023)",
        takes=("the whole model at each client; A and B averaged apart over all, by examples"),
        leaves_open=(
            "who aggregates: a member here, as in every recipe, where there it is a server"
        ),
        values={"split.placement": "whole", "aggregation.grouping": "one"},
    ),
    Recipe(
        name="fedit-split",
        paper="FedIT, split",
        takes=(
            "`fedit` with the model split over peers: the same adapters, byte for byte, by "
            "clients that could not hold the model; no evidence of its own"
        ),
        values={"split.pairing": "cheapest", "aggregation.grouping": "one"},
    ),
    Recipe(
        name="mira",
        paper="MIRA (Elbakary et al., 2025)",
        takes=(
            "the whole model and an adapter of its own at each client; after each round adapters "
            "move towards each other along a graph of tasks, drawn at random as published"
        ),
        leaves_open=(
            "lambda, eta and the range of the graph's weights: here weights from [0, 1), and a "
            "tenth of the step at which it would settle no more; all clients take part in each "
            "round, where there a tenth is drawn"
        ),
        values={
            "split.placement": "whole",
            "aggregation.grouping": "one",
            "aggregation.method": "laplacian",
            "aggregation.graph": "random",
        },
    ),
    Recipe(
        name="mira-signatures",
        paper="MIRA, with a graph that means something",
        takes="`mira` with a graph of how alike the clients' signatures are",
        leaves_open="as for `mira`",
        values={
            "split.placement": "whole",
            "aggregation.grouping": "one",
            "aggregation.method": "laplacian",
            "aggregation.graph": "signatures",
        },
    ),
    Recipe(
        name="splitlora",
        paper="SplitLoRA (Lin et al., 2024)",
        takes=(
            "the server has all but the clients' first layers, the labels, and one trunk "
            "for all; clients' parts are averaged"
        ),
        leaves_open=(
            "what the server's batch is made of where clients differ in labels: here each "
            "client's mean counts alike. Its clients average every so many rounds; here "
            "every round"
        ),
        values={
            "split.placement": "server",
            "split.labels": "server",
            "split.trunk": "shared",
            "aggregation.grouping": "one",
        },
    ),
    Recipe(
        name="titanic",
        paper="TITANIC (Su et al., INFOCOM 2024)",
        takes=(
            "the model split over peers whom an integer program chooses, blind to the task; "
            "one trunk for all whom a chain serves"
        ),
        leaves_open=(
            "its text was not at hand: the program is as others retell it, and what happens "
            "when a peer is lost is not known; here its clients wait for it"
        ),
        values={"split.pairing": "titanic", "split.trunk": "shared", "aggregation.grouping": "one"},
    ),
    Recipe(
        name="clustered",
        paper="FedLEASE (2025), as far as that goes without its router",
        takes=(
            "the whole model at each client; clients clustered by what they do to LoRA's B, "
            "adapters averaged inside clusters"
        ),
        leaves_open=(
            "clusters are found as for `atlas`, by gradients at the start, where FedLEASE "
            "warms adapters up and takes the best silhouette; its mixture of experts is "
            "left out"
        ),
        values={"split.placement": "whole"},
    ),
    Recipe(
        name="atlas-one",
        paper="control",
        takes="`atlas` with one neighborhood",
        values={"aggregation.grouping": "one"},
    ),
    Recipe(
        name="atlas-random",
        paper="control",
        takes=(
            "`atlas` with neighborhoods drawn at random, as many and as large as there are tasks"
        ),
        values={"aggregation.grouping": "random", "aggregation.between": 0.1},
    ),
    Recipe(
        name="atlas-oracle",
        paper="control",
        takes="`atlas` with the true tasks for neighborhoods",
        values={"aggregation.grouping": "oracle", "aggregation.between": 0.1},
    ),
    Recipe(
        name="atlas-noise",
        paper="control",
        takes="`atlas` with signatures that are noise",
        values={"aggregation.grouping": "noise", "aggregation.between": 0.1},
    ),
    Recipe(
        name="atlas-apart",
        paper="control",
        takes="`atlas` with neighborhoods that leave each other alone",
    ),
    Recipe(
        name="atlas-blind",
        paper="control",
        takes=(
            "`atlas` with hosts chosen blind to the task, the cheapest first: other bytes "
            "and times, the same adapters"
        ),
        values={"split.pairing": "cheapest", "aggregation.between": 0.1},
    ),
    Recipe(
        name="atlas-shared-blind",
        paper="control",
        takes=(
            "one trunk for all whom a host serves, hosts blind to the task, and one adapter "
            "for all: `titanic` with the cheapest hosts"
        ),
        values={
            "split.pairing": "cheapest",
            "split.trunk": "shared",
            "aggregation.grouping": "one",
        },
    ),
    Recipe(
        name="atlas-no-recovery",
        paper="control",
        takes=(
            "`atlas` where the step in which a host is lost is left out, and its layers "
            "begin the round again"
        ),
        values={"aggregation.between": 0.1, "recovery.lost": "skip"},
    ),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({each.name: each for each in _OURS})
"""Ours, by name."""


def recipes() -> dict[str, Recipe]:
    """All recipes by name: ours, and those that installed packages bring along. A package can't
    take the name of one that is there: RecipeError.
    """
    found = dict(RECIPES)
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda each: each.name):
        try:
            brought = point.load()
        except Exception as error:
            raise RecipeError(
                f"the recipe {point.name!r} can't be loaded: {error}",
                key=f"entry point {point.value}",
                remedy="Mend the package that brings it, or take it away",
            ) from error
        recipe = _as_recipe(brought, point.name, f"entry point {point.value}")
        if recipe.name in found:
            raise RecipeError(
                f"there are two recipes by the name of {recipe.name!r}",
                key=f"entry point {point.value}",
                remedy="Give it another name",
            )
        found[recipe.name] = recipe
    return found


def find(name_or_path: str) -> Recipe:
    """The recipe of that name, or in that file, YAML or Python. Raises RecipeError."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml", ".py"):
        return _from_python(path) if path.suffix == ".py" else _from_yaml(path)
    known = recipes()
    if name_or_path not in known:
        raise RecipeError(
            f"there is no recipe {name_or_path!r}",
            key="--recipe",
            remedy=did_you_mean(name_or_path, list(known), what="recipes"),
        )
    return known[name_or_path]


def table() -> str:
    """Our recipes as a table in Markdown."""
    rows = [
        "| recipe | from | what it is | left open, and settled here | config |",
        "|---|---|---|---|---|",
    ]
    for recipe in RECIPES.values():
        values = ", ".join(f"`{key}: {_spelled(value)}`" for key, value in recipe.values.items())
        cells = (f"`{recipe.name}`", recipe.paper, recipe.takes, recipe.leaves_open, values)
        rows.append("| " + " | ".join(cell or "-" for cell in cells) + " |")
    return "\n".join(rows)


def _from_yaml(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"it can't be read: {error.strerror}", file=str(path)) from None
    return _as_recipe(parse_yaml(text, str(path), RecipeError).mapping(), path.stem, str(path))


def _from_python(path: Path) -> Recipe:
    spec = importlib.util.spec_from_file_location(f"atlas_recipe_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise RecipeError("there is no such file", file=str(path))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(f"it ends with {error!r}", file=str(path)) from error
    return _as_recipe(getattr(module, "RECIPE", None), path.stem, str(path))


def _as_recipe(value: Any, name: str, where: str) -> Recipe:
    """What a file or a package gave, checked; where it has no name of its own it gets this one."""
    if isinstance(value, Recipe):
        return value
    if not isinstance(value, Mapping):
        raise RecipeError(
            "there is no recipe in it",
            file=where,
            remedy="Let RECIPE be an atlas.methods.Recipe, or a mapping with its keys",
        )
    try:
        return Recipe.model_validate({"name": name} | dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(first["msg"], file=where, key=key) from None


def _spelled(value: Value) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
