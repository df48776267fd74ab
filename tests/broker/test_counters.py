"""A bus's counters, as Prometheus reads them."""

from __future__ import annotations

import re

from broker.account import Account
from broker.counters import exposition

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
