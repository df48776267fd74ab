"""docs/testing.md: its tests are run, its commands are commands, its tables are what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import pytest_atlas
from broker.__main__ import app
from broker.exploring import item as exploring
from broker.testing import marks

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "testing.md").read_text(encoding="utf-8")
FILES = {
    match["name"]: match["text"]
    for match in re.finditer(
        r"^```python\n# (?P<name>test_\w+\.py)\n(?P<text>.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
}


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, in a folder of their own."""
    monkeypatch.setenv("COLUMNS", "200")
    for name, text in FILES.items():
        (pytester.path / name).write_text(text, encoding="utf-8")
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    )
    return pytester.path


@pytest.mark.usefixtures("folder")
def test_the_tests_of_the_page_pass_but_for_the_race_which_is_found(
    pytester: pytest.Pytester,
) -> None:
    done = pytester.runpytest_inprocess("-p", "pytest_atlas", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=len(FILES) - 1, failed=1)
    printed = str(done.stdout)
    assert "test_there_are_never_two_leaders fails under seed 0 with " in printed
    assert len(FILES) == 4

    repeated = pytester.runpytest_inprocess("-p", "pytest_atlas", "-p", "no:cacheprovider", "found")
    repeated.assert_outcomes(failed=1)


def test_the_commands_of_the_page_are_commands_on_its_files(folder: Path) -> None:
    lines = [
        shlex.split(line)
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    explored = [words[3:] for words in lines if words[:3] == ["python", "-m", "broker"]]
    assert len(explored) == 1
    group = get_command(app)
    for words in explored:
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        target = command.make_context(words[0], words[1:]).params["test"]
        file, _, name = target.partition("::")
        assert f"def {name}(" in (folder / file).read_text(encoding="utf-8")
    assert ["pytest", "test_orders.py"] in lines


def test_the_tables_name_every_setting_fixture_and_option() -> None:
    def rows(heading: str) -> list[str]:
        table = PAGE.partition(f"| {heading} | |\n|---|---|\n")[2].partition("\n\n")[0]
        cells = [row.split("|")[1] for row in table.splitlines()]
        return [name for cell in cells for name in re.findall(r"`(?:--)?([\w-]+)", cell)]

    assert rows("`@pytest.mark.network(…)`") == list(marks._KNOWN)
    assert rows("`explore(…)`, and the command") == list(exploring._KNOWN)
    assert all(callable(getattr(pytest_atlas, name)) for name in rows("fixture"))
    assert rows("option") == [
        "network-seed", "network-faults", "network-topology", "network-trace", "network-wall",
    ]  # fmt: skip
