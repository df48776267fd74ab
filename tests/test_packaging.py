"""What is installed: the wheel has all that the rooms read, brings no torch where nobody has asked
for it, and its version is that of the tag.
"""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("topologies", "faults", "broker", "atlas")
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def run(*command: str | Path, cwd: Path) -> str:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an archive of the repository has, without its history."""
    folder = tmp_path_factory.mktemp("source")
    modules = sorted(path.name for path in REPOSITORY.glob("*.py"))
    for name in ("pyproject.toml", "README.md", "LICENSE", *modules):
        shutil.copy(REPOSITORY / name, folder)
    passed_over = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, folder / room, ignore=passed_over)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> zipfile.ZipFile:
    run(sys.executable, "-c", BUILD, cwd=source)
    (path,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_has_every_file_of_every_room(source, wheel):
    files = {
        path.relative_to(source).as_posix()
        for room in ROOMS
        for path in (source / room).rglob("*")
        if path.is_file()
    }
    files |= {path.name for path in source.glob("*.py")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == files
    assert {"faults/catalog/host-churn.yaml", "topologies/catalog/edge-clusters.yaml"} < found
    assert {"broker/control/pages/live.html", "broker/py.typed", "topologies/devices.yaml"} < found


def test_without_extras_nothing_of_learning_or_serving_is_installed(wheel):
    wanted = metadata(wheel).get_all("Requires-Dist")
    assert wanted is not None
    base = {re.split(r"[<>=!~ ;\[]", line)[0] for line in wanted if "extra ==" not in line}
    assert {"pyzmq", "msgpack", "pydantic"} < base
    assert base.isdisjoint({"torch", "transformers", "peft", "scipy", "scikit-learn", "aiohttp"})
    extras = metadata(wheel).get_all("Provides-Extra")
    assert extras is not None
    assert {"learn", "serve", "test"} <= set(extras)


def test_the_emulator_works_out_of_the_wheel_alone(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import broker, faults, topologies
assert all(room.__file__.startswith(sys.argv[1]) for room in (broker, faults, topologies))
for name in topologies.catalog():
    topologies.load(name)
for name in faults.catalog():
    faults.load(name)
async def main(node):
    return node.name
place = topologies.load("edge-clusters").nodes["client-0"].name
print(broker.run({place: main}, topology="edge-clusters", faults="host-churn").returned)
assert "torch" not in sys.modules
"""
    said = run(sys.executable, "-I", "-c", code, tmp_path, cwd=tmp_path)
    assert said == "{'client-0': 'client-0'}\n"


def test_the_version_is_that_of_the_tag_and_of_a_clone_without_tags_one_after_it(source, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("no git is here")
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copy(source / "pyproject.toml", clone)

    def version() -> str:
        return run(sys.executable, "-m", "setuptools_scm", cwd=clone).strip()

    assert version() == "0.1.0"  # no history at all
    run(*GIT, "init", "-q", cwd=clone)
    run(*GIT, "add", ".", cwd=clone)
    run(*GIT, "commit", "-q", "-m", "one", cwd=clone)
    assert re.fullmatch(r"0\.1(\.\d+)?\.dev\d+\+g[0-9a-f]+", version())
    run(*GIT, "tag", "v9.8.7", cwd=clone)
    assert version() == "9.8.7"


def test_the_changelog_tells_of_what_is_to_come_and_of_every_version():
    page = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert titles[0] == "Unreleased"
    for title in titles[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", title)
