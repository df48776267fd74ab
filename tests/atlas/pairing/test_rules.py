"""Every rule keeps to the memory, and says why not when it can't."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from atlas.pairing import RULES, Capability, PairingError, SpanCost, StepCost, cheapest_cut, plan
from atlas.pairing.rules import titanic_program

from .conftest import MIB, drawn

NAMES = tuple(RULES)


def device(name: str, free: int) -> Capability:
    return Capability(name, free * MIB, 1e9, 1e8, 1e8, 0.005)


def cost(spans: int, base: int = 60, session: int = 40) -> StepCost:
    pieces = tuple(
        SpanCost(s, s + 1, base * MIB // spans, session * MIB // spans, 1e9) for s in range(spans)
    )
    return StepCost(1e8, 100_000, pieces)


def asked(clients: list[int], hosts: list[int], groups: int) -> tuple:
    people = {f"c{n}": device(f"c{n}", free) for n, free in enumerate(clients)}
    others = [device(f"h{n}", free) for n, free in enumerate(hosts)]
    names = list(people)
    neighborhoods = [part for n in range(groups) if (part := names[n::groups])]
    alike = [[1.0] * len(neighborhoods)] * len(neighborhoods)
    return people, others, neighborhoods, alike


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 150), min_size=1, max_size=5),
    st.lists(st.integers(20, 300), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(NAMES),
)
def test_no_rule_overcommits_or_names_who_could_never_host(
    clients: list[int], hosts: list[int], spans: int, groups: int, rule: str
) -> None:
    people, others, neighborhoods, alike = asked(clients, hosts, groups)
    try:
        found = plan(people, others, neighborhoods, alike, [cost(spans)], 0.3, rule=rule, seed=3)
    except PairingError:
        return
    free = {one.name: one.free_bytes for one in (*others, *people.values())}
    held: dict[str, set[tuple[str, int]]] = {}
    for client, chain in found.chains.items():
        for span, host in enumerate(chain.hosts):
            held.setdefault(host, set()).add((client, span))
        for chosen, *ranked in zip(chain.hosts, chain.stand_ins, chain.fallbacks, strict=True):
            for host in (chosen, *ranked[0], *ranked[1]):
                assert host != client
                assert (
                    free[host] >= found.cost.spans[0].base_bytes + found.cost.spans[0].session_bytes
                )
            assert chosen not in ranked[0]
    for host, jobs in held.items():
        bases = {span for _, span in jobs}
        assert len(bases) * (60 * MIB // spans) + len(jobs) * (40 * MIB // spans) <= free[host]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=5),
    st.lists(st.integers(20, 120), min_size=1, max_size=4),
    st.integers(1, 2),
)
def test_what_is_said_to_be_lacking_is_enough(
    clients: list[int], hosts: list[int], groups: int
) -> None:
    people, others, neighborhoods, alike = asked(clients, hosts, groups)
    try:
        plan(people, others, neighborhoods, alike, [cost(2)], 0.0)
    except PairingError as error:
        refused = error
    else:
        return
    more = refused.more_bytes
    grown = {
        name: dataclasses.replace(one, free_bytes=one.free_bytes + more.get(name, 0))
        for name, one in people.items()
    }
    larger = [
        dataclasses.replace(one, free_bytes=one.free_bytes + more.get(one.name, 0))
        for one in others
    ]
    assert more or refused.more_hosts
    if more:
        assert plan(grown, larger, neighborhoods, alike, [cost(2)], 0.0).chains
    if refused.more_hosts:
        count, size = refused.more_hosts
        added = [Capability(f"new-{n}", size, 1e9, 1e8, 1e8, 0.005) for n in range(count)]
        assert plan(people, [*others, *added], neighborhoods, alike, [cost(2)], 0.0).chains


def test_the_fewest_bytes_are_asked_for_where_they_are_lacking() -> None:
    people, others, neighborhoods, alike = asked([0], [99, 20], 1)
    with pytest.raises(PairingError) as refused:
        plan(people, others, neighborhoods, alike, [cost(1)], 0.0)

    assert refused.value.client == "c0"
    assert refused.value.more_bytes == {"h0": MIB}
    assert refused.value.more_hosts == (1, 100 * MIB)
    assert f"{MIB:,} bytes more on h0" in str(refused.value)


def test_titanic_gives_each_host_one_partition_of_the_best_assignment() -> None:
    problem = drawn(2, clients=2, hosts=5)
    placement = RULES["titanic"].place(problem, 0)

    used: dict[int, set[int]] = {}
    for (_, span), host in np.ndenumerate(placement.host_of):
        used.setdefault(int(host), set()).add(span)
    assert all(len(spans) == 1 for spans in used.values())


def test_titanics_relaxation_has_whole_solutions() -> None:
    able, gains = titanic_program(drawn(2, clients=2, hosts=6), 1)
    partitions, hosts = gains.shape
    once = np.kron(np.eye(partitions), np.ones(hosts))
    most = np.kron(np.ones(partitions), np.eye(hosts))
    bounds = [(0, float(one)) for one in able.ravel()]

    relaxed = linprog(
        -gains.ravel(), A_eq=once, b_eq=np.ones(partitions), A_ub=most, b_ub=np.ones(hosts),
        bounds=bounds, method="highs-ds",
    )  # fmt: skip

    np.testing.assert_allclose(relaxed.x, np.rint(relaxed.x), atol=1e-9)
    rounds = [RULES["titanic"].place(drawn(2, clients=2, hosts=6), 0).host_of[0]]
    assert sum(gains[span, host] for span, host in enumerate(rounds[0])) == pytest.approx(
        -relaxed.fun
    )


def test_titanic_says_when_there_are_too_few_hosts_for_its_rule() -> None:
    people, others, neighborhoods, alike = asked([0, 0], [500], 1)
    with pytest.raises(PairingError, match="one partition"):
        plan(people, others, neighborhoods, alike, [cost(2)], 0.0, rule="titanic")

    assert plan(people, others, neighborhoods, alike, [cost(2)], 0.0).chains


def test_random_plans_differ_by_seed_and_ours_is_not_slower_than_any_other() -> None:
    problem = drawn(4, clients=4, hosts=6)
    placements = {name: RULES[name].place(problem, 1) for name in NAMES}
    again = RULES["random"].place(problem, 2)

    assert (placements["random"].host_of != again.host_of).any()
    for placement in placements.values():
        assert placement.holds
        assert placements["semantic"].round_s <= placement.round_s


def test_the_cut_with_the_shortest_round_is_taken_and_one_without_a_plan_is_not() -> None:
    people, others, neighborhoods, alike = asked([0], [100], 1)

    def planned(layers: int):
        sizes = {1: 200, 2: 60, 3: 60}  # MiB of base that is left to host
        flops = {1: 1e9, 2: 3e9, 3: 2e9}
        span = SpanCost(layers, 4, sizes[layers] * MIB, 40 * MIB, flops[layers])
        step = StepCost(1e8, 100, (span,))
        return plan(people, others, neighborhoods, alike, [step], 0.0)

    found = cheapest_cut((1, 2, 3), planned)
    assert found.client_layers == 3
    with pytest.raises(PairingError):
        cheapest_cut((1,), planned)
