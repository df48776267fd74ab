"""The protocol as `docs/protocol.md` has it: other languages join a bus, and the bytes are so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgpack
import pytest
import zmq

from broker import Node, wall
from broker.wire import Frame, Kind, decode, encode, pack
from tests.broker.harbor import WORD, harbor
from tests.broker.worlds import network

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "protocol.md"
PATH = network("a-b", bandwidth_bps=1e9, delay_s=0.02)


def library() -> list[str]:
    """How to link with libzmq: the one that pyzmq brings along will do."""
    bundled = sorted(Path(zmq.__file__).parents[1].glob("pyzmq.libs/libzmq*.so*"))
    if not bundled:
        return ["-lzmq"]
    folder = bundled[0].parent
    rest = [str(path) for path in sorted(folder.iterdir()) if path != bundled[0]]
    return [str(bundled[0]), *rest, f"-Wl,-rpath,{folder}", "-DWITHOUT_ZMQ_H"]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    program = tmp_path_factory.mktemp("c") / "echo"
    source = REPOSITORY / "docs" / "examples" / "echo.c"
    warnings = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-sign-compare")
    subprocess.run(
        [compiler, *warnings, "-O1", source, *library(), "-o", program], check=True, timeout=120
    )
    return program


async def ask(node: Node) -> tuple[list[object], list[bytes], float]:
    answers = []
    for number in range(3):
        before = node.now
        payload = [b"x" * 1_000, b"y"]
        answers.append(await node.request("b", {"number": number}, payload, timeout=20))
    return (
        [one.header for one in answers],
        [bytes(one) for one in answers[-1].payload],
        node.now - before,
    )


def test_a_program_in_c_joins_and_answers(echo):
    with harbor(PATH, expected=2) as here:
        program = subprocess.Popen([echo, here.endpoint, "b", WORD.decode()])
        try:
            returned = wall.join(here.endpoint, {"a": ask}, word=WORD)
            here.until(lambda: not here.bus.relay.under_way())  # it says what it has taken up
            account = here.close()
            assert program.wait(20) == 0  # it has heard that the run is over
        finally:
            program.kill()
            program.wait()
    headers, payload, took_s = returned["a"]
    assert headers == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert payload == [b"x" * 1_000, b"y"]
    assert took_s >= 0.04  # the way there and back
    assert (account.delivered, account.malformed) == (6, {})


def test_a_program_in_c_that_does_not_know_the_word_is_not_let_in(echo):
    with harbor(PATH) as here:
        program = subprocess.Popen([echo, here.endpoint, "b", "a guess"])
        try:
            here.until(lambda: here.refused().get("wrong word"))
            assert here.bus.relay.connections() == []
        finally:
            program.kill()
            program.wait()


def dumps() -> list[tuple[str, bytes]]:
    """The blocks of hexadecimal bytes on the page, with the line before each."""
    found = re.findall(r"([^\n]+)\n+```hex\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [
        (title, bytes.fromhex(re.sub(r"[|·].*|\s", "", rows, flags=re.MULTILINE)))
        for title, rows in found
    ]


def test_the_bytes_on_the_page_are_those_on_the_wire():
    hello, question, send, deliver, report = [decode([content]) for _, content in dumps()]
    assert hello == [Frame(Kind.HELLO)]
    assert question[0].kind is Kind.HELLO
    assert set(msgpack.unpackb(question[0].body)) == {"question", "run"}
    sent = Frame(
        Kind.SEND, 0, 1, 1, 0, 250_000_000, "greeting", pack({"say": "hello"}), (b"!!!",), 32,
        0x0102030405060708,
    )  # fmt: skip
    assert [encode(send)[0], encode([sent])[0]] == [dumps()[2][1]] * 2
    arrived = Frame(
        Kind.DELIVER, 0, 1, 1, 0, 250_000_000, "greeting", pack({"say": "hello"}), (b"!!!",), 32,
        290_020_000,
    )  # fmt: skip
    assert encode([arrived])[0] == dumps()[3][1] == encode(deliver)[0]
    (said,) = report
    (receipt,) = msgpack.unpackb(said.body)["receipts"]
    assert receipt == [290_100_000, 1, 0, sent.size_bytes, False]
    assert said.due_ns == 0x1112131415161718


def test_the_page_has_every_kind_and_every_flag():
    from broker import wire

    page = PAGE.read_text(encoding="utf-8")
    for kind in Kind:
        assert f"| {int(kind)} | `{kind.name}` |" in page
    for flag in ("DATAGRAM", "HEARTBEAT", "PUBLISH", "ANSWER", "SHARED", "REQUEST"):
        assert f"| {getattr(wire, flag)} | `{flag}` |" in page
    for bound in ("MAX_PACKET_BYTES", "MAX_BODY_BYTES", "MAX_PAYLOAD_BYTES"):
        assert f"{getattr(wire, bound) // 2**20} MiB" in page
