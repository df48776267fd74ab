"""What holds of the whole network whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.network import Fate, Network
from faults import Conditions, Event
from tests.broker.worlds import SECOND, STEADY, crash, degrade, network, partition
from topologies import Link, Node, Topology, Transport

MS = SECOND // 1_000
NODES = ("a", "b", "c", "d")
FAULTS = (
    crash("c", 0.4, 1.2),
    crash("hub", 0.9, 1.6, fault="hub"),
    degrade("a", "hub", 0.1, 0.2, 1.4),
    partition(["a", "b"], ["d"], 0.5, 1.1),
    crash("a", 0.8, 1.0, fault="a"),
    crash("d", 1.0, 1.3, fault="d"),
)


@st.composite
def lives(draw: st.DrawFn):
    """A network, and sends and faults on it as (at_ns, what)."""
    lossy = draw(st.booleans())
    law = draw(st.sampled_from(["reno", "cubic"]))
    trouble = (
        {"loss": 0.1, "burst": 2.0, "jitter_s": 0.004, "duplicate": 0.1, "corrupt": 0.05,
         "reorder": 0.2, "queue_bytes": 20_000, "jitter_shape": "paretonormal"}
        if lossy
        else {"medium": draw(st.sampled_from(["", "air"]))}
    )  # fmt: skip
    up_bps = draw(st.sampled_from([8e6, 80e6]))
    links = [
        Link(source=a, target=b, bandwidth_bps=bps, delay_s=0.01, **trouble)
        for node in NODES
        for a, b, bps in ((node, "hub", up_bps), ("hub", node, 8e6))
    ]
    names = [Node(name=name) for name in (*NODES, "hub")]
    topology = Topology.of("small", names, links, Transport(congestion=law))
    pair = st.sampled_from([(s, d) for s in NODES for d in NODES if s != d])
    send = st.tuples(st.integers(0, 2_000), pair, st.integers(0, 200_000), st.booleans())
    sends = sorted(draw(st.lists(send, max_size=25)))
    steps: list[tuple[int, int, object]] = [
        (ms * MS, number, (number, *ends, min(size, 65_507) if datagram else size, datagram))
        for number, (ms, ends, size, datagram) in enumerate(sends, start=1)
    ]
    for i in sorted(draw(st.sets(st.integers(0, len(FAULTS) - 1)))):
        steps += [(event.at_ns, 0, event) for event in FAULTS[i]]
    return topology, [(at_ns, step) for at_ns, _, step in sorted(steps, key=lambda s: s[:2])]


def play(topology: Topology, steps, *, pause_ns: int | None = None, early: bool = False):
    """All fates, in order. `pause_ns` asks for them in steps of that; `early` asks for arrivals
    ahead of their time.
    """
    model = Network(topology, 3)
    conditions = Conditions()
    ended: list[Fate] = []
    sent = 0
    now_ns = 0
    for at_ns, step in steps:
        while pause_ns and now_ns + pause_ns < at_ns:
            now_ns += pause_ns
            ended += model.advance(now_ns)
        if isinstance(step, Event):
            begins = step.phase == "begin"
            conditions = conditions.begin(step) if begins else conditions.end(step)
            model.apply(at_ns, conditions)
        else:
            number, source, destination, size, datagram = step
            model.send(at_ns, number, source, destination, size, datagram=datagram)
            sent += 1
        fates = model.advance(at_ns) if pause_ns else []
        ended += fates
        if pause_ns:
            assert len(ended) + model.in_flight() == sent + model.duplicated
        if early:
            ended += model.advance(at_ns)
            ahead = model.lookahead_ns(NODES)
            later = [at for at, _ in steps if at > at_ns]
            ended += model.arrivals(min(at_ns + ahead - 1, *later, 1 << 60))
    while (due := model.next_ns()) is not None:
        ended += model.advance(due)
    assert model.in_flight() == 0
    return ended, sent + model.duplicated


@settings(STEADY, max_examples=60)
@given(lives())
def test_each_copy_ends_once_in_order_and_not_too_early(life):
    topology, steps = life
    ended, copies = play(topology, steps, pause_ns=7 * MS)
    assert len(ended) == copies
    assert [fate.at_ns for fate in ended] == sorted(fate.at_ns for fate in ended)
    sends = {step[0]: (at_ns, step) for at_ns, step in steps if not isinstance(step, Event)}
    last = [fate.number for fate in ended if fate.last]
    assert sorted(last) == sorted(sends)
    arrived: dict[tuple[str, str], list[int]] = {}
    clean = all(link.loss == 0 for link in topology.links.values())
    for fate in ended:
        at_ns, (number, source, destination, size, datagram) = sends[fate.number]
        if fate.reason:
            continue
        if not datagram:
            arrived.setdefault((source, destination), []).append(number)
        if clean:
            assert fate.at_ns - at_ns >= size / 1e6 * SECOND + 20 * MS - 2
    for numbers in arrived.values():
        assert numbers == sorted(numbers)


@settings(STEADY, max_examples=60)
@given(lives())
def test_one_jump_or_many_small_steps_give_the_same_fates(life):
    once, _ = play(*life)
    assert play(*life)[0] == once
    assert play(*life, pause_ns=13 * MS)[0] == once


@settings(STEADY, max_examples=60)
@given(lives())
def test_arrivals_told_ahead_are_those_that_come(life):
    once, _ = play(*life)
    early, _ = play(*life, early=True)
    assert sorted(early) == sorted(once)


@settings(STEADY, max_examples=60)
@given(
    st.integers(0, 3_000_000),
    st.floats(1e5, 1e9),
    st.floats(1.0, 10.0),
    st.floats(0, 0.2),
)
def test_more_bandwidth_is_never_slower(size, bandwidth_bps, times, delay_s):
    def takes(bps: float) -> int:
        model = Network(network("a-b", bandwidth_bps=bps, delay_s=delay_s), 0)
        model.send(0, 1, "a", "b", size)
        (fate,) = model.advance(10**15)
        return fate.at_ns

    assert takes(bandwidth_bps * times) <= takes(bandwidth_bps) + 2
