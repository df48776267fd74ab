"""A client of Toxiproxy, as its users have it: the package `toxiproxy-python`, unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from broker import proxy
from broker.proxy import Address, ProxySettings
from tests.broker.proxy.sockets import serving

pytest.importorskip("aiohttp", reason="the proxy's API needs aiohttp: pip install '.[serve]'")
toxiproxy_python = pytest.importorskip(
    "toxiproxy", reason="needs toxiproxy-python (tox installs it)"
)


@pytest.fixture
def client() -> Iterator[Any]:
    from broker.proxy.api import Api

    with proxy.running(ProxySettings()) as running:
        api = running.call(lambda: Api(running.proxy))
        where = running.wait(api.open(Address("127.0.0.1", 0)))
        found = toxiproxy_python.Toxiproxy()
        found.update_api_consumer(*where)
        yield found
        running.wait(api.close())


def ask(made: Any) -> float:
    """How long it takes to be echoed through a proxy."""
    import socket

    host, port = made.listen.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        begun = time.monotonic()
        connection.sendall(b"omg\n")
        assert connection.recv(100) == b"omg\n"
        return time.monotonic() - begun


def test_it_makes_finds_switches_and_destroys_proxies(client):
    from toxiproxy.utils import can_connect_to

    assert client.running()
    assert b"version" in client.version()
    with serving() as server:
        made = client.create(upstream=str(server.address), name="shop")
        host, port = made.listen.split(":")
        assert client.get_proxy("shop").upstream == str(server.address)
        with made.down():
            assert not can_connect_to(host, int(port))
        assert can_connect_to(host, int(port))
        assert client.destroy(made)
        assert client.proxies() == {}


def test_it_adds_toxics_both_ways_finds_them_and_takes_them_away(client):
    with serving() as server:
        made = client.create(upstream=str(server.address), name="shop")
        made.add_toxic(stream="upstream", type="latency", attributes={"latency": 60})
        made.add_toxic(type="latency", attributes={"latency": 40})
        made.add_toxic(type="latency", attributes={"latency": 50}, name="again")
        assert ask(made) >= 0.15
        assert made.get_toxic("again").attributes["latency"] == 50
        made.destroy_toxic("again")
        assert sorted(made.toxics()) == ["latency_downstream", "latency_upstream"]
        client.reset()
        assert made.toxics() == {}


def test_its_errors_are_those_it_expects(client):
    from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

    made = client.create(upstream="127.0.0.1:1", name="shop")
    with pytest.raises(ProxyExists):
        client.create(upstream="127.0.0.1:1", name="shop")
    with pytest.raises(InvalidToxic):
        made.add_toxic(type="latency", stream="sideways")
    with pytest.raises(NotFound):
        made.destroy_toxic("none")


def test_it_populates_and_replaces_what_has_changed(client):
    ports = [proxy.Address("127.0.0.1", 0)] * 2
    made = client.populate(
        [
            {"name": f"shop-{n}", "upstream": "127.0.0.1:1", "listen": str(p)}
            for n, p in enumerate(ports)
        ]
    )
    assert [one.name for one in made] == ["shop-0", "shop-1"]
    changed = {"name": "shop-0", "upstream": "127.0.0.1:2", "listen": made[0].listen}
    client.populate([changed])
    assert client.get_proxy("shop-0").upstream == "127.0.0.1:2"
