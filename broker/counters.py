"""A bus's counters for Prometheus, in its text format, on a port of this machine.

    curl http://127.0.0.1:9464/metrics

The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4). Numbers
are those of the bus's last beat, at most a second old; nothing here touches what the bus works on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from broker.account import Account

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TIMEOUT_S = 5.0

_PLAIN = (
    ("sent_messages_total", "counter", "Messages that nodes have sent", "sent"),
    ("sent_bytes_total", "counter", "Their bytes, headers of the wire not counted", "sent_bytes"),
    ("duplicated_messages_total", "counter", "Copies that the network has made", "duplicated"),
    ("delivered_messages_total", "counter", "Messages that have arrived", "delivered"),
    ("delivered_bytes_total", "counter", "Their bytes", "delivered_bytes"),
    ("in_flight_messages", "gauge", "Messages that the network holds", "in_flight"),
    ("late_messages_total", "counter", "Messages that went out after their time", "late"),
    ("lag_seconds_max", "gauge", "By how much at worst", "lag_s"),
    ("blocked_senders", "gauge", "Pairs whose sender has to wait for its receiver", "blocked"),
    ("waiting_bytes", "gauge", "Bytes that wait for processes that don't read", "waiting_bytes"),
    ("connections", "gauge", "Processes that have joined", "connections"),
    ("turned_away_total", "counter", "Connections without a key that is known", "turned_away"),
)
_BY_REASON = (
    ("dropped_messages_total", "Messages that were lost", "dropped"),
    ("malformed_frames_total", "Frames that were not readable or not allowed", "malformed"),
)


def exposition(account: Account) -> str:
    """An account as Prometheus reads it."""
    return "\n".join([*_lines(account), ""])


def _lines(account: Account) -> Iterator[str]:
    for name, kind, text, field in _PLAIN:
        yield from _head(name, kind, text)
        yield f"atlas_bus_{name} {getattr(account, field)}"
    for name, text, field in _BY_REASON:
        yield from _head(name, "counter", text)
        counts: Mapping[str, int] = getattr(account, field)
        for reason, count in counts.items():
            yield f'atlas_bus_{name}{{reason="{_escaped(reason)}"}} {count}'


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP atlas_bus_{name} {text}."
    yield f"# TYPE atlas_bus_{name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exporter:
    """Serves what `account` gives on `port` of the loopback interface (0: any free one)."""

    def __init__(self, port: int, account: Callable[[], Account]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] in ("/", "/metrics")
                text = exposition(account()).encode() if found else b"see /metrics\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                """A scrape is no news."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="counters", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_TIMEOUT_S)
