"""Coordinators and aggregators that are lost, clients that come late: the adapters stay."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from atlas import assets, config, experiment
from atlas.experiment import Prepared
from atlas.models import AdapterState
from atlas.models.tensors import Packed, pack
from atlas.protocol import Accepted, Over, Signature, Update
from atlas.roles import device as train
from atlas.roles.host import Host
from atlas.roles.member import Member
from broker import Message, Node
from tests.atlas.test_life import Life, Quiet, assert_same_adapters, figures, live

SETTINGS = (
    "training.rounds=2", "training.steps=1", "examples_per_client=8",
    "held_out=4", "faults=none",
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def prepare(*changes: str) -> Prepared:
    return experiment.prepare(config.load("tiny", [*SETTINGS, *changes]), Quiet())


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    assets.forbid_hub()
    return prepare()


@pytest.fixture(scope="module")
def calm(prepared: Prepared) -> Life:
    return live(prepared)


def when(life: Life, event: str, which: int = 0) -> str:
    """The instant of a note, as a scenario has it."""
    return f"{round(life.events(event)[which].time_s * 1e6)} us"


def struck(at: str, what: str) -> str:
    return f"name: struck\ntimeline: [{{at: {at}, {what}}}]"


@pytest.mark.parametrize(("moment", "back"), [("first", ""), ("signature", ", for: 2 s")])
def test_the_coordinator_dies_for_ever_or_for_a_while_and_no_bit_changes(
    prepared: Prepared, calm: Life, moment: str, back: str
) -> None:
    at = "1 ms" if moment == "first" else when(calm, moment)
    life = live(prepared, struck(at, f"crash: coordinator{back}"))

    elected = life.events("elected")
    assert [note.fields["term"] for note in elected] == [2]
    assert (elected[0].node == "coordinator") == bool(back)
    assert life.events("finished")[0].node == elected[0].node
    assert figures(prepared, life).steps_lost == 0
    assert_same_adapters(life.trained, calm.trained)


def test_hosts_that_come_late_are_waited_for_where_the_others_have_no_room(
    prepared: Prepared, calm: Life
) -> None:
    life = live(prepared, struck("0 s", "crash: role=host, for: 310 s"))

    assert life.events("paired")[0].time_s > 310
    assert_same_adapters(life.trained, calm.trained)


def test_who_is_cut_off_with_the_coordinator_finishes_its_round_and_goes_no_further(
    prepared: Prepared, calm: Life
) -> None:
    cut = "partition: [[coordinator, client-0, client-1], [others]], for: 40 s"
    life = live(prepared, struck(when(calm, "neighborhoods"), cut))
    healed_s = next(note.time_s for note in life.events("fault") if note.fields["phase"] == "end")

    elected = life.events("elected")
    assert [note.fields["term"] for note in elected] == [2]
    assert elected[0].node not in ("coordinator", "client-0", "client-1")
    assert elected[0].time_s < healed_s
    for note in life.events("step"):
        if note.fields["client"] in ("client-0", "client-1") and note.time_s < healed_s:
            assert note.fields["round"] == 0
    assert_same_adapters(life.trained, calm.trained)


def test_an_aggregator_that_is_gone_for_long_is_replaced_and_counts_no_more(
    prepared: Prepared, calm: Life
) -> None:
    first = calm.events("aggregated")[0].fields
    gone = f"crash: {first['aggregator']}, for: 5 min"
    life = live(prepared, struck(when(calm, "aggregated"), gone))

    terms = {note.fields["neighborhood"]: note.fields["term"] for note in life.events("replaced")}
    assert_same_adapters(life.trained, calm.trained)
    members = len(first["clients"])
    assert terms == ({first["neighborhood"]: 2} if members > 1 else {})


def test_at_the_end_neither_the_coordinator_nor_an_aggregator_is_needed_any_more(
    prepared: Prepared, calm: Life
) -> None:
    """The aggregator dies when another member has what it merged, and never comes back."""
    last = max(
        (note for note in calm.events("aggregated") if len(note.fields["clients"]) > 1),
        key=lambda note: note.time_s,
    )
    scenario = f"""
    name: end
    timeline:
      - {{at: {round((last.time_s + 0.15) * 1e6)} us, crash: {last.fields["aggregator"]}}}
      - {{at: {round(last.time_s * 1e6)} us, crash: coordinator, for: 200 ms}}
    """
    life = live(prepared, scenario)

    assert [note.node for note in life.events("elected")] == ["coordinator"]
    assert_same_adapters(life.trained, calm.trained)


def test_coordinator_and_aggregators_die_together_and_no_bit_changes(
    prepared: Prepared, calm: Life
) -> None:
    scenario = f"""
    name: both
    timeline:
      - {{at: {when(calm, "step")}, crash: the elected aggregators, for: 2 min}}
      - {{at: {when(calm, "step")}, crash: coordinator}}
    """
    life = live(prepared, scenario)

    assert life.events("elected")
    assert_same_adapters(life.trained, calm.trained)


def test_a_client_that_comes_late_is_placed_and_trains_from_the_next_round_on() -> None:
    early = prepare("membership.wait=1 s", "training.rounds=4")
    life = live(early, struck("2 s", "join: client-3"))

    placed = life.events("placed")
    assert [note.fields["client"] for note in placed] == ["client-3"]
    assert life.events("left out")[0].fields["clients"] == ["client-3"]
    rounds = sorted(
        note.fields["round"] for note in life.events("step") if note.fields["client"] == "client-3"
    )
    assert rounds == list(range(placed[0].fields["round"], 4))
    for note in life.events("aggregated"):
        inside = note.fields["neighborhood"] == placed[0].fields["neighborhood"]
        late = note.fields["round"] >= placed[0].fields["round"]
        assert ("client-3" in note.fields["clients"]) == (inside and late)


def test_where_the_late_are_dropped_the_trace_says_who_and_the_others_go_on(calm: Life) -> None:
    dropping = prepare("membership.late=drop")
    group = max((note.fields["clients"] for note in calm.events("aggregated")), key=len)
    aggregators = {note.fields["aggregator"] for note in calm.events("aggregated")}
    late = next(client for client in group if client not in aggregators)
    life = live(dropping, struck(when(calm, "step"), f"crash: {late}, for: 10 min"))

    dropped = {(note.fields["round"], *note.fields["clients"]) for note in life.events("dropped")}
    assert (0, late) in dropped or (1, late) in dropped
    assert life.trained.run.virtual_seconds < 600.0
    for note in life.events("aggregated"):
        if (note.fields["round"], late) in dropped:
            assert late not in note.fields["clients"]


def test_what_nobody_would_send_ends_no_program(prepared: Prepared, calm: Life) -> None:
    """Hellos without a question, requests for others, requests of strangers: all by one host."""

    async def rude(node: Node, **given: object) -> object:
        over = Over(neighborhood="neighborhood-9", round=99, office=7, present=["nobody"])
        for name in ("coordinator", "client-1", "host-1"):
            for header in ({"kind": "hello"}, {}, over.header(), Accepted().header()):
                await node.send(name, header)
            for header in (
                over.header(),
                {"kind": "merged?", "neighborhood": "neighborhood-0", "round": 7},
            ):
                task = node.request(name, header, timeout=3.0)
                node._loop.create_task(_ignored(task))
        return await train(node, **given)  # type: ignore[arg-type]

    async def one(node: Node, **given: object) -> object:
        return await (rude if node.name == "host-11" else train)(node, **given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "device", one)
        life = live(prepared)

    assert {note.node for note in life.events("malformed")} >= {"coordinator", "client-1", "host-1"}
    assert_same_adapters(life.trained, calm.trained)


def test_what_is_well_formed_and_not_theirs_to_send_ends_no_program(
    prepared: Prepared, calm: Life
) -> None:
    """A host that claims to have text and a signature, a member that hands in half of an adapter,
    and a host whose answer is in its codec by its size alone.
    """
    settings, handed, answered = prepared.settings, list[str](), list[str]()
    hand_in, answer = Member.hand_in, Host._send
    members = calm.events("neighborhoods")[0].fields["members"].values()
    liar = next(iter(members))[-1]

    async def half(member: Member, number: int, adapter: AdapterState, *rest: object) -> object:
        name = member._node.name
        if name == liar and not handed:
            handed.append(name)
            few = pack(dict(list(adapter.items())[::2]))
            await member.ask_office(
                member.neighborhood,
                lambda office: Update(
                    neighborhood=member.neighborhood,
                    round=number,
                    office=office.term,
                    manifest=few.manifest,
                ),
                few.buffers,
            )
        return await hand_in(member, number, adapter, *rest)  # type: ignore[arg-type]

    async def broken(host: Host, message: Message, packed: Packed, **norms: object) -> None:
        if not answered:
            answered.append(host._node.name)
            packed = Packed(packed.manifest, [b"\xff" * len(part) for part in packed.buffers])
        await answer(host, message, packed, **norms)  # type: ignore[arg-type]

    async def one(node: Node, **given: object) -> object:
        if node.name == "host-11":
            hello = {"kind": "hello", **calm.events("registered")[0].fields, "examples": 5}
            sign = Signature(dimensions=settings.signature.dimensions).header()
            for header, payload in ((hello, []), (sign, [bytes(512)])):
                asked = node.request("coordinator", header, payload, timeout=3.0)
                node._loop.create_task(_ignored(asked))
        return await train(node, **given)  # type: ignore[arg-type]

    coarse = dataclasses.replace(settings, codecs=dict.fromkeys(settings.clients, "int8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "device", one)
        patch.setattr(Member, "hand_in", half)
        patch.setattr(Host, "_send", broken)
        life = live(dataclasses.replace(prepared, settings=coarse))

    assert handed
    assert answered
    sources = {note.fields["source"] for note in life.events("malformed")}
    assert sources == {"host-11", liar, *answered}
    assert figures(prepared, life).steps_lost == 0


async def _ignored(asked: object) -> None:
    with contextlib.suppress(TimeoutError):
        await asked  # type: ignore[misc]
