"""A scenario that fails is made as small as it can be and still fail."""

from __future__ import annotations

import pytest

import faults
from faults import ScenarioError

MANY = """
name: many
timeline:
  - {at: 1 s, crash: box-0, for: 20 s}
  - {at: 2 s, crash: [box-0, box-1, phone-2], for: 20 s, id: this}
  - {at: 3 s, slow: {nodes: "phone-*", compute: 100x}, for: 10 s}
  - {at: 4 s, degrade: {nodes: phone-1, bandwidth: 10 %, delay: +1 s, loss: +5 %}, for: 64 s}
  - {at: 5 s, pause: any 2, for: 10 s}
  - {at: 6 s, squeeze: {nodes: box-1, memory: 10 %}}
  - {at: 7 s, skew: {nodes: box-1, offset: -20 s, drift: 1 %}}
processes:
  - churn: {nodes: role=host, mean_up: 10 s, mean_down: 5 s, until: 10 min}
  - churn: {nodes: role=client, mean_up: 10 s, mean_down: 5 s, until: 10 min}
"""


@pytest.fixture
def many():
    return faults.parse(MANY)


def minimized(scenario, fails, **options):
    """The smallest scenario as a file says it, without its head."""
    text = faults.write(faults.minimize(scenario, fails, **options))
    return text.replace("name: many\n", "").splitlines()


def test_what_is_not_needed_is_left_out(many, small):
    def two_hosts_are_down_at_once(scenario) -> bool:
        conditions = faults.Conditions()
        for event in faults.expand(scenario, small, 1):
            conditions = (conditions.begin if event.phase == "begin" else conditions.end)(event)
            if not conditions.is_up("box-0") and not conditions.is_up("box-1"):
                return True
        return False

    (head, only) = minimized(many, two_hosts_are_down_at_once)
    assert head == "timeline:"
    assert only == "  - {at: 2 s, crash: [box-0, box-1], for: 1.2 ms, id: this}"


def test_values_get_weaker_as_long_as_it_fails(many, small):
    def the_link_of_phone_1_is_slow(scenario) -> bool:
        conditions = faults.Conditions()
        for event in faults.expand(scenario, small, 1):
            conditions = (conditions.begin if event.phase == "begin" else conditions.end)(event)
            if conditions.link(small.links["phone-1", "gate-1"]).bandwidth_bps < 3e6:
                return True
        return False

    (_, only) = minimized(many, the_link_of_phone_1_is_slow)
    # 10 % of 8 Mbit/s, then 55 % would not do; neither delay nor loss are needed.
    assert only == '  - {at: 4 s, degrade: {nodes: phone-1, bandwidth: 10 %}, for: 1.9 ms, id: "4"}'


def test_two_faults_that_only_fail_together_both_stay(many):
    def fails(scenario) -> bool:
        return {fault.kind for fault in scenario.timeline} >= {"slow", "pause"}

    (_, slow, pause) = minimized(many, fails)
    assert slow == '  - {at: 3 s, slow: {nodes: "phone-*", compute: 1.01x}, for: 1.2 ms, id: "3"}'
    assert pause == '  - {at: 5 s, pause: any 2, for: 1.2 ms, id: "5"}'


def test_a_process_keeps_its_name_and_so_its_draws(many, small):
    first = next(event for event in faults.expand(many, small, 1) if event.fault == "churn-2.1")

    def fails(scenario) -> bool:
        events = faults.expand(scenario, small, 1)
        return any((e.at_ns, e.nodes) == (first.at_ns, first.nodes) for e in events)

    (head, only) = minimized(many, fails)
    assert head == "processes:"
    assert "id: churn-2" in only
    assert "until: 10 min" not in only


def test_what_does_not_fit_any_more_does_not_fail(small):
    """A weaker value may make a fault do nothing, which a topology refuses."""
    scenario = faults.parse("timeline:\n  - {at: 1 s, loss: {nodes: phone-1, chance: 4 %}}\n")

    def fails(scenario) -> bool:
        return bool(faults.expand(scenario, small, 1))

    (fault,) = faults.minimize(scenario, fails).timeline
    assert fault.loss.chance.value == 0.02


def test_it_is_the_same_each_time_and_asks_about_nothing_twice(many, small):
    asked: list[str] = []

    def fails(scenario) -> bool:
        asked.append(faults.write(scenario))
        return sum(event.kind == "crash" for event in faults.expand(scenario, small, 1)) > 3

    first = faults.minimize(many, fails)
    assert len(asked) == len(set(asked))
    assert faults.minimize(many, fails) == first
    assert first.name == "many"


def test_a_scenario_that_does_not_fail_can_not_be_minimized(many):
    with pytest.raises(ValueError, match="many does not fail as it is"):
        faults.minimize(many, lambda _: False)


def test_what_fails_without_any_fault_needs_none(many):
    assert faults.write(faults.minimize(many, lambda _: True)) == "name: many\ntimeline: []\n"


def test_after_so_many_runs_the_smallest_until_then_is_given(many):
    asked = []

    def fails(scenario) -> bool:
        asked.append(1)
        return any(fault.crash for fault in scenario.timeline)

    smaller = faults.minimize(many, fails, most_runs=4)
    assert len(asked) == 4
    assert any(fault.crash for fault in smaller.timeline)


def test_an_error_of_the_test_itself_is_not_hidden(many):
    def fails(_) -> bool:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        faults.minimize(many, fails)

    def never_fits(_) -> bool:
        raise ScenarioError("does not fit")

    with pytest.raises(ValueError, match="does not fail"):
        faults.minimize(many, never_fits)


@pytest.mark.parametrize(
    ("fault", "weakest"),
    [
        ("degrade: {nodes: a, bandwidth: 50 %}", "bandwidth: 99 %"),
        ("degrade: {nodes: a, delay: 3x}", "delay: 101 %"),
        ("squeeze: {nodes: a, memory: 50 %}", "memory: 99 %"),
        ("slow: {nodes: a, compute: 3x}", "compute: 1.01x"),
    ],
)
def test_a_share_comes_to_an_end_of_getting_weaker(fault, weakest):
    scenario = faults.parse(f"timeline:\n  - {{at: 1 s, {fault}}}\n")
    (_, _, only) = faults.write(
        faults.minimize(scenario, lambda tried: bool(tried.timeline), most_runs=100)
    ).splitlines()
    assert weakest in only
