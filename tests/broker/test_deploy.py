"""The unit file and the container file: what they start is a command that there is."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from broker import serve
from broker.__main__ import app
from broker.control.server import Address
from broker.keys import reaches_beyond

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "deploy" / "atlas-broker.service"
CONTAINER = REPOSITORY / "deploy" / "Containerfile"


def options(words: list[str]) -> dict[str, object]:
    """What `python -m broker serve` makes of these words."""
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return group.commands["serve"].make_context("serve", list(words)).params


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8").replace("\\\n", " "))
    return parser["Service"]


def test_the_unit_starts_a_bus_that_keeps_its_run_and_says_that_it_lives():
    service = unit()
    python, *words = shlex.split(service["ExecStart"])
    assert python.endswith("/python")
    assert words[:3] == ["-m", "broker", "serve"]
    given = options(words[3:])
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) * 10**9 > 3 * (serve.BEAT_NS + serve.LONGEST_WAIT_NS)
    assert str(given["state"]).startswith("%S/" + service["StateDirectory"])
    assert str(given["bind"]).startswith("ipc://%t/" + service["RuntimeDirectory"])
    assert not reaches_beyond(f"tcp://{Address.parse(str(given['http']))}")


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    checker = shutil.which("systemd-analyze")
    if checker is None:
        pytest.skip("no systemd is here")
    text = UNIT.read_text(encoding="utf-8")
    text = text.replace("%h/.local/share/atlas-broker/bin/python", sys.executable)
    (tmp_path / "atlas-broker.service").write_text(text, encoding="utf-8")
    found = subprocess.run(
        [checker, "verify", "--man=no", "--recursive-errors=no", tmp_path / "atlas-broker.service"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "atlas-broker.service" not in found.stderr


def instructions() -> list[tuple[str, str]]:
    text = CONTAINER.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    return [(line[0], line[1]) for line in lines if line and not line[0].startswith("#")]


def test_the_container_has_all_that_it_installs_and_nobody_but_a_user():
    found = instructions()
    ignored = (REPOSITORY / ".containerignore").read_text(encoding="utf-8").split()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    packaging = project["tool"]["setuptools"]
    rooms = [room.rstrip("*") for room in packaging["packages"]["find"]["include"]]
    modules = [f"{name}.py" for name in packaging.get("py-modules", ())]
    wanted = [*rooms, *modules, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"]
    assert ignored[0] == "*"
    for name in wanted:
        assert (REPOSITORY / name).exists()
        assert any(fnmatch(name, pattern) for pattern in allowed), name
    assert ("COPY", ". /source") in found
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert names.index("USER") > names.index("RUN")
    (install,) = [rest for name, rest in found if name == "RUN"]
    (extra,) = re.findall(r"/source\[(\w+)\]", install)
    assert extra in project["project"]["optional-dependencies"]


def test_the_container_starts_a_bus_that_wants_keys_and_a_token():
    found = dict(instructions())
    python, flag, module, command, *words = json.loads(found["ENTRYPOINT"])
    assert (python, flag, module, command) == ("python", "-m", "broker", "serve")
    given = options([*words, *json.loads(found["CMD"])])
    assert reaches_beyond(str(given["bind"]))
    assert given["keys"] is not None
    assert given["token"] is not None
    ports = {str(given["bind"]).rpartition(":")[2], str(given["http"]).rpartition(":")[2]}
    assert ports == set(found["EXPOSE"].split())
    port = str(given["http"]).rpartition(":")[2]
    assert f":{port}/healthz" in found["HEALTHCHECK"]
    assert found["STOPSIGNAL"] == "SIGTERM"
    volumes = json.loads(found["VOLUME"])
    for path in (given["keys"], given["token"], given["state"]):
        assert any(str(path).startswith(f"{volume}/") for volume in volumes)
