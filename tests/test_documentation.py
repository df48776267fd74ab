"""What the README and the pages in docs/ say is so: examples run, links lead somewhere.

In a page, a ```python block is run in a folder of its own, and prints what the ```output block
right behind it shows (a line with … stands for any lines). A ```yaml or ```json block that begins
with a comment is a file of that name, and stands in the folder of every example of the page. Each
`atlas` command in a ```sh block has to be one: `show` and `config` are run, of `run` and `compare`
all but the run.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.main import get_command

import faults
import topologies
from atlas import assets, cli, comparison, config, methods, protocol, tasks
from broker.proxy import settings

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
README = REPOSITORY / "README.md"

_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?P<name>[\w.-]+\.(?:yaml|jsonl))\n")
_LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code: the page, the line it begins on, its language, and what stands in it."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def _blocks(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    return [
        Block(page, content.count("\n", 0, match.start()) + 1, match["kind"], match["text"])
        for match in _BLOCK.finditer(content)
    ]


BLOCKS = [block for page in PAGES for block in _blocks(page)]
EXAMPLES = [block for block in BLOCKS if block.kind == "python"]


def _commands() -> Iterator[tuple[Block, list[str]]]:
    """The `atlas` commands of all pages, as lists of arguments."""
    for block in BLOCKS:
        if block.kind == "sh":
            for line in block.text.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "atlas":
                    yield block, words[1:]


COMMANDS = list(_commands())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty current folder with the files that the page of `block` shows."""
    block: Block = request.getfixturevalue("block")
    for other in BLOCKS:
        named = _FILE.match(other.text)
        if other.page == block.page and named is not None:
            (tmp_path / named["name"]).write_text(other.text[named.end() :], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_every_python_example_runs_and_prints_what_the_page_shows(
    block: Block,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if block.text.startswith("# after: atlas run\n"):
        _make_a_run(folder, monkeypatch)

    exec(compile(block.text, str(block), "exec"), {"__name__": "example"})

    following = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    shown = next((other.text for other in following if other.kind == "output"), "")
    pattern = re.escape(shown).replace("…\\\n", r"(?:.*\n)*")
    printed = capsys.readouterr().out
    assert re.fullmatch(pattern, printed), f"{block} prints:\n{printed}"


def _make_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example needs of the quickstart's folder, with the tiny model for the real one."""
    import torch

    from atlas.models import LoraSettings, ModelSpec, initial_adapter, save_adapter

    monkeypatch.setenv("ATLAS_HOME", str(folder / "home"))
    tiny = assets.model("tiny-llama")
    monkeypatch.setattr(assets, "model", lambda _: tiny)
    spec, lora = ModelSpec.read(tiny, torch.float32), LoraSettings()
    adapter = folder / "runs" / "quickstart-1" / "adapters" / "neighborhood-0"
    save_adapter(initial_adapter(spec, lora, 0), adapter, spec, lora)


@pytest.mark.parametrize(
    ("block", "arguments"), COMMANDS, ids=[shlex.join(words) for _, words in COMMANDS]
)
def test_every_command_in_the_pages_is_one(
    block: Block, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder.is_dir()
    if arguments[:1] == ["run"]:
        _read_all_but_run(arguments[1:])
        return
    if arguments[:1] == ["compare"]:
        _plan_all_but_compare(arguments[1:])
        return
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert not ended.value.code, f"{block}: {capsys.readouterr().err}"


def _given(command: str, arguments: list[str]) -> dict[str, Any]:
    group = get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    return group.commands[command].make_context(command, list(arguments)).params


def _plan_all_but_compare(arguments: list[str]) -> None:
    """Parses the arguments of `atlas compare`, and plans what it would run."""
    given = _given("compare", arguments)
    recipes = [methods.find(name) for name in given["recipes"].split(",")]
    under = [
        comparison.Condition.read(text) for text in given["conditions"] or ("ample: memory=ample",)
    ]
    changes = given["changes"] or ()
    cells = comparison.plan(given["config"], recipes, range(given["seeds"]), under, changes)
    assert len(cells) == len(recipes) * len(under) * given["seeds"]


def _read_all_but_run(arguments: list[str]) -> None:
    """Parses the arguments of `atlas run`, and reads the files that they name."""
    given = _given("run", arguments)
    settings = methods.find(given["recipe"]).changes() if given["recipe"] else []
    settings += given["changes"] or ()
    settings += [f"{key}={given[key]}" for key in ("topology", "faults") if given[key]]
    chosen = config.load(given["config"], settings)
    network = topologies.load(chosen.topology)
    if chosen.faults != "none":
        assert faults.expand(faults.load(chosen.faults), network, chosen.seed)
    for task in chosen.tasks:
        assert task in tasks.registry() if isinstance(task, str) else task.train.is_file()


def test_every_file_that_a_page_shows_can_be_read(tmp_path: Path) -> None:
    shown = [block for block in BLOCKS if block.kind in ("yaml", "json") and block.text[0] == "#"]
    for block in shown:
        assert _FILE.match(block.text), f"{block} begins with a comment that is no file's name"
        file = tmp_path / Path(block.text.splitlines()[0].removeprefix("# ")).name
        file.write_text(block.text, encoding="utf-8")
        if block.kind == "json":
            for line in block.text.splitlines()[1:]:
                assert {"prompt", "answer"} <= set(json.loads(line))
        elif "routes:\n" in block.text:
            assert settings.load(str(file)).routes
        elif re.search("^nodes:", block.text, re.MULTILINE):
            assert topologies.parse(block.text).nodes
        elif "values:\n" in block.text:
            file = tmp_path / "recipe.yaml"
            file.write_text(block.text, encoding="utf-8")
            assert methods.find(str(file)).values
        elif "timeline:\n" in block.text:
            assert faults.parse(block.text).timeline
        else:
            file = tmp_path / "config.yaml"
            file.write_text(block.text, encoding="utf-8")
            assert config.load(str(file))
    assert len(shown) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page_and_a_heading_that_are_there(page: Path) -> None:
    for match in _LINK.finditer(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        name, _, heading = match["target"].partition("#")
        assert "://" not in name, f"{match[0]}: pages name no other machine"
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {match[0]}"
        if heading:
            assert heading in _headings(target), f"{page.name}: {match[0]}"


def _headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def _lines_of(page: Path, start: str) -> list[str]:
    return [
        line
        for block in _blocks(page)
        if block.kind == "sh"
        for line in block.text.splitlines()
        if line.startswith(start)
    ]


def test_the_readme_has_two_lines_for_a_bare_machine() -> None:
    run, test = _lines_of(README, "python3 -m venv")

    for line in (run, test):
        for install in re.findall(r"pip install [^&]*", line):
            assert "-c constraints.txt" in install
    assert "'.[learn]'" in run
    assert run.endswith(".venv/bin/atlas run")
    assert test.endswith(".venv/bin/tox")


def test_continuous_integration_runs_the_readmes_test_line_and_nothing_else(tmp_path: Path) -> None:
    script = REPOSITORY / ".ci" / "run"
    _, expected = _lines_of(README, "python3 -m venv")
    clone = tmp_path / "clone with a space"
    (clone / ".ci").mkdir(parents=True)
    (clone / "README.md").write_bytes(README.read_bytes())
    (clone / ".ci" / "run").write_bytes(script.read_bytes())
    record = tmp_path / "bin" / "bash"
    record.parent.mkdir()
    record.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RECORD"\n', encoding="utf-8")
    record.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{record.parent}{os.pathsep}{os.environ['PATH']}",
        "RECORD": str(tmp_path / "arguments"),
    }

    subprocess.run(["/bin/bash", clone / ".ci" / "run"], env=environment, check=True)

    assert script.stat().st_mode & stat.S_IXUSR
    assert (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()[-1] == expected


def test_tox_runs_all_parts_under_the_constraints() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(REPOSITORY / "tox.ini", encoding="utf-8")

    environments = [name.strip() for name in tox["tox"]["env_list"].split(",")]
    assert sorted(environments) == ["docs", "lint", "quickstart", "tests", "types"]
    assert "-c constraints.txt" in tox["testenv"]["install_command"]
    run, _ = _lines_of(README, "python3 -m venv")
    command = run.rpartition("/")[2]
    quickstart = tox["testenv:quickstart"]["commands"].split("\n")
    assert any(line.startswith(f"{command} {{posargs:tiny}}") for line in quickstart)


def test_every_key_of_the_config_is_explained_with_its_default() -> None:
    page = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")
    explained = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", page, re.MULTILINE))

    def leaves(section: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
        for key, value in section.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    words = {"None": "null", "True": "true", "False": "false"}  # as YAML has them
    for key, default in leaves(config.Config().complete()):
        listed = f"[{', '.join(default)}]" if isinstance(default, list) else str(default)
        listed = words.get(listed, listed)
        assert explained.get(key) == listed, f"{key}: {default}"


def test_the_table_of_recipes_is_what_the_recipes_say() -> None:
    page = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
    shown = page.split("<!-- recipes -->")[1].split("<!-- /recipes -->")[0].strip()

    assert shown == methods.table()


def test_the_specification_has_every_message_with_its_fields_and_its_answer() -> None:
    page = (REPOSITORY / "docs" / "specification.md").read_text(encoding="utf-8")
    table = page.split("<!-- messages -->")[1].split("<!-- /messages -->")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.split("\n")[3:-1]]
    session = ["attempt", "first", "last", "step"]
    shown = {}
    for kind, _, fields, _, answer in rows:
        names = (session if re.match(r"S\b", fields) else []) + re.findall(r"`(\w+)`", fields)
        shown[kind.strip("`")] = names, set(re.findall(r"`([\w?]+)`", answer)), answer
    assert len(shown) == len(rows)

    bodies = {body.model_fields["kind"].default: body for body in get_args(protocol.AnyBody)}
    answering = {body.model_fields["kind"].default for body in protocol.ANSWERS}
    assert shown.keys() == bodies.keys()
    for kind, body in bodies.items():
        fields, answers, text = shown[kind]
        assert fields == [name for name in body.model_fields if name != "kind"], kind
        assert answers <= answering, kind
        if body in protocol.ANSWERS:
            assert text == "is one", kind
        elif body in protocol.UNANSWERED:
            assert text == "none", kind
        else:
            assert answers, kind


def test_everything_bundled_is_named_in_the_readme() -> None:
    readme = README.read_text(encoding="utf-8")
    named = [*config.catalog(), *topologies.catalog(), *faults.catalog()]

    assert [name for name in named if f"`{name}`" not in readme] == []


def test_the_page_on_tasks_lists_each_with_what_the_registry_says() -> None:
    page = (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = page.split("<!-- tasks -->")[1].split("<!-- /tasks -->")[0].strip().split("\n")[2:]
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in table] == [
        [
            f"`{task.name}`",
            task.summary,
            task.metric,
            "" if task.rows is None else f"{task.rows:,}",
            task.domains,
            task.source,
        ]
        for task in tasks.registry().values()
    ]


def test_every_key_of_a_task_of_ones_own_is_explained_with_its_default() -> None:
    page = (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8")
    explained = dict(re.findall(r"^\| `(\w+)` \|(?: `([^`]*)`)? \|", page, re.MULTILINE))
    words = {"None": "null", "True": "true", "False": "false"}
    for key, field in tasks.TaskSpec.model_fields.items():
        default = "" if field.is_required() else str(field.default)
        assert explained[key] == words.get(default, default), key


def test_every_dependency_is_argued_for() -> None:
    page = (REPOSITORY / "docs" / "dependencies.md").read_text(encoding="utf-8")
    whole = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = whole["project"], whole["dependency-groups"]
    required = {"": project["dependencies"], **project["optional-dependencies"], **groups}

    argued = re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)
    declared = [
        re.split(r"[<>=!~ ]", line)[0]
        for requirements in required.values()
        for line in requirements
    ]
    assert sorted(argued) == sorted(declared)


def test_what_the_readme_shows_of_the_main_job_is_what_it_printed() -> None:
    """Lines of … stand for lines left out, and … at the end of a line for its rest."""
    readme = README.read_text(encoding="utf-8")
    excerpt = readme.split("<!-- quickstart output -->")[1].split("<!-- /quickstart output -->")[0]
    printed = (REPOSITORY / "benchmarks" / "results" / "quickstart.txt").read_text(encoding="utf-8")
    (shown,) = [match["text"] for match in _BLOCK.finditer(excerpt)]

    pattern = re.escape(shown).replace("\n…\\\n", "\n(?:.*\n)*").replace("…\\\n", ".*\n")
    assert re.search(pattern, printed)


def test_figures_in_the_readmes_results_come_from_the_benchmarks() -> None:
    readme = README.read_text(encoding="utf-8")
    results = readme.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    measured = [
        number
        for file in sorted((REPOSITORY / "benchmarks" / "results").glob("**/*.json"))
        for number in _numbers(json.loads(file.read_text(encoding="utf-8")))
    ]
    rows = [line for line in results.splitlines() if line.startswith("|")]
    assert rows[2:]
    for row in rows[2:]:
        for cell in row.strip("|").split("|")[1:]:
            for figure in re.findall(r"\d[\d,]*(?:\.\d+)?(?: %)?", cell):
                assert _is_one_of(figure, measured), f"{figure} in {row}"


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def _is_one_of(figure: str, measured: list[float]) -> bool:
    """Whether a figure is one of these numbers, rounded as it is written."""
    percent = figure.endswith(" %")
    digits = figure.removesuffix(" %").replace(",", "")
    places = len(digits.partition(".")[2])
    return any(f"{number * (100 if percent else 1):.{places}f}" == digits for number in measured)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("fidelity", "measurements"),
        ("bus", "measurements"),
        ("imports", "measurements"),
        ("codec", "learning"),
        ("pytest_plugin", "testing"),
        ("virtual_loop", "testing"),
    ],
)
def test_the_tables_of_measurements_are_what_the_scripts_print(script, name):
    command = [sys.executable, f"benchmarks/{script}.py", "--table"]
    printed = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    page = (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    shown = page.split(f"<!-- {script} -->")[1].split(f"<!-- /{script} -->")[0].strip()
    assert shown
    assert shown in printed
