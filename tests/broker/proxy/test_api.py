"""Toxiproxy's HTTP API, called as its clients do."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker import proxy
from broker.errors import BrokerError
from broker.proxy import Address, ProxySettings
from tests.broker.proxy.sockets import PAIR, call, everything, serving, swallow

pytest.importorskip("aiohttp", reason="the proxy's API needs aiohttp: pip install '.[serve]'")

Ask = Callable[..., tuple[int, Any]]


class Served:
    """A proxy without routes, its API, and how to ask it."""

    def __init__(self, running: proxy.Running, where: Address) -> None:
        self.running, self.where = running, where

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.where}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                return error.code, json.loads(text)
            except ValueError:
                return error.code, text.decode()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    from broker.proxy.api import Api

    with proxy.running(ProxySettings((), PAIR)) as running:
        api = running.call(lambda: Api(running.proxy))
        where = running.wait(api.open(Address("127.0.0.1", 0)))
        yield Served(running, where)
        running.wait(api.close())


@pytest.fixture
def ask(served: Served) -> Iterator[Served]:
    yield served
    for name in served("GET", "/proxies")[1]:
        assert served("DELETE", f"/proxies/{name}")[0] == 204


def test_a_proxy_is_made_shown_changed_and_taken_away(ask):
    status, made = ask("POST", "/proxies", {"name": "db", "upstream": "127.0.0.1:5432"})
    assert status == 201
    assert made["enabled"] is True
    assert made["toxics"] == []
    assert ask("GET", "/proxies/db") == (200, made)
    assert ask("GET", "/proxies") == (200, {"db": made})
    status, off = ask("PATCH", "/proxies/db", {"enabled": False, "upstream": "127.0.0.1:5433"})
    assert (status, off["enabled"], off["upstream"]) == (200, False, "127.0.0.1:5433")
    assert off["listen"] == made["listen"]
    assert ask("DELETE", "/proxies/db") == (204, None)
    assert ask("GET", "/proxies/db") == (404, {"error": "proxy not found", "status": 404})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/proxies", {"upstream": "x:1"}, 400, "missing required field: name"),
        ("POST", "/proxies", {"name": "a"}, 400, "missing required field: upstream"),
        ("POST", "/proxies", {"name": "db", "upstream": "x:1"}, 409, "proxy already exists"),
        ("POST", "/proxies", {"name": "a", "upstream": "x:1", "lissen": ""}, 400, "lissen"),
        ("POST", "/proxies", {"name": "a", "upstream": "x"}, 400, "no address"),
        ("POST", "/proxies", {"name": "a", "upstream": "x:1", "from": "moon", "to": "shop"}, 400,
         "no node"),
        ("POST", "/proxies", [], 400, "bad request body"),
        ("POST", "/proxies/db/toxics", {"type": "gremlin"}, 400, "invalid toxic type"),
        ("POST", "/proxies/db/toxics", {"type": "latency", "stream": "up"}, 400,
         "stream was invalid"),
        ("POST", "/proxies/db/toxics", {"type": "latency", "attributes": {"latency": "x"}}, 400,
         "latency"),
        ("POST", "/proxies/none/toxics", {"type": "latency"}, 404, "proxy not found"),
        ("DELETE", "/proxies/db/toxics/none", None, 404, "toxic not found"),
        ("POST", "/populate", {"name": "a"}, 400, "list"),
        ("POST", "/populate", [{"name": "a"}], 400, "upstream at proxy 1"),
        ("GET", "/nowhere", None, 404, "404"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_as_toxiproxy_does_and_changes_nothing(
    ask, method, path, body, status, words
):
    _, made = ask("POST", "/proxies", {"name": "db", "upstream": "127.0.0.1:1"})
    answered, said = ask(method, path, body)
    assert answered == status
    assert words in (said if isinstance(said, str) else said["error"])
    assert ask("GET", "/proxies") == (200, {"db": made})


def test_a_toxic_is_made_shown_changed_and_taken_away(ask):
    ask("POST", "/proxies", {"name": "db", "upstream": "127.0.0.1:1"})
    new = {"type": "latency", "attributes": {"latency": 100}, "toxicity": 0.5}
    made = {"name": "latency_downstream", "stream": "downstream", **new,
            "attributes": {"latency": 100, "jitter": 0}}  # fmt: skip
    assert ask("POST", "/proxies/db/toxics", new) == (200, made)
    assert ask("POST", "/proxies/db/toxics", new)[0] == 409
    assert ask("GET", "/proxies/db/toxics/latency_downstream") == (200, made)
    changed = {"attributes": {"jitter": 7}}
    made["attributes"]["jitter"] = 7
    assert ask("PATCH", "/proxies/db/toxics/latency_downstream", changed) == (200, made)
    assert ask("GET", "/proxies/db/toxics") == (200, [made])
    assert ask("DELETE", "/proxies/db/toxics/latency_downstream") == (204, None)
    assert ask("GET", "/proxies/db/toxics") == (200, [])


def test_populate_makes_what_is_not_there_and_reset_opens_all_and_takes_toxics_away(ask):
    wanted = [
        {"name": "one", "upstream": "127.0.0.1:1", "listen": "127.0.0.1:0"},
        {"name": "two", "upstream": "127.0.0.1:2", "enabled": False},
    ]
    status, said = ask("POST", "/populate", wanted)
    assert status == 201
    one = said["proxies"][0]
    wanted[0]["listen"] = one["listen"]
    assert ask("POST", "/populate", wanted[:1])[1]["proxies"] == [one]
    ask("POST", "/proxies/one/toxics", {"type": "timeout"})
    assert ask("POST", "/reset") == (204, None)
    both = ask("GET", "/proxies")[1]
    assert [one["enabled"] for one in both.values()] == [True, True]
    assert both["one"]["toxics"] == []


def test_a_proxy_comes_with_its_toxics_and_its_nodes_so_that_no_client_is_there_before(ask):
    with serving() as server:
        body = {
            "name": "shop", "upstream": str(server.address), "from": "phone", "to": "shop",
            "toxics": [{"type": "latency", "attributes": {"latency": 50}}],
        }  # fmt: skip
        _, made = ask("POST", "/proxies", body)
        assert (made["from"], made["to"]) == ("phone", "shop")
        begun = time.monotonic()
        with call(ask.running) as client:
            client.sendall(b"?")
            assert client.recv(1) == b"?"
        assert time.monotonic() - begun >= 0.04 + 0.05


def test_toxics_act_on_connections_that_are_there_and_stop_when_they_are_gone(ask):
    with serving() as server:
        ask("POST", "/proxies", {"name": "shop", "upstream": str(server.address)})
        with call(ask.running) as client:
            ask("POST", "/proxies/shop/toxics",
                {"name": "late", "type": "latency", "attributes": {"latency": 80}})  # fmt: skip
            begun = time.monotonic()
            client.sendall(b"1")
            assert client.recv(1) == b"1"
            assert time.monotonic() - begun >= 0.08
            ask("PATCH", "/proxies/shop/toxics/late", {"attributes": {"latency": 60_000}})
            client.sendall(b"2")
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(30)
            ask("DELETE", "/proxies/shop/toxics/late")
            assert client.recv(1) == b"2"


@pytest.mark.parametrize(
    ("toxic", "ends"),
    [
        ({"type": "limit_data", "attributes": {"bytes": 3}}, b"abc"),
        ({"type": "timeout", "attributes": {"timeout": 50}}, b""),
        ({"type": "reset_peer", "attributes": {"timeout": 20}}, ConnectionResetError),
        ({"type": "timeout", "toxicity": 0.0, "attributes": {"timeout": 1}}, b"abcdef"),
        ({"type": "slicer", "attributes": {"average_size": 2, "delay": 100}}, b"abcdef"),
        ({"type": "bandwidth", "attributes": {"rate": 1}}, b"abcdef"),
        ({"type": "slow_close", "attributes": {"delay": 30}}, b"abcdef"),
    ],
    ids=str,
)
def test_each_toxic_does_to_a_real_connection_what_its_name_says(ask, toxic, ends):
    with serving() as server:
        body = {"name": "shop", "upstream": str(server.address), "toxics": [toxic]}
        assert ask("POST", "/proxies", body)[0] == 201
        with call(ask.running) as client:
            client.sendall(b"abcdef")
            if ends == b"abcdef":
                client.shutdown(1)
            if isinstance(ends, bytes):
                assert everything(client) == ends
            else:
                with pytest.raises(ends):
                    everything(client)


def test_a_bandwidth_toxic_lets_its_rate_through_and_holds_the_sender_back(ask):
    with serving(swallow) as server:
        toxic = {"type": "bandwidth", "stream": "upstream", "attributes": {"rate": 1_000}}
        ask("POST", "/proxies",
            {"name": "shop", "upstream": str(server.address), "toxics": [toxic]})  # fmt: skip
        with call(ask.running) as client:
            begun = time.monotonic()
            client.sendall(bytes(300_000))
            client.shutdown(1)
            assert everything(client) == b"300000"
            assert time.monotonic() - begun >= 0.3


def test_a_proxy_that_is_off_refuses_and_ends_the_connections_it_had(ask):
    with serving() as server:
        ask("POST", "/proxies", {"name": "shop", "upstream": str(server.address)})
        with call(ask.running) as client:
            client.sendall(b"?")
            assert client.recv(1) == b"?"
            ask("POST", "/proxies/shop", {"enabled": False})
            assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            call(ask.running)
        ask("POST", "/proxies/shop", {"enabled": True})
        with call(ask.running) as client:
            client.sendall(b"!")
            assert client.recv(1) == b"!"


def test_the_api_refuses_browsers_and_other_machines(ask):
    from broker.proxy.api import Api

    request = urllib.request.Request(
        f"http://{ask.where}/version", headers={"User-Agent": "Mozilla/5.0"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=30)
    api = ask.running.call(lambda: Api(ask.running.proxy))
    with pytest.raises(BrokerError, match="no password"):
        ask.running.wait(api.open(Address("0.0.0.0", 0)))
