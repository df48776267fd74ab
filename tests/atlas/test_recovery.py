"""Two spans of a chain, real hosts and layers, and faults at the worst of moments.

Moments are taken from the trace of the same run without the fault. Whatever happens, the parameters
that come out are those of the calm run, bit for bit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import broker
import faults
import topologies
from atlas.config import (
    Aggregation,
    Drift,
    Membership,
    Recovery,
    SignatureSettings,
    Split,
    Training,
)
from atlas.models import LoraSettings, ProtocolError, Range, slice_adapter, tensors
from atlas.models.optimizer import FlatAdamW
from atlas.models.tensors import pack
from atlas.protocol import Accepted, Backward, Refused, Tensors, parse
from atlas.roles.candidates import Shunned, Where
from atlas.roles.history import History, Known
from atlas.roles.host import Host
from atlas.roles.pace import Pace
from atlas.roles.settings import RunSettings
from atlas.roles.span import SpanCaller
from broker import Node, Note
from broker.wire import unpack
from topologies import InputError

STEPS, MICROS = 4, 2
HOSTS = ("home", "second", "other", "spare")
NETWORK = topologies.parse(
    """
nodes:
  client: {device: raspberry-pi-5}
  home: {device: raspberry-pi-5}
  second: {device: raspberry-pi-5}
  other: {device: raspberry-pi-5}
  spare: {device: raspberry-pi-5}
  stranger: {}
links:
  - {between: [client, home], bandwidth: 5 Mbit/s, delay: 20 ms}
  - {between: [client, second], bandwidth: 5 Mbit/s, delay: 20 ms}
  - {between: [client, other], bandwidth: 5 Mbit/s, delay: 20 ms}
  - {between: [client, spare], bandwidth: 5 Mbit/s, delay: 20 ms}
  - {between: [stranger, home], bandwidth: 5 Mbit/s, delay: 20 ms}
"""
)
REPLAY = Recovery()
SNAPSHOTS = Recovery(snapshot_every=1)
CLIENT = Recovery(keep="client")
HEDGE = Recovery(hedge=True, snapshot_every=2)
MODES = pytest.mark.parametrize(
    "recovery", [REPLAY, SNAPSHOTS, CLIENT], ids=["replay", "snapshots", "client"]
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings(tiny_folder: Path) -> RunSettings:
    return RunSettings(
        seed=0,
        folder=tiny_folder,
        dtype="float32",
        lora=LoraSettings(rank=2),
        training=Training(rounds=1, steps=STEPS, batch=2, accumulate=MICROS, tokens=16, clip=0.5),
        split=Split(client_layers=1),
        signature=SignatureSettings(),
        aggregation=Aggregation(),
        membership=Membership(),
        drift=Drift(),
        recovery=REPLAY,
        coordinator="client",
        clients=("client",),
        devices=("client", *HOSTS),
    )


def spans(settings: RunSettings) -> tuple[Range, Range]:
    layers = settings.spec.layers
    return Range(1, layers // 2), Range(layers // 2, layers)


async def train(node: Node, settings: RunSettings) -> str:
    """A round without ends: hidden states are drawn, gradients made of what comes back."""
    attempts = itertools.count(node.incarnation << 24)
    pace, shunned = Pace(lambda *_: 0.2), Shunned()
    candidates: list[list[tuple[Where, str]]] = [
        [("plan", "home"), ("neighborhood", "other"), ("elsewhere", "spare")],
        [("plan", "second"), ("neighborhood", "spare"), ("elsewhere", "other")],
    ]
    initial = settings.initial_adapter()
    callers = [
        SpanCaller(
            node,
            span,
            named,
            like=slice_adapter(initial, span),
            pace=pace,
            shunned=shunned,
            attempts=lambda: next(attempts),
            changed=lambda: None,
            recovery=settings.recovery,
            micros=MICROS,
            clips=True,
        )
        for span, named in zip(spans(settings), candidates, strict=True)
    ]
    for caller in callers:
        kept = None
        if settings.recovery.keep == "client":
            shapes = {name: tensor.shape for name, tensor in caller.like.items()}
            kept = FlatAdamW(shapes, caller.like, learning_rate=settings.training.learning_rate)
        await caller.begin(0, Known(0, None), steps=STEPS, kept=kept)
    generator = torch.Generator().manual_seed(7)
    for step in range(STEPS):
        for _ in range(MICROS):
            drawn = torch.randn(2, 8, settings.spec.hidden, generator=generator)
            hidden = pack({"hidden": drawn})
            for caller in callers:
                hidden = await caller.forward(hidden)
            (came,) = tensors.unpack(*hidden).values()
            gradient = pack({"gradient": came / came.norm()})
            for caller in reversed(callers):
                gradient = await caller.backward(gradient)
        total = sum(sum(caller.norms or ()) for caller in callers)
        for caller in callers:
            await caller.commit(1 / (1 + total), settings.training.learning_rate)
        node.note("step", step=step)
        await asyncio.sleep(0.1)
    digest = hashlib.sha256()
    for caller in callers:
        for name, tensor in (await caller.collect()).items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


async def serve(node: Node, settings: RunSettings) -> None:
    """A device that only hosts."""
    host = Host(node, settings)
    async with asyncio.TaskGroup() as group:
        async for message in node:
            try:
                body = parse(message)
            except InputError as error:
                node.note("malformed", source=message.source, problem=str(error))
                continue
            group.create_task(host.serve(message, body))  # type: ignore[arg-type]


async def nobody(_: Node) -> None:
    """Does nothing."""


@dataclasses.dataclass
class Seen:
    """What came out, what was noted, and who sent what to whom when."""

    digest: object
    notes: list[Note]
    sent: list[tuple[float, str, str, dict[str, Any]]]

    def events(self, name: str) -> list[Mapping[str, Any]]:
        return [note.fields for note in self.notes if note.event == name]

    def moment(self, kind: str, to: str, number: int = 0) -> float:
        """When the client sent a host its message `number` of this kind, in ms."""
        found = [
            at_s
            for at_s, source, target, header in self.sent
            if source == "client" and target == to and header.get("kind") == kind
        ]
        return found[number] * 1000


def live(
    settings: RunSettings,
    *scenario: str,
    recovery: Recovery = REPLAY,
    **others: broker.Program,
) -> Seen:
    seen = Seen(None, [], [])
    settings = dataclasses.replace(settings, recovery=recovery)
    programs: dict[str, broker.Program] = {
        "client": functools.partial(train, settings=settings),
        "stranger": nobody,
        **{name: functools.partial(serve, settings=settings) for name in HOSTS},
        **others,
    }
    run = broker.run(
        programs,
        topology=NETWORK,
        faults=faults.parse(f"timeline: [{', '.join(scenario)}]") if scenario else (),
        background=HOSTS,
        observe=seen.notes.append,
        tap=lambda source, to, frame: seen.sent.append(
            (frame.instant_ns / 1e9, source, to, unpack(frame.body))
        ),
        limit_s=3600,
    )
    seen.digest = run.returned["client"]
    return seen


def crash(node: str, at_ms: float, seconds: float = 2.0) -> str:
    return f"{{at: {at_ms:.4f} ms, crash: {node}, for: {seconds} s}}"


@pytest.fixture(scope="module")
def calm(settings: RunSettings) -> Seen:
    return live(settings)


@MODES
def test_who_keeps_the_parameters_and_in_which_snapshots_changes_no_bit(
    settings: RunSettings, calm: Seen, recovery: Recovery
) -> None:
    seen = live(settings, recovery=recovery)

    assert seen.digest == calm.digest
    assert not seen.events("suspected")
    assert not seen.events("malformed")


@MODES
@pytest.mark.parametrize("victim", ["home", "second"])
def test_a_host_that_dies_between_backward_and_commit_is_replaced_by_one_that_commits(
    settings: RunSettings, calm: Seen, recovery: Recovery, victim: str
) -> None:
    """The other span's host has committed the step by then, and so has the client."""
    at = live(settings, recovery=recovery) if recovery != REPLAY else calm
    moment = at.moment("backward", victim, 2 * MICROS - 1) + 180
    if recovery != CLIENT:
        moment = at.moment("commit", victim, 1) + 1
    seen = live(settings, crash(victim, moment), recovery=recovery)

    assert seen.digest == calm.digest
    (repaired,) = seen.events("repaired")
    assert repaired["lost"] == victim
    assert repaired["step"] in (1, 2)
    assert repaired["replayed"] == (0 if recovery != REPLAY else repaired["step"]) or (
        recovery == SNAPSHOTS and repaired["replayed"] == 1  # the last one died with its host
    )
    assert [fields["step"] for fields in seen.events("step")] == list(range(STEPS))


@pytest.mark.parametrize(("kind", "after_ms"), [("backward", 1), ("backward", 25), ("commit", 1)])
def test_a_host_whose_device_takes_its_memory_back_gives_its_client_up_and_changes_no_bit(
    settings: RunSettings, calm: Seen, kind: str, after_ms: float
) -> None:
    moment = calm.moment(kind, "home", 1) + after_ms
    seen = live(settings, f"{{at: {moment:.4f} ms, squeeze: {{nodes: home, memory: 1 KiB}}}}")

    assert seen.digest == calm.digest
    (evicted,) = seen.events("evicted")
    assert (evicted["host"], evicted["client"], evicted["why"]) == ("home", "client", "squeezed")
    (repaired,) = seen.events("repaired")
    assert repaired["lost"] == "home"
    assert not seen.events("malformed")


@MODES
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_a_host_that_dies_in_the_second_micro_batch_of_a_step(
    settings: RunSettings, calm: Seen, recovery: Recovery, kind: str
) -> None:
    moment = calm.moment(kind, "home", MICROS + 1) + 1
    seen = live(settings, crash("home", moment), recovery=recovery)

    assert seen.digest == calm.digest
    assert seen.events("repaired")


@MODES
def test_a_stand_in_that_dies_while_it_is_brought_up_is_replaced_itself(
    settings: RunSettings, calm: Seen, recovery: Recovery
) -> None:
    first = crash("home", calm.moment("forward", "home", 3 * MICROS) + 1, 60)
    once = live(settings, first, recovery=recovery)
    for kind in ("open", "replay") if recovery == REPLAY else ("open",):
        second = crash("other", once.moment(kind, "other") + 1, 60)
        seen = live(settings, first, second, recovery=recovery)

        assert seen.digest == calm.digest
        assert [fields["host"] for fields in seen.events("repaired")] == ["spare"]
        assert [fields["host"] for fields in seen.events("suspected")] == ["home", "other"]


def test_a_host_that_wakes_up_after_it_was_replaced_counts_for_nothing(
    settings: RunSettings, calm: Seen
) -> None:
    asleep = f"{{at: {calm.moment('backward', 'home', 3) + 25} ms, pause: home, for: 4 s}}"
    seen = live(settings, asleep)

    assert seen.digest == calm.digest
    assert [fields["host"] for fields in seen.events("repaired")] == ["other"]


@MODES
def test_a_partition_that_heals_in_the_middle_changes_no_bit(
    settings: RunSettings, calm: Seen, recovery: Recovery
) -> None:
    at_ms = calm.moment("commit", "home", 1) - 30
    cut = f"{{at: {at_ms} ms, partition: [[client, other, spare], [home, second]], for: 2500 ms}}"
    seen = live(settings, cut, recovery=recovery)

    assert seen.digest == calm.digest
    assert {fields["lost"] for fields in seen.events("repaired")} & {"home", "second"}


@MODES
def test_a_client_that_dies_after_some_hosts_have_committed_comes_to_the_same(
    settings: RunSettings, calm: Seen, recovery: Recovery
) -> None:
    moment = calm.moment("commit", "second", 2) + 21
    seen = live(settings, crash("client", moment, 0.5), recovery=recovery)

    assert seen.digest == calm.digest


def test_a_late_host_loses_against_a_stand_in_which_alone_hears_of_the_commit(
    settings: RunSettings, calm: Seen
) -> None:
    at_ms = calm.moment("forward", "home", 2 * MICROS) - 1
    seen = live(
        settings, f"{{at: {at_ms} ms, slow: {{nodes: home, compute: 30000x}}}}", recovery=HEDGE
    )

    assert seen.digest == calm.digest
    hedged = seen.events("hedged")[0]
    assert (hedged["late"], hedged["host"], hedged["step"]) == ("home", "other", 2)
    won_s = next(note.time_s for note in seen.notes if note.event == "hedged")
    later = {
        to for at_s, _, to, header in seen.sent if at_s > won_s and header.get("kind") == "commit"
    }
    assert later == {"other", "second"}
    assert not seen.events("repaired")


def test_a_late_host_wins_against_a_stand_in_that_is_later_still(
    settings: RunSettings, calm: Seen
) -> None:
    at_ms = calm.moment("forward", "home", 2 * MICROS) - 1
    seen = live(
        settings,
        f"{{at: {at_ms} ms, slow: {{nodes: home, compute: 30000x}}, for: 1500 ms}}",
        "{at: 1 ms, slow: {nodes: [other, spare], compute: 100000x}}",
        recovery=HEDGE,
    )

    assert seen.digest == calm.digest
    assert [fields["host"] for fields in seen.events("hedged")] == ["home"]
    assert not seen.events("repaired")


@pytest.mark.parametrize("recovery", [REPLAY, SNAPSHOTS], ids=["replay", "snapshots"])
def test_a_client_goes_home_between_two_steps_where_that_pays(
    settings: RunSettings, calm: Seen, recovery: Recovery
) -> None:
    away = crash("home", calm.moment("commit", "home", 0) + 1, 2.5)
    slow = "{at: 1 ms, slow: {nodes: [other, spare], compute: 8000x}}"
    seen = live(settings, slow, away, recovery=recovery)

    assert seen.digest == calm.digest
    (repaired,), (returned,) = seen.events("repaired"), seen.events("returned")
    assert repaired["host"] == "other"
    assert returned["host"] == "home"
    assert 0 < repaired["step"] < returned["step"] < STEPS


def test_a_snapshot_that_comes_while_a_stand_in_replays_older_steps_disturbs_nobody() -> None:
    """What the stand-in has still to replay is what it began with."""
    calls: list[tuple[str, int]] = []
    history = History(0, Known(0, None), like={}, micros=1, clips=False, kept=None)
    for step in range(3):
        history.send_forward(pack({"hidden": torch.full((1, 1, 1), float(step))}))
        history.send_backward(pack({"gradient": torch.full((1, 1, 1), float(step))}))
        history.committed(1.0)

    class Recording:
        async def open(self, _round: int, step: int, *_: object) -> None:
            calls.append(("open", step))

        async def replay(self, step: int, *_: object) -> None:
            calls.append(("replay", step))
            history.keep(Known(2, {}))

    asyncio.run(history.bring(Recording()))  # type: ignore[arg-type]
    asyncio.run(history.bring(Recording()))  # type: ignore[arg-type]

    assert calls == [
        *[("open", 0), ("replay", 0), ("replay", 1), ("replay", 2)],
        *[("open", 2), ("replay", 2)],
    ]


def test_a_host_takes_each_message_in_the_states_it_belongs_to_and_refuses_it_in_others(
    settings: RunSettings,
) -> None:
    """The whole table of a session: what is sent, and whether it is accepted."""
    settings = dataclasses.replace(
        settings, training=settings.training.model_copy(update={"clip": None})
    )
    first, last = spans(settings)[0].first, spans(settings)[0].last
    hidden = torch.ones(1, 4, settings.spec.hidden)
    table: list[tuple[str, bool]] = [
        ("forward 1 0 0", False),  # before it is open
        ("alive? 1 0", False),
        ("room? 0 0", True),
        ("open 1 0", True),
        ("open 1 0", False),  # twice
        ("open 0 0", False),  # an attempt that was given up
        ("alive? 1 0", True),
        ("alive? 0 0", False),
        ("backward 1 0 0", False),  # nothing went forward
        ("snapshot? 1 0", True),
        ("sketch 1 0", False),
        ("forward 1 1 0", False),  # of a step that it is not at
        ("forward 1 0 1", False),  # the second micro-batch before the first
        ("forward 1 0 0", True),
        ("forward 1 0 0", True),  # the step begins again
        ("backward 1 0 1", False),
        ("backward 1 0 0", True),
        ("backward 1 0 0", False),  # twice
        ("commit 1 0", False),  # half of the step is missing
        ("forward 1 0 1", True),
        ("commit 1 0", False),
        ("backward 1 0 1", True),
        ("commit 0 0", False),  # of an older attempt
        ("commit 1 1", False),  # of another step
        ("commit 1 0", True),
        ("commit 1 0", False),  # twice
        ("collect 1 0", False),
        ("replay 1 1 0", True),
        ("replay 1 1 1", True),  # with the commit
        ("replay 1 1 1", False),
        ("collect 1 2", True),
        ("close 0 0", False),  # of an older attempt
        ("collect 1 2", True),
        ("open 5 0", True),  # a client that came back; its session of before is gone
        ("collect 1 2", False),
        ("close 7 0", True),
        ("collect 5 0", False),
        ("open 6 0", False),  # closed before it came
        ("open 8 0", True),
    ]

    def request(line: str) -> tuple[dict[str, object], list[memoryview]]:
        kind, attempt, step, *micro = line.split()
        header: dict[str, object] = {
            "kind": kind, "attempt": int(attempt), "first": first, "last": last, "step": int(step)
        }  # fmt: skip
        payload: list[memoryview] = []
        if micro:
            header["micro"] = int(micro[0])
            names = {"forward": ["hidden"], "backward": ["gradient"]}
            sent = dict.fromkeys(names.get(kind, ["hidden", "gradient"]), hidden)
            header["manifest"], payload = pack(sent)
        more: dict[str, dict[str, object]] = {
            "open": {"round": 0, "manifest": None},
            "sketch": {"dimensions": 8},
            "commit": {"scale": 1.0},
            "replay": {"scale": 1.0 if micro == ["1"] else None},
        }
        return header | more.get(kind, {}), payload

    async def asker(node: Node) -> list[tuple[str, bool]]:
        found = []
        version = {1: 0}

        async def committed(attempt: int, step: int) -> bool:
            header, _ = request(f"collect {attempt} {step}")
            reply = await node.request("home", header, timeout=50)
            return not isinstance(parse(reply), Refused)

        for line, _ in table:
            header, payload = request(line)
            kind, attempt, *_ = line.split()
            if kind == "commit":
                before = await committed(1, version[1])
                await node.send("home", header, payload)
                done = not await committed(1, version[1])
                version[1] += done
                found.append((line, before and done))
            elif kind == "close":
                await node.send("home", header, payload)
                found.append((line, not await committed(5, 0) and attempt != "0"))
            else:
                reply = await node.request("home", header, payload, timeout=50)
                found.append((line, not isinstance(parse(reply), Refused)))
        return found

    run = live_with(settings, asker)
    assert run == table


def live_with(settings: RunSettings, program: broker.Program) -> object:
    """What a program in place of the client returns beside one host."""
    run = broker.run(
        {
            "client": program,
            "home": functools.partial(serve, settings=settings),
            "stranger": nobody,
        },
        topology=NETWORK,
        background=["home"],
        limit_s=3600,
    )
    return run.returned["client"]


def test_strangers_and_what_they_send_disturb_no_host(settings: RunSettings, calm: Seen) -> None:
    state = {"attempt": 0, "first": 1, "last": 3, "step": 0}
    manifest, payload = pack({"hidden": torch.ones(1, 4, settings.spec.hidden)})
    wide, wide_payload = pack({"hidden": torch.ones(1, 4, 3)})
    long, long_payload = pack({"hidden": torch.ones(1, 300, settings.spec.hidden)})

    async def stranger(node: Node) -> list[str]:
        plain: list[dict[str, Any]] = [
            {},
            {"kind": "dance"},
            {"kind": "open", **state, "round": 0, "manifest": None},
            {"kind": "forward", **state, "micro": 0, "manifest": manifest},
            {"kind": "hello"},
            {"kind": "commit", **state, "scale": 1.0},
            {"kind": "commit", **{**state, "last": 0}, "scale": 1.0},
            {"kind": "commit", **{**state, "attempt": -1}, "scale": 1.0},
            {"kind": "close", **state},
        ]
        for header in plain:
            await node.send("home", header)
        asked: list[tuple[dict[str, Any], list[memoryview]]] = [
            ({"kind": "open", **{**state, "last": 1000}, "round": 0, "manifest": None}, []),
            ({"kind": "open", **state, "attempt": 2, "round": 0, "manifest": [{}]}, []),
            ({"kind": "open", **state, "attempt": 3, "round": 0, "manifest": manifest}, payload),
            ({"kind": "open", **state, "attempt": 4, "round": 0, "manifest": None}, []),
            ({"kind": "forward", **state, "attempt": 4, "micro": 0, "manifest": []}, []),
            (
                {"kind": "forward", **state, "attempt": 4, "micro": 0, "manifest": wide},
                wide_payload,
            ),
            (
                {"kind": "forward", **state, "attempt": 4, "micro": 0, "manifest": long},
                long_payload,
            ),
            ({"kind": "forward", **state, "attempt": 4, "micro": 0, "manifest": manifest}, []),
        ]
        return [
            str((await node.request("home", header, part, timeout=60)).header["kind"])
            for header, part in asked
        ]

    answers: list[list[str]] = []

    async def noted(node: Node) -> None:
        answers.append(await stranger(node))

    seen = live(settings, stranger=noted)

    assert seen.digest == calm.digest
    assert answers == [["refused"] * 3 + ["accepted"] + ["refused"] * 4]
    problems = [fields for fields in seen.events("malformed") if fields["source"] == "stranger"]
    assert len(problems) >= 11


@pytest.mark.parametrize("wrong", ["kind", "shape", "manifest", "plain"])
def test_a_host_that_answers_nonsense_is_given_up_and_told_of(
    settings: RunSettings, calm: Seen, wrong: str
) -> None:
    async def nonsense(node: Node) -> None:
        async for message in node:
            if message.header["kind"] in ("commit", "close"):
                continue
            if message.header["kind"] != "forward":
                await message.reply(Accepted().header())
                continue
            manifest, payload = pack({"hidden": torch.ones(1, 2, 3)})
            body: dict[str, Any] = {
                "kind": Accepted().header(),
                "shape": Tensors(manifest=manifest).header(),
                "manifest": Tensors(manifest=[{"name": 1}]).header(),
                "plain": {"what": "ever"},
            }[wrong]
            await message.reply(body, payload if wrong == "shape" else ())

    seen = live(settings, home=nonsense)

    assert seen.digest == calm.digest
    assert [fields["source"] for fields in seen.events("malformed")] == ["home"]
    assert [fields["host"] for fields in seen.events("repaired")] == ["other"]


def refusing(patch: pytest.MonkeyPatch, *hosts: str) -> None:
    """These hosts take sessions on and refuse each backward."""
    answer = Host._answer

    async def no(host: Host, message: broker.Message, hosted: Any, request: Any) -> None:
        if host._node.name in hosts and isinstance(request, Backward):
            raise ProtocolError("not with me")
        await answer(host, message, hosted, request)

    patch.setattr(Host, "_answer", no)


def test_a_host_that_refuses_for_ever_what_it_took_on_is_left_for_another(
    settings: RunSettings, calm: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "home")
    seen = live(settings)

    assert seen.digest == calm.digest
    assert {fields["host"] for fields in seen.events("refused")} == {"home"}
    assert seen.events("repaired")[0]["lost"] == "home"


def test_where_all_hosts_refuse_the_same_request_the_run_ends_and_says_why(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, *HOSTS)
    with pytest.raises(Exception, match=r"all hosts of layers .* refuse .* spare: not with me"):
        live(settings)


def test_a_clock_that_is_set_two_days_ahead_ends_no_patience(
    settings: RunSettings, calm: Seen
) -> None:
    at = calm.moment("backward", "home", MICROS)
    seen = live(
        settings,
        *(crash(host, at, 5.0) for host in HOSTS),
        f"{{at: {at + 3000:.4f} ms, skew: {{nodes: client, offset: 48 h}}, for: 1 min}}",
    )

    assert seen.digest == calm.digest


def test_after_the_first_that_fails_all_others_are_asked_for_room_together(
    settings: RunSettings, calm: Seen
) -> None:
    at = calm.moment("backward", "home", MICROS)
    seen = live(settings, crash("home", at, 60.0), crash("other", at, 60.0))

    assert seen.digest == calm.digest
    again = [seen.moment("room?", "spare"), seen.moment("room?", "home", 1)]
    assert again[0] == pytest.approx(again[1], abs=1.0)
    assert again[0] > seen.moment("room?", "other")
