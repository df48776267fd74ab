"""Recipes: what each sets, and those that come from elsewhere."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from atlas import config, methods
from atlas.methods import Recipe, RecipeError

MINE = """
paper: somebody's
takes: clusters without splitting
values: {split.placement: whole, aggregation.method: flora, recovery.hedge: true}
"""


@pytest.mark.parametrize("name", list(methods.RECIPES))
def test_every_recipe_is_a_config_that_can_be(name: str) -> None:
    chosen = config.load("tiny", methods.find(name).changes())

    for key, value in methods.RECIPES[name].values.items():
        section, last = key.split(".")
        assert getattr(getattr(chosen, section), last) == value


def test_no_two_recipes_are_the_same_config() -> None:
    seen = [tuple(recipe.changes()) for recipe in methods.RECIPES.values()]

    assert len(set(seen)) == len(seen)


def test_a_recipe_sets_every_policy_whatever_the_config_says() -> None:
    other = ["split.trunk=shared", "aggregation.grouping=one", "aggregation.between=0.7"]
    plain = config.load("tiny", methods.find("atlas").changes())

    assert config.load("tiny", [*other, *methods.find("atlas").changes()]) == plain


def test_what_is_given_after_a_recipe_counts() -> None:
    changes = [*methods.find("atlas").changes(), "aggregation.between=0.5"]

    assert config.load("tiny", changes).aggregation.between == 0.5


def test_a_recipe_can_be_a_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE, encoding="utf-8")

    recipe = methods.find(str(file))

    assert recipe.name == "mine"
    chosen = config.load("tiny", recipe.changes())
    assert (chosen.split.placement, chosen.aggregation.method) == ("whole", "flora")
    assert chosen.recovery.hedge is True


def test_a_recipe_can_be_a_python_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from atlas.methods import Recipe\n"
        "RECIPE = Recipe(name='ours', values={'split.pairing': 'random'})\n",
        encoding="utf-8",
    )

    recipe = methods.find(str(file))

    assert recipe == Recipe(name="ours", values={"split.pairing": "random"})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Entry points, as installed packages have them."""
    points: list[SimpleNamespace] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    return points


def test_an_installed_package_brings_a_recipe_along(installed: list[SimpleNamespace]) -> None:
    brought = {"values": {"split.pairing": "random"}}
    installed.append(SimpleNamespace(name="theirs", value="package:RECIPE", load=lambda: brought))

    assert methods.find("theirs").values == {"split.pairing": "random"}
    assert list(methods.recipes())[:-1] == list(methods.RECIPES)


def test_a_package_cannot_take_the_name_of_a_recipe(installed: list[SimpleNamespace]) -> None:
    installed.append(SimpleNamespace(name="fedit", value="package:RECIPE", load=dict))

    with pytest.raises(RecipeError, match=r"package:RECIPE.*two recipes.*'fedit'"):
        methods.recipes()


def test_a_package_that_breaks_is_named(installed: list[SimpleNamespace]) -> None:
    def load() -> None:
        raise ImportError("no module named nothing")

    installed.append(SimpleNamespace(name="theirs", value="package:RECIPE", load=load))

    with pytest.raises(RecipeError, match=r"package:RECIPE.*no module named nothing"):
        methods.recipes()


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="atlas-oracle"):
        methods.find("atlas-orakle")


@pytest.mark.parametrize(
    ("text", "named"),
    [("values: {split.pairing: [1]}", "values"), ("value: {}", "value"), ("name: a/b", "name")],
)
def test_a_file_that_is_no_recipe_is_refused_with_file_and_key(
    text: str, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(RecipeError) as refused:
        methods.find(str(file))

    assert str(file) in str(refused.value)
    assert named in str(refused.value)


def test_recipes_can_be_looked_at_without_the_learning_system() -> None:
    code = "from atlas import methods; methods.recipes(); import sys; print('torch' in sys.modules)"

    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True
    )
    assert ended.stdout.strip() == b"False"
