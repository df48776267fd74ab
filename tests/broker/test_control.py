"""The control interface of a bus: what it shows, what it does, and whom it lets in."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from broker import control
from broker.control import Client, ControlError
from broker.control.api import application
from broker.control.chronicle import Chronicle
from broker.control.handling import Handling
from broker.control.openapi import document
from broker.control.server import Address, Server
from broker.errors import BrokerError
from broker.standalone import Standing
from tests.broker.harbor import Harbor, both, harbor, letter, messages
from tests.broker.worlds import crash, network

PATH = network("a-b", "b-c", bandwidth_bps=1e9, delay_s=0.002)


@contextlib.contextmanager
def served(token: str = "", **options: object) -> Iterator[tuple[Harbor, Client, str]]:
    chronicle = Chronicle()
    with harbor(PATH, expected=2, observer=chronicle, **options) as here:
        handling = Handling(Standing(here.bus, here.endpoint), chronicle)
        server = Server(application(handling, token.encode()), Address("127.0.0.1", 0))
        try:
            yield here, Client(server.url, token), server.url
        finally:
            server.close()


def ask(url: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_fault_is_injected_strikes_and_is_cleared():
    with served() as (here, client, _):
        both(here)
        fault = client.inject({"crash": "b"})
        assert (fault.id, fault.kind, fault.by_hand, fault.ends_s) == (
            "by-hand-1",
            "crash",
            True,
            None,
        )
        here.until(lambda: here.bus.strikes.conditions.is_up("b") is False)
        assert [(one.id, one.holds) for one in client.faults()] == [("by-hand-1", True)]
        assert client.clear("by-hand-1").cleared == ["by-hand-1"]
        here.until(lambda: here.bus.strikes.conditions.is_up("b"))
        assert client.faults() == []
        state = client.state()
        assert {node.name: (node.state, node.deaths) for node in state.nodes} == {
            "a": ("up", 0), "b": ("up", 1), "c": ("absent", 0)
        }  # fmt: skip
        assert [one.what for one in state.happenings][:2] == ["fault", "death"]


def test_what_is_injected_lasts_as_long_as_it_says_and_begins_when_it_says():
    with served() as (here, client, _):
        both(here)
        later = client.inject({"at": "1 h", "pause": "a", "for": "1 min", "id": "night"})
        assert not later.holds
        assert later.begins_s > 3600
        assert later.ends_s == pytest.approx(later.begins_s + 60)
        assert client.clear("night").cleared == ["night"]
        client.inject({"pause": "a", "for": "100 ms"})
        here.until(lambda: any(one.text == "end of pause a" for one in client.state().happenings))


def test_a_fault_holds_as_long_as_a_block_of_python():
    with served() as (here, client, _):
        both(here)
        with client.fault({"partition": [["a"], ["b"]]}):
            here.until(lambda: here.bus.strikes.conditions.blocked("a", "b"))
        here.until(lambda: not here.bus.strikes.conditions.blocked("a", "b"))


def test_a_row_of_faults_is_cleared_as_one():
    with served() as (here, client, _):
        both(here)
        flap = {"flap": {"link": ["a", "b"], "down": "1 s", "up": "1 s"}, "for": "1 min"}
        assert client.inject(flap).id.startswith("by-hand-1.")
        here.until(lambda: here.bus.strikes.conditions.is_cut("a", "b"))
        assert len(client.clear("by-hand-1").cleared) == 30
        here.until(lambda: not here.bus.strikes.conditions.is_cut("a", "b"))


def test_the_scenarios_own_faults_are_listed_and_can_be_called_off():
    with served(faults=crash("b", 3600)) as (here, client, _):
        both(here)
        (fault,) = client.faults()
        assert (fault.by_hand, fault.holds, fault.begins_s) == (False, False, 3600.0)
        assert client.clear_all().cleared == [fault.id]
        assert here.bus.to_come() == ()
        assert client.clear_all().cleared == []


@pytest.mark.parametrize(
    ("entry", "key", "says"),
    [
        ({"crash": "d"}, "crash", "d"),
        ({"crsh": "a"}, "crsh", "crash"),
        ({"degrade": {"nodes": "a", "loss": "lots"}}, "degrade > loss", "lots"),
        ({"crash": "host of a"}, None, "host of a"),
        ({"trace": {"file": "/etc/passwd", "nodes": "a"}}, "trace", "file"),
        ({"crash": "a", "id": "twice.1"}, "id", "dot"),
    ],
)
def test_a_fault_that_can_not_be_is_refused_with_what_would_be_right(entry, key, says):
    with served() as (here, client, _):
        both(here)
        with pytest.raises(ControlError) as refused:
            client.inject(entry)
        assert refused.value.status == 422
        assert says in str(refused.value)
        if key is not None:
            assert refused.value.said.key == key
        assert here.bus.to_come() == ()


def test_two_faults_never_have_one_id():
    with served() as (here, client, _):
        both(here)
        client.inject({"crash": "c", "id": "mine", "for": "1 ms"})
        with pytest.raises(ControlError, match="can't be called 'mine'"):
            client.inject({"crash": "c", "id": "mine"})
        with pytest.raises(ControlError, match='no fault is called "theirs"'):
            client.clear("theirs")


def test_links_and_queues_show_what_is_on_them():
    with served() as (here, client, _):
        a, b = both(here)
        client.inject({"degrade": {"link": ["a", "b"], "bandwidth": "10 kbit/s"}})
        here.until(lambda: any(link.state == "worse" for link in client.state().links))
        a.send([letter(a, 0, 1, payload=[bytes(50_000)])])
        here.until(lambda: client.state().queues)
        state = client.state()
        (queue,) = state.queues
        assert (queue.source, queue.destination, queue.full) == ("a", "b", False)
        assert queue.waiting_bytes > 50_000
        (link,) = [link for link in state.links if (link.source, link.target) == ("a", "b")]
        assert (link.bandwidth_bps, link.share) == (10_000, 1.0)
        assert link.queue_s > 10
        assert sorted(state.graph) == [("a", "b"), ("b", "c")]
        b.report({"failed": [[b.now_ns(), 1, "Traceback\nValueError: no", ""]]})
        here.until(lambda: any(one.what == "failed" for one in client.state().happenings))


def test_counters_are_served_with_those_of_nodes_and_links():
    with served() as (here, client, url):
        a, b = both(here)
        client.inject({"degrade": {"link": ["a", "b"], "delay": "+50 ms"}})
        here.until(lambda: any(link.state == "worse" for link in client.state().links))
        a.send([letter(a, 0, 1)])
        messages(b, 1)
        here.until(lambda: here.bus.latest.delivered)
        status, body = ask(url, "GET", "/metrics")
        text = body.decode()
        assert status == 200
        assert "atlas_bus_delivered_messages_total 1\n" in text
        assert 'atlas_node_up{node="a"} 1\n' in text
        assert 'atlas_node_up{node="c"} 0\n' in text
        assert 'atlas_link_bandwidth_bps{source="a",target="b"} 1000000000.0\n' in text
        assert "atlas_bus_faults 1\n" in text


def test_with_a_token_only_who_shows_it_is_served():
    with served("a secret") as (_, client, url):
        assert client.state().topology == PATH.name
        for path in ("/v1/state", "/v1/faults", "/metrics"):
            assert ask(url, "GET", path)[0] == 401
            assert ask(url, "GET", path, Authorization="Bearer another")[0] == 401
        assert ask(url, "POST", "/v1/faults", {"crash": "a"})[0] == 401
        assert ask(url, "DELETE", "/v1/faults")[0] == 401
        for path in ("/", "/docs", "/openapi.json", "/healthz"):
            assert ask(url, "GET", path)[0] == 200
        with pytest.raises(ControlError, match="needs the token"):
            Client(url, "another").state()


def test_another_sites_page_can_not_speak_for_its_reader():
    with served() as (_, _, url):
        as_json = {"Content-Type": "application/json"}
        body = {"crash": "a"}
        assert ask(url, "GET", "/v1/state", Host="evil.example")[0] == 403
        assert ask(url, "GET", "/v1/state", Host="127.0.0.1.evil.example:80")[0] == 403
        assert (
            ask(url, "POST", "/v1/faults", body, Origin="http://evil.example", **as_json)[0] == 403
        )
        assert ask(url, "POST", "/v1/faults", body)[0] == 415
        assert ask(url, "POST", "/v1/faults", body, **as_json)[0] == 201
        assert (
            ask(url, "GET", "/v1/state", Host="localhost:1", Origin="http://localhost:1")[0] == 200
        )


def test_what_is_no_call_is_answered_in_json():
    with served() as (_, _, url):
        as_json = {"Content-Type": "application/json"}
        for method, path, body, status in (
            ("GET", "/v2", None, 404),
            ("PUT", "/v1/faults", {}, 405),
            ("POST", "/v1/faults", [], 422),
        ):
            found, said = ask(url, method, path, body, **as_json)
            assert (found, "problem" in json.loads(said)) == (status, True)


def test_pages_need_nothing_from_elsewhere():
    with served() as (_, _, url):
        for path in ("/", "/docs"):
            status, body = ask(url, "GET", path)
            text = body.decode()
            assert status == 200
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in text
            for markup in ("innerHTML", "insertAdjacentHTML", "document.write"):
                assert markup not in text  # names of nodes are nobody's markup


def test_scripts_of_the_pages_can_be_read(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("nobody here reads JavaScript")
    for page in ("live", "docs"):
        text = (Path(control.__file__).parent / "pages" / f"{page}.html").read_text("utf-8")
        (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        (tmp_path / f"{page}.js").write_text(script, encoding="utf-8")
        subprocess.run([node, "--check", tmp_path / f"{page}.js"], check=True, timeout=60)


def test_what_is_said_is_what_the_openapi_document_says():
    said = document()
    assert said["openapi"].startswith("3.1")
    schemas = {"components": said["components"]}

    def checked(name: str, value: object) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", **schemas}
        jsonschema.Draft202012Validator(schema).validate(value)

    with served() as (here, client, url):
        both(here)
        client.inject({"crash": "b", "for": "1 h"})
        here.until(lambda: any(one.holds for one in client.faults()))
        checked("State", json.loads(ask(url, "GET", "/v1/state")[1]))
        checked("Faults", json.loads(ask(url, "GET", "/v1/faults")[1]))
        checked("Problem", json.loads(ask(url, "DELETE", "/v1/faults/x")[1]))
        assert json.loads(ask(url, "GET", "/openapi.json")[1]) == said
    checked("Injection", {"crash": "edge-3", "for": "20 s"})
    checked("Injection", {"at": "1 s", "degrade": {"link": ["a", "b"], "bandwidth": "10 %"}})
    for wrong in ({"crash": "edge-3", "stop": "edge-3"}, {"crash": None}, {"trace": {"file": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            checked("Injection", wrong)


def test_nobody_is_left_waiting_when_the_bus_has_stopped():
    with served() as (here, client, _):
        both(here)
        here.close()
        with pytest.raises(ControlError, match="has stopped"):
            client.state()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "somewhere:80"])
def test_beyond_loopback_it_wants_a_token(address):
    with pytest.raises(BrokerError, match="takes a token"):
        Address.parse(address).demand(b"")
    Address.parse(address).demand(b"token")


def test_addresses_are_ports_or_hosts_with_ports():
    assert Address.parse("9464") == Address("127.0.0.1", 9464)
    assert str(Address.parse("[::1]:9464")) == "[::1]:9464"
    for wrong in ("here", "127.0.0.1", "1:2:x", "99999"):
        with pytest.raises(BrokerError, match="no address"):
            Address.parse(wrong)
    with pytest.raises(BrokerError, match="no address of a bus"):
        Client("127.0.0.1:9464")


def test_an_address_that_is_taken_is_an_error_that_says_so():
    with served() as (_, _, url):
        port = int(url.rpartition(":")[2])
        from aiohttp import web

        with pytest.raises(BrokerError, match="can't listen at"):
            Server(web.Application(), Address("127.0.0.1", port))
