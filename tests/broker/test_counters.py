"""A bus's counters, as Prometheus reads them."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest

from broker.account import Account
from broker.counters import Exporter, exposition
from tests.broker.harbor import both, harbor, letter, messages

ACCOUNT = Account(
    sent=10,
    sent_bytes=1_000,
    duplicated=1,
    delivered=7,
    delivered_bytes=700,
    dropped={"lost": 2, 'a "reason"\\': 1},
    in_flight=1,
    malformed={"wrong word": 3},
    late=2,
    lag_s=0.25,
    blocked=1,
    waiting_bytes=5,
    connections=2,
    turned_away=4,
)
LINE = re.compile(r'atlas_bus_\w+(\{reason="(\\.|[^"\\])*"\})? [0-9.e+-]+')


def test_every_line_is_one_that_prometheus_reads():
    lines = exposition(ACCOUNT).splitlines()
    samples = [line for line in lines if not line.startswith("# ")]
    assert all(LINE.fullmatch(line) for line in samples)
    assert "atlas_bus_sent_messages_total 10" in samples
    assert 'atlas_bus_dropped_messages_total{reason="lost"} 2' in samples
    assert 'atlas_bus_dropped_messages_total{reason="a \\"reason\\"\\\\"} 1' in samples
    assert 'atlas_bus_malformed_frames_total{reason="wrong word"} 3' in samples
    assert exposition(ACCOUNT).endswith("\n")
    for line in samples:
        name = line.split("{")[0].split(" ")[0]
        assert f"# TYPE {name} " in exposition(ACCOUNT)


def test_counters_are_served_on_loopback_while_the_bus_runs():
    with harbor(expected=2) as here:
        a, b = both(here)
        exporter = Exporter(0, lambda: here.bus.latest)
        a.send([letter(a, 0, 1)])
        messages(b, 1)
        here.until(lambda: here.bus.latest.delivered)
        address = f"http://127.0.0.1:{exporter.port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "atlas_bus_delivered_messages_total 1\n" in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError) as other:
            urllib.request.urlopen(f"{address}/secrets", timeout=10)
        other.value.close()
        exporter.close()
