"""What systemd is told."""

from __future__ import annotations

import socket

from broker.service_manager import notify


def test_the_service_manager_is_told_where_there_is_one(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(str(tmp_path / "notify"))
        here.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1\nSTATUS=serving")
        assert here.recv(1_000) == b"READY=1\nSTATUS=serving"


def test_abstract_names_begin_with_a_sign(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind("")  # Linux chooses one
        here.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + here.getsockname()[1:].decode())
        assert notify("WATCHDOG=1")
        assert here.recv(1_000) == b"WATCHDOG=1"


def test_without_one_nobody_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "tcp:elsewhere")
    assert not notify("READY=1")
