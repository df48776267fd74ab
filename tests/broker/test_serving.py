"""`python -m broker serve` and `keys`, as a person calls them."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from broker import BrokerError, Node, serving, wall
from broker.control import Client
from tests.broker.test_wall import hear, tell

TOPOLOGY = """
name: pair
nodes: {a: {}, b: {}}
links:
  - {between: [a, b], bandwidth: 100 Mbit/s, delay: 20 ms}
"""


def call(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "broker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_bus_is_served_until_it_is_asked_to_stop_and_gives_its_account(tmp_path):
    (tmp_path / "pair.yaml").write_text(TOPOLOGY)
    endpoint = f"ipc://{tmp_path}/bus"
    trace = tmp_path / "trace.parquet"
    server = call(
        "serve", "--topology", str(tmp_path / "pair.yaml"), "--bind", endpoint, "--expect", "2",
        "--http", "0", "--trace", str(trace),
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline().endswith(f"at {endpoint}\n")
        page = server.stdout.readline().split()[-1]
        returned = wall.join(endpoint, {"a": tell, "b": hear})
        assert returned["a"] == ["large", True]
        with urllib.request.urlopen(f"{page}/metrics", timeout=10) as answer:
            assert b"atlas_bus_sent_messages_total" in answer.read()
        state = Client(page).state()
        assert [node.deaths for node in state.nodes] == [0, 0]
        assert {one.what for one in state.happenings} >= {"came", "ended"}
        server.send_signal(signal.SIGTERM)
        said, errors = server.communicate(timeout=60)
    finally:
        server.kill()
        server.communicate()
    assert server.returncode == 0, errors
    assert "7 messages sent, 0 duplicated; 7 delivered, 0 dropped, 0 in flight" in said
    assert trace.exists()
    assert not (tmp_path / "bus").exists()


def test_a_bus_without_trust_says_how_to_get_it(tmp_path):
    (tmp_path / "pair.yaml").write_text(TOPOLOGY)
    server = call(
        "serve", "--topology", str(tmp_path / "pair.yaml"), "--bind", "tcp://0.0.0.0:*"
    )  # fmt: skip
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 1
    assert "python -m broker keys DIR NODE…" in " ".join(errors.split())


async def keep_asking(node: Node) -> list[int]:
    """Asks until an answer comes again after the bus was gone."""
    lives: list[int] = [0]
    while lives[-1] or -1 not in lives:
        try:
            answer = await node.request("b", {}, timeout=0.5)
        except TimeoutError:
            lives = [*lives, -1]  # what was under way when the bus went is lost
        else:
            lives = [*lives, answer.header["life"]]
        await asyncio.sleep(0.05)
    await node.send("b", {"enough": True})
    return lives


async def answer(node: Node) -> None:
    async for message in node:
        if not message.asks:
            return
        await message.reply({"life": node.incarnation})


def test_a_service_that_is_restarted_keeps_its_run(tmp_path, monkeypatch):
    (tmp_path / "pair.yaml").write_text(TOPOLOGY)
    endpoint = f"ipc://{tmp_path}/bus"
    arguments = (
        "serve", "--topology", str(tmp_path / "pair.yaml"), "--bind", endpoint,
        "--state", str(tmp_path / "run.json"), "--http", "0",
    )  # fmt: skip
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(60)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    returned: dict[str, object] = {}

    def live() -> None:
        returned.update(wall.join(endpoint, {"a": keep_asking, "b": answer}))

    programs = threading.Thread(target=live, daemon=True)
    first = second = None
    try:
        first = call(*arguments)
        assert told.recv(1_000).startswith(b"READY=1\nSTATUS=serving pair")
        assert first.stdout is not None
        assert first.stdout.readline().startswith("serving")
        page = first.stdout.readline().split()[-1]
        programs.start()
        while told.recv(1_000) != b"WATCHDOG=1" or not Client(page).state().time_s:
            pass  # until the programs have joined
        fault = Client(page).inject({"degrade": {"nodes": "a", "delay": "+1 ms"}, "id": "mine"})
        run = Client(page).state().run
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0
        second = call(*arguments)
        assert second.stdout is not None
        assert second.stdout.readline().startswith("serving")
        page = second.stdout.readline().split()[-1]
        state = Client(page).state()
        assert state.run == run
        assert [(one.id, one.by_hand) for one in state.faults] == [(fault.id, True)]
        programs.join(60)
        second.send_signal(signal.SIGINT)
        assert second.wait(60) == 0
    finally:
        told.close()
        for server in (first, second):
            if server is not None:
                server.kill()
                server.communicate()
    lives = returned["a"]
    assert isinstance(lives, list)
    assert lives[-1] == 0
    assert set(lives) <= {0, -1}  # nobody was started anew
    assert not (tmp_path / "run.json").exists()  # Ctrl-C ends the run


def test_without_the_extra_the_control_interface_says_what_is_missing(monkeypatch):
    for name in ("aiohttp", "broker.control.api", "broker.control.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(BrokerError, match=r"--http needs aiohttp: .*atlas-emulator\[serve\]"):
        serving._listening("9464", b"")
    serving._listening(None, b"")  # nobody wants it
