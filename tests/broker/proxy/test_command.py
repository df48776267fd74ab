"""`python -m broker proxy`, as a person calls it and as its page shows it."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from broker import __main__ as command_line
from broker import proxying
from tests.broker.proxy.sockets import everything, serving

PAGE = Path(__file__).parents[3] / "docs" / "proxy.md"
NETWORK = """
name: pair
nodes: {phone: {}, shop: {}}
links: [{between: [phone, shop], bandwidth: 10 Mbit/s, delay: 5 ms}]
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "broker", "proxy", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_proxy_serves_until_it_is_asked_to_stop_and_gives_its_account(tmp_path):
    (tmp_path / "pair.yaml").write_text(NETWORK)
    (tmp_path / "bad.yaml").write_text(
        "name: bad\ntimeline: [{at: 50 ms, partition: [[phone], [shop]], for: 100 ms}]"
    )
    with serving() as server:
        process = start(
            "--topology", str(tmp_path / "pair.yaml"), "--faults", str(tmp_path / "bad.yaml"),
            "--route", f"phone@127.0.0.1:0=shop@{server.address}",
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("phone at 127.0.0.1:")
            assert said.endswith(f"shop at {server.address}\n")
            port = int(said.split(" → ")[0].rpartition(":")[2])
            assert process.stdout.readline() == "ready\n"
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                assert everything(client) == b"hello"
            assert "0.050 s  partition phone | shop" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, errors
    assert "1 connections, 0 refused by the server, 0 reset; 10 bytes taken, 10 handed on" in rest


def test_without_anything_to_listen_for_it_says_what_to_give():
    process = start()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Give a --route" in " ".join(errors.split())


def _commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[4:] for words in lines if words[:4] == ["python", "-m", "broker", "proxy"]]


@pytest.mark.parametrize("arguments", _commands(), ids=shlex.join)
def test_every_command_of_the_page_can_be_given(arguments, tmp_path, monkeypatch):
    for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        name, _, content = text.partition("\n")
        (tmp_path / name.removeprefix("# ")).write_text(content)
    monkeypatch.chdir(tmp_path)
    group = get_command(command_line.app)
    assert isinstance(group, typer.core.TyperGroup)
    given = group.commands["proxy"].make_context("proxy", list(arguments)).params
    settings = proxying.settings_of(**given)
    assert settings.routes or settings.api is not None


def test_the_page_has_commands():
    assert len(_commands()) >= 3
