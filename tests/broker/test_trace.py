"""The trace of a run: what stands in the file, on the screen, and in Perfetto."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console
from rich.text import Text

import broker
from broker import __main__ as command_line
from broker import timeline, trace
from broker.ledger import FaultEntry, Ledger
from broker.network import Fate
from broker.wire import DATAGRAM, Frame, Kind, pack
from faults import Event

from .worlds import SECOND, network

MS = 1_000_000
ASKS = Frame(Kind.SEND, 0, 1, 1, 0, 0, "asks", pack({"i": 1}), (bytes(1_500),))
CRASH = FaultEntry(2 * SECOND, "1", "crash", "begin", ("b",), "crash b")
PARTITION = FaultEntry(2 * SECOND + 1, "2", "partition", "begin", (), "partition a | b")

Call = Callable[..., tuple[int, str, str]]


def small() -> Ledger:
    """Six messages: one of each fate, one doubled; two faults, of which one ends."""
    ledger = Ledger()

    def send(at_ns: int, source: str, destination: str, **others: object) -> None:
        frame = replace(ASKS, instant_ns=at_ns, **others)
        ledger.sent(source, destination, frame)

    send(0, "a", "b")
    ledger.ended(Fate(1, 12_345_678))
    send(0, "b", "a", purpose="tells", payload=())
    ledger.ended(Fate(2, 12_000_000))
    send(3 * MS, "a", "c", purpose="beats", payload=(), flags=DATAGRAM)
    ledger.ended(Fate(3, 5 * MS, last=False))
    ledger.ended(Fate(3, 9 * MS, "lost", copy=1))
    ledger.fault(CRASH)
    ledger.fault(PARTITION)
    send(2 * SECOND, "a", "b")
    ledger.ended(Fate(4, 2 * SECOND, "destination down"))
    send(2 * SECOND, "c", "c")
    ledger.ended(Fate(5, 2 * SECOND))
    ledger.fault(replace(CRASH, at_ns=7 * SECOND, phase="end", text="end of crash b"))
    send(11 * SECOND, "c", "a")
    ledger.malformed("stranger")
    ledger.check(in_flight=2, duplicated=2)
    return ledger


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The trace of `small`."""
    path = tmp_path / "trace.parquet"
    small().write_parquet(path)
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls `python -m broker` in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "100")

    def calling(*arguments: str | Path) -> tuple[int, str, str]:
        code = 0
        try:
            command_line.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return calling


# The file.


def test_a_trace_has_a_row_for_each_message_copy_and_fault_in_order(file):
    rows = parquet.read_table(file).to_pylist()
    assert [(row["at_ns"], row["number"] or row["text"], row["copy"]) for row in rows] == [
        (0, 1, 0),
        (0, 2, 0),
        (3 * MS, 3, 0),
        (3 * MS, 3, 1),
        (2 * SECOND, "crash b", None),
        (2 * SECOND, 4, 0),
        (2 * SECOND, 5, 0),
        (2 * SECOND + 1, "partition a | b", None),
        (7 * SECOND, "end of crash b", None),
        (11 * SECOND, 6, 0),
    ]


def test_a_row_says_all_that_is_known_of_a_message(file):
    first, copy = (parquet.read_table(file).to_pylist()[place] for place in (0, 3))
    (entry,) = [entry for entry in small() if entry.number == 1]
    nothing = dict.fromkeys(("fault", "kind", "phase", "nodes", "text"))
    assert first == nothing | {
        "what": "message", "at_ns": 0, "ended_ns": 12_345_678, "number": 1, "copy": 0,
        "source": "a", "destination": "b", "purpose": "asks", "delivery": "stream",
        "size_bytes": ASKS.size_bytes, "wire_bytes": ASKS.size_bytes + 2 * 66,
        "fate": "delivered", "content": entry.content,
    }  # fmt: skip
    assert (copy["delivery"], copy["fate"], copy["ended_ns"]) == ("datagram", "lost", 9 * MS)


def test_a_row_says_all_that_is_known_of_a_fault(file):
    row = parquet.read_table(file).to_pylist()[4]
    assert {key: value for key, value in row.items() if value is not None} == {
        "what": "fault", "at_ns": 2 * SECOND, "fault": "1", "kind": "crash", "phase": "begin",
        "nodes": ["b"], "text": "crash b",
    }  # fmt: skip


def test_the_books_balance_in_the_file_too(file):
    found = trace.read(file)
    about = json.loads(parquet.read_schema(file).metadata[b"broker.trace"])
    assert about == {
        "version": 1,
        "digest": small().digest(),
        "copies_in_flight": 1,
        "malformed": {"stranger": 1},
    }
    assert found.fates() == small().fates()
    assert sum(found.fates().values()) + about["copies_in_flight"] == 6 + 2
    assert found.bytes_by_purpose() == small().bytes_by_purpose()


def test_the_columns_are_as_they_are_written_down(file):
    documented = [
        word
        for line in (trace.__doc__ or "").splitlines()
        if line.startswith("    ") and not line.startswith("     ")
        for word in line.strip().split("  ")[0].split(", ")
    ]
    assert sorted(documented) == sorted(parquet.read_schema(file).names)


def test_an_empty_run_has_an_empty_trace(tmp_path):
    Ledger().write_parquet(tmp_path / "trace.parquet")
    found = trace.read(tmp_path)
    assert (len(found.table), found.fates(), found.end_ns, found.nodes()) == (0, {}, 0, ())
    assert timeline.summary(found) == "0 messages"


# The time line.

EXPECTED = """\
 0.000000 s  a → b  asks   1.53 KiB   12.3 ms  delivered
 0.000000 s  b → a  tells      66 B     12 ms  delivered
 0.003000 s  a → c  beats      66 B      2 ms  delivered
 0.003000 s  a → c  beats      66 B      6 ms  lost, a copy
 2.000000 s  ▸ crash b
 2.000000 s  a → b  asks   1.53 KiB       0 s  destination down
 2.000000 s  c → c  asks   1.53 KiB       0 s  delivered
 2.000000 s  ▸ partition a | b
 7.000000 s  ▸ end of crash b
11.000000 s  c → a  asks   1.53 KiB         –  in flight
"""  # noqa: RUF001 - a dash in a column of figures


def test_a_time_line_says_who_sent_what_to_whom_how_long_it_took_and_its_fate(file, call):
    code, out, err = call("trace", file)
    assert (code, err) == (0, "")
    assert out == EXPECTED + (
        "7 messages: 4 delivered, 1 destination down, 1 in flight, 1 lost, "
        "1 more copies in flight; 3 faults\n"
        "on the wire: asks 4.98 KiB, beats 216 B, tells 132 B\n"
    )


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--node", "b"], [1, 2, "crash b", 4, "partition a | b", "end of crash b"]),
        (["--node", "[c-z]"], [3, 3, 5, "partition a | b", 6]),
        (["--purpose", "tells", "--purpose", "bea*", "--to", "1 s"], [2, 3, 3]),
        (["--fate", "lost", "--to", "1 s"], [3]),
        (["--fate", "dropped"], [3, "crash b", 4, "partition a | b", "end of crash b"]),
        (["--from", "3 ms", "--to", "2 s"], [3, 3, "crash b", 4, 5]),
        (["--from", "2.000000001 s"], ["partition a | b", "end of crash b", 6]),
        (["--to", "2 ms", "--node", "a", "--fate", "in flight"], []),
    ],
)
def test_options_let_through_what_they_say(file, call, options, numbers):
    code, out, err = call("trace", file, *options)
    assert (code, err) == (0, "")
    lines = EXPECTED.splitlines()
    rows = [1, 2, 3, 3, "crash b", 4, 5, "partition a | b", "end of crash b", 6]
    words = [" ".join(line.split()) for line in out.splitlines()]
    expected = [" ".join(line.split()) for line in lines]
    shown = [rows[expected.index(line)] for line in words if line in expected]
    assert shown == numbers
    summed = words[len(shown)]
    assert summed.startswith(f"{len([row for row in numbers if isinstance(row, int)])} message")
    assert " of 7" in summed


def test_a_limit_says_how_much_is_left(file, call):
    _, out, _ = call("trace", file, "--limit", "2")
    assert out.splitlines()[2] == "… and 8 more: `--limit 0` shows all"
    assert out.splitlines()[3].startswith("7 messages: ")


def test_a_terminal_gets_colours_and_the_same_words(file):
    told = {}
    for terminal in (True, False):
        colors = "standard" if terminal else "auto"
        console = Console(force_terminal=terminal, width=100, color_system=colors)
        with console.capture() as captured:
            timeline.show(trace.read(file), console)
        told[terminal] = captured.get()
    assert "\x1b[31m" in told[True]
    assert "\x1b" not in told[False]
    assert told[False].startswith(EXPECTED)
    assert Text.from_ansi(told[True]).plain.rstrip() == told[False].rstrip()


def test_what_a_run_did_can_be_read_from_its_trace(tmp_path):
    async def asking(node):
        for _ in range(3):
            await node.send("b", {}, [bytes(100)], purpose="asks")
        await asyncio.sleep(1)

    async def listening(node):
        async for _ in node:
            pass

    crash = Event(at_ns=100 * MS, fault="1", phase="begin", kind="crash", nodes=("b",))
    run = broker.run(
        {"a": asking, "b": listening},
        topology=network("a-b"),
        faults=[crash],
        background=["b"],
    )
    run.ledger.write_parquet(tmp_path / "trace.parquet")
    found = trace.read(tmp_path)
    assert found.about["digest"] == run.digest
    assert found.fates() == {"delivered": 3}
    assert found.faults["text"].to_pylist() == ["crash b"]


def test_the_page_on_the_emulator_shows_what_is_printed(tmp_path, call, monkeypatch):
    """All but the figures, which are the network's business."""
    page = Path(__file__).parents[2] / "docs" / "emulator.md"
    section = page.read_text(encoding="utf-8").split("### Traces\n")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"^```(python|text)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    columns = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks["python"], str(page), "exec"), {"__name__": "example"})
    call()  # what the example has printed
    _, out, _ = call("trace", "trace.parquet")
    assert _without_figures(out) == _without_figures(blocks["text"])
    assert columns == parquet.read_schema("trace.parquet").names


def _without_figures(text: str) -> str:
    return re.sub(
        r" +[\d.]+ (?:[um]?s|[KM]?i?B)\b", " #", re.sub(r"^[\d.]+ s", "#", text, flags=re.M)
    )


# Perfetto.


def exported(file: Path, call: Call, *options: str) -> list[dict[str, object]]:
    out = file.with_name("out.json")
    code, said, err = call("trace", file, "--perfetto", out, *options)
    assert (code, err) == (0, "")
    whole = json.loads(out.read_text(encoding="utf-8"))
    assert f"{out}: {len(whole['traceEvents'])} events" in said
    return whole["traceEvents"]


def test_every_event_has_what_the_format_asks_of_its_phase(file, call):
    for event in exported(file, call):
        asked = {
            "M": {"name", "args"},
            "b": {"name", "cat", "id", "args"},
            "e": {"name", "cat", "id"},
            "X": {"name", "cat", "dur"},
            "s": {"name", "cat", "id"},
            "f": {"name", "cat", "id", "bp"},
        }[event["ph"]] | {"ph", "ts", "pid", "tid"}
        assert event.keys() == asked
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
        if "id" in event:
            assert int(event["id"], 16) > 0


def test_beginnings_and_ends_match_one_to_one(file, call):
    events = exported(file, call)
    for first, last in (("b", "e"), ("s", "f")):
        begun = {event["id"]: event for event in events if event["ph"] == first}
        ended = {event["id"]: event for event in events if event["ph"] == last}
        counts = Counter(event["ph"] for event in events)
        assert begun.keys() == ended.keys()
        assert counts[first] == counts[last] == len(begun) > 0
        for identity, begin in begun.items():
            end = ended[identity]
            assert (begin["cat"], begin["name"]) == (end["cat"], end["name"])
            assert begin["ts"] <= end["ts"]
            if first == "b":
                assert begin["pid"] == end["pid"]


def test_an_arrow_leads_from_a_tick_at_its_sender_to_one_at_its_receiver(file, call):
    events = exported(file, call)
    names = {event["pid"]: event["args"]["name"] for event in events
             if event["name"] == "process_name"}  # fmt: skip
    threads = {event["tid"]: event["args"]["name"] for event in events
               if event["name"] == "thread_name"}  # fmt: skip
    arrows = {}
    for before, event in itertools.pairwise(events):
        if event["ph"] in "sf":
            place = ("pid", "tid", "ts")
            assert before["ph"] == "X"
            assert [before[key] for key in place] == [event[key] for key in place]
            arrows.setdefault(event["id"], []).append(
                (names[event["pid"]], threads[event["tid"]], event["ts"])
            )
    assert list(arrows.values()) == [
        [("a", "sent", 0), ("b", "arrived", 12_345.678)],
        [("b", "sent", 0), ("a", "arrived", 12_000)],
        [("a", "sent", 3_000), ("c", "arrived", 5_000)],
        [("c", "sent", 2e6), ("c", "arrived", 2e6)],
    ]


def test_each_node_is_a_process_and_threads_have_numbers_of_their_own(file, call):
    events = exported(file, call)
    processes = [event["pid"] for event in events if event["name"] == "process_name"]
    threads = [event["tid"] for event in events if event["name"] == "thread_name"]
    assert len(processes) == 3 + 1
    assert len({*processes, *threads}) == len(processes) + len(threads)
    assert {event["pid"] for event in events} == set(processes)


def test_faults_last_from_their_beginning_to_their_end(file, call):
    events = exported(file, call)
    names = {event["pid"]: event["args"]["name"] for event in events
             if event["name"] == "process_name"}  # fmt: skip
    spans = {}
    for event in events:
        if event.get("cat") == "fault":
            spans.setdefault((event["name"], names[event["pid"]]), []).append(event["ts"])
    assert spans == {
        ("crash", "b"): [2e6, 7e6],
        ("partition", "(network)"): [2_000_000.001, 11e6],
    }


def test_what_is_in_flight_ends_with_the_trace_and_says_so(file, call):
    events = exported(file, call, "--fate", "in flight")
    (begin, end) = [event for event in events if event.get("cat") == "message"]
    assert (begin["ts"], end["ts"]) == (11e6, 11e6)
    assert begin["name"] == "asks (in flight)"
    assert begin["args"]["fate"] == "in flight"


# The command line.


def test_the_help_says_what_this_is_to_somebody_who_has_never_heard_of_it(call):
    code, out, _ = call("--help")
    assert code == 0
    for word in ("python -m broker", "network emulator", "asyncio", "broker.run", "trace"):
        assert word in out
    assert "ATLAS" not in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = call("trace", "--help")
    assert code == 0
    for option in ("--node", "--purpose", "--fate", "--from", "--to", "--limit", "--perfetto"):
        assert option in out


def foreign(folder: Path) -> Path:
    path = folder / "other.parquet"
    parquet.write_table(pa.table({"a": [1]}), path)
    return path


def torn(folder: Path) -> Path:
    path = folder / "torn.parquet"
    path.write_bytes((folder / "trace.parquet").read_bytes()[:-200])
    return path


def newer(folder: Path) -> Path:
    path = folder / "newer.parquet"
    table = parquet.read_table(folder / "trace.parquet")
    parquet.write_table(table.replace_schema_metadata({"broker.trace": '{"version": 9}'}), path)
    return path


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda folder: folder / "no.parquet", [], "there is no such file. `atlas run` leaves one"),
        (foreign, [], "not the trace of a run. Give the trace.parquet of a run"),
        (torn, [], "this is no Parquet file, or only a part of one"),
        (newer, [], "this trace has version 9, and 1 is known here. Read it with"),
        (None, ["--node", "d"], '--node: nothing in this trace is called "d"'),
        (None, ["--purpose", "aks"], 'Did you mean "asks"? The purposes here are asks, beats,'),
        (None, ["--fate", "lots"], 'Did you mean "lost"? The fates here are delivered, '),
        (None, ["--from", "3"], '--from: "3" has no unit, and a time needs one'),
        (None, ["--to", "soon"], '--to: "soon" is not a time'),
        (None, ["--perfetto", "no/where.json"], "no/where.json: there is no folder no. Make it"),
        (None, ["--limit", "-1"], "--limit"),
        (None, ["--nodes", "a"], "--node"),
    ],
)
def test_bad_input_is_told_with_its_remedy(file, call, monkeypatch, make, options, said):
    monkeypatch.chdir(file.parent)
    path = make(file.parent) if make else file
    code, out, err = call("trace", path, *options)
    assert code == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_a_trace_is_not_written_over_by_its_export(file, call):
    before = file.read_bytes()
    code, _, err = call("trace", file, "--perfetto", file)
    assert (code, "that is the trace itself" in err) == (2, True)
    assert file.read_bytes() == before


def test_what_the_machine_refuses_is_exit_code_1(file, call, tmp_path):
    code, _, err = call("trace", file, "--perfetto", tmp_path)
    assert code == 1
    assert err == f"error: {tmp_path}: Is a directory\n"


def test_it_is_a_command_and_does_not_mind_a_reader_that_leaves(file):
    shown = subprocess.run(
        f"'{sys.executable}' -m broker trace '{file}' | head -n 1",
        shell=True, capture_output=True, text=True, check=True, timeout=120,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert shown.stdout == EXPECTED.splitlines(keepends=True)[0]
    assert "Traceback" not in shown.stderr
