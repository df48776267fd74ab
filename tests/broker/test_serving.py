"""`python -m broker serve` and `keys`, as a person calls them."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

from broker import wall
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
