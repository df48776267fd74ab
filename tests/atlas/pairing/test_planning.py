"""Pairing is a pure function: nobody is given more than they can hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.pairing import (
    Capability,
    PairingError,
    Plan,
    SpanCost,
    StepCost,
    lend,
    pair,
    plan,
)

MIB = 2**20


def device(name: str, free: int = 100, flops: float = 1e9, bandwidth: float = 1e8) -> Capability:
    return Capability(name, free * MIB, flops, bandwidth, bandwidth, 0.005)


def cost(spans: int, base: int = 60, session: int = 40) -> StepCost:
    """Layers between the ends in `spans` equal pieces: base and session are those of the whole."""
    pieces = tuple(
        SpanCost(2 + piece, 3 + piece, base * MIB // spans, session * MIB // spans, 1e9 / spans)
        for piece in range(spans)
    )
    return StepCost(own_flops=1e8, boundary_bytes=100_000, spans=pieces)


def used(chains: Plan | dict, step: StepCost) -> dict[str, int]:
    """Bytes that each host would hold."""
    jobs: dict[str, set[tuple[str, int]]] = {}
    for client, chain in chains.items():
        for span, host in enumerate(chain.hosts):
            jobs.setdefault(host, set()).add((client, span))
    return {
        host: sum(step.spans[span].base_bytes for span in {span for _, span in held})
        + sum(step.spans[span].session_bytes for _, span in held)
        for host, held in jobs.items()
    }


def test_each_client_gets_a_host_for_every_span_and_never_itself() -> None:
    clients = [device("a", 100), device("b", 100)]
    chains = pair(clients, [*clients, device("h", 110)], cost(2))

    assert set(chains) == {"a", "b"}
    for name, chain in chains.items():
        assert len(chain.hosts) == 2
        assert name not in chain.hosts
        assert all(name not in ranked for ranked in (*chain.stand_ins, *chain.fallbacks))


def test_stand_ins_are_all_others_that_could_hold_the_span_those_with_room_first() -> None:
    clients = [device("a", 0)]
    hosts = [device("fast", 100, 1e12), device("slow", 100, 1e9), device("tiny", 99)]
    chain = pair(clients, hosts, cost(1))["a"]

    assert chain.hosts == ("fast",)
    assert chain.stand_ins == (("slow",),)


def test_fallbacks_are_the_hosts_elsewhere_in_the_order_given() -> None:
    elsewhere = [device("far"), device("near"), device("small", 10)]
    chain = pair([device("a", 0)], [device("h")], cost(1), elsewhere)["a"]

    assert chain.fallbacks == (("far", "near"),)


def test_a_faster_host_and_a_wider_way_are_preferred() -> None:
    assert pair([device("a", 0)], [device("x", flops=1e9), device("y", flops=2e9)], cost(1))[
        "a"
    ].hosts == ("y",)
    assert pair([device("a", 0)], [device("x", bandwidth=1e6), device("y")], cost(1))[
        "a"
    ].hosts == ("y",)


def test_two_clients_exchange_hosts_where_both_are_full_and_no_single_move_is_possible() -> None:
    """The one that computes slowly is placed first, and takes what the one far away needs more."""
    near = device("near", 0, flops=1e8)
    far = device("far", 0, flops=1e9, bandwidth=1e6)

    chains = pair([near, far], [device("fast", flops=1e9), device("slow", flops=2.5e8)], cost(1))

    assert chains["far"].hosts == ("fast",)
    assert chains["near"].hosts == ("slow",)


def test_load_is_spread_when_hosts_are_alike() -> None:
    clients = [device(f"c{number}", 0) for number in range(4)]
    hosts = [device(f"h{number}", 1000) for number in range(4)]
    chains = pair(clients, hosts, cost(1))

    assert len({chain.hosts for chain in chains.values()}) == 4


def test_jobs_are_packed_when_placing_them_fast_leaves_one_without_room() -> None:
    # Two hosts hold three sessions of one span each, and not two sessions of two spans.
    step = cost(2, base=200, session=80)
    clients = [device(f"c{number}", 0) for number in range(3)]
    hosts = [device("h0", 220, 1e9), device("h1", 220, 1e12)]
    chains = pair(clients, hosts, step)

    assert used(chains, step) == {"h0": 220 * MIB, "h1": 220 * MIB}


def test_too_little_memory_is_refused_with_client_bytes_and_remedy() -> None:
    with pytest.raises(PairingError) as refused:
        pair([device("a", 0)], [device("h", 99)], cost(1))

    text = str(refused.value)
    assert "of a" in text
    assert f"{100 * MIB:,}" in text
    assert "more spans" in text


def test_hosts_are_lent_where_they_are_needed_and_all_of_them() -> None:
    clients = {name: device(name, 0) for name in "abcd"}
    hosts = [device(f"h{number}") for number in range(6)]
    lent = lend(hosts, clients, [["a", "b", "c"], ["d"]], cost(1))

    assert sorted(name for names in lent for name in names) == [host.name for host in hosts]
    assert len(lent[0]) >= 3
    assert len(lent[1]) >= 1


def test_the_coarsest_cut_that_survives_the_loss_of_the_roomiest_hosts_is_taken() -> None:
    clients = {name: device(name, 0) for name in "ab"}
    costs = [cost(1), cost(2), cost(4)]

    roomy = plan(
        clients, [device(f"h{n}", 100) for n in range(4)], [["a", "b"]], [[1.0]], costs, 0.5
    )
    tight = plan(
        clients, [device(f"h{n}", 80) for n in range(4)], [["a", "b"]], [[1.0]], costs, 0.5
    )

    assert len(roomy.cost.spans) == 1
    assert len(tight.cost.spans) > 1


def test_without_anything_to_spare_the_plan_that_just_fits_is_taken() -> None:
    clients = {"a": device("a", 0)}
    found = plan(clients, [device("h", 100)], [["a"]], [[1.0]], [cost(1)], 0.9)

    assert found.chains["a"].hosts == ("h",)


def test_clients_fall_back_to_the_most_similar_neighborhood_first() -> None:
    clients = {name: device(name, 0) for name in "abc"}
    hosts = [device(f"h{number}") for number in range(3)]
    similarity = [[1.0, 0.1, 0.7], [0.1, 1.0, 0.2], [0.7, 0.2, 1.0]]
    found = plan(clients, hosts, [["a"], ["b"], ["c"]], similarity, [cost(1)], 0.0)

    assert found.chains["a"].fallbacks[0] == (*found.lent[2], *found.lent[1])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 150), min_size=1, max_size=6),
    st.lists(st.integers(20, 300), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_no_host_is_ever_given_more_than_it_has(
    clients: list[int], hosts: list[int], spans: int
) -> None:
    people = [device(f"c{number}", free) for number, free in enumerate(clients)]
    others = [device(f"h{number}", free) for number, free in enumerate(hosts)]
    step = cost(spans)
    try:
        chains = pair(people, [*others, *people], step)
    except PairingError:
        return
    room = {each.name: each.free_bytes for each in (*people, *others)}
    assert all(held <= room[host] for host, held in used(chains, step).items())
    assert pair(people, [*others, *people], step) == chains
