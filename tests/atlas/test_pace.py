"""Deadlines come from what was measured, as a retransmission timer's do (RFC 6298)."""

from __future__ import annotations

import pytest

from atlas.roles.candidates import Candidate, Shunned, in_order
from atlas.roles.pace import LEAST_S, Pace

PLANNED_S = 10.0


def pace() -> Pace:
    return Pace(lambda _host, _kind, sent_bytes: PLANNED_S + sent_bytes / 1000)


def test_until_there_is_a_measurement_the_plan_counts_as_one() -> None:
    assert pace().deadline_s("host", "forward") == 3 * PLANNED_S


def test_steady_answers_make_the_deadline_tight_and_unsteady_ones_make_it_wide() -> None:
    steady, unsteady = pace(), pace()
    for number in range(40):
        steady.measured("host", "forward", 0, 20.0)
        unsteady.measured("host", "forward", 0, 10.0 if number % 2 else 30.0)

    assert steady.deadline_s("host", "forward") == pytest.approx(20.0, abs=0.1)
    assert unsteady.deadline_s("host", "forward") > 50


def test_what_was_measured_holds_for_any_size_of_the_same_work_and_no_other_host() -> None:
    known = pace()
    for _ in range(40):
        known.measured("host", "forward", 0, 2 * PLANNED_S)

    assert known.expected_s("host", "forward", 10_000) == pytest.approx(40.0)
    assert known.expected_s("host", "backward") == PLANNED_S
    assert known.expected_s("other", "forward") == PLANNED_S
    assert known.knows("host", "forward")
    assert not known.knows("other", "forward")


def test_each_deadline_missed_doubles_the_next_until_a_step_is_answered() -> None:
    slow = pace()
    first = slow.deadline_s("host", "forward")
    for _ in range(3):
        slow.missed("forward")
    slow.missed("room?")
    slow.measured("host", "alive?", 0, 1.0)

    assert slow.deadline_s("host", "forward") == 8 * first
    slow.measured("other", "forward", 0, PLANNED_S)
    assert slow.deadline_s("host", "forward") == first
    for _ in range(100):
        slow.missed("forward")
    assert slow.deadline_s("host", "forward") == 64 * first


def test_a_quick_sign_of_life_does_not_shorten_the_wait_for_one_behind_a_tensor() -> None:
    known = pace()
    for _ in range(40):
        known.measured("host", "alive?", 0, 0.01)

    assert known.deadline_s("host", "alive?", 90_000) >= 100


def test_no_deadline_and_no_pulse_is_shorter_than_a_second() -> None:
    quick = Pace(lambda *_: 0.001)

    assert quick.deadline_s("host", "forward") == LEAST_S
    assert quick.pulse_s("host", "forward") == LEAST_S
    assert pace().pulse_s("host", "forward") == PLANNED_S / 4


def test_who_failed_is_asked_last_for_longer_each_time_until_it_has_computed() -> None:
    shunned = Shunned()
    candidates = [Candidate("plan", "home"), Candidate("elsewhere", "other")]

    shunned.add("home", 100.0, waited_s=5.0)
    assert [host for _, host in in_order(candidates, shunned, 104.9)] == ["other", "home"]
    assert [host for _, host in in_order(candidates, shunned, 105.1)] == ["home", "other"]
    shunned.add("home", 110.0, waited_s=5.0)
    assert shunned("home", 119.9)
    shunned.forgive("home")
    assert not shunned("home", 110.0)
    shunned.add("home", 200.0, waited_s=0.1)
    assert shunned("home", 200.9)
    assert not shunned("home", 201.1)


def test_who_had_only_forgotten_is_there_and_is_shunned_from_the_second_time() -> None:
    shunned = Shunned()

    shunned.add("home", 0.0, waited_s=3.0, forgot=True)
    assert not shunned("home", 0.0)
    shunned.add("home", 0.0, waited_s=3.0, forgot=True)
    assert shunned("home", 0.0)


def test_where_all_failed_lately_all_are_asked() -> None:
    shunned = Shunned()
    candidates = [Candidate("plan", "home"), Candidate("elsewhere", "other")]
    for _, host in candidates:
        shunned.add(host, 0.0, waited_s=9.0)

    assert in_order(candidates, shunned, 1.0) == candidates
    assert in_order(candidates, shunned, 1.0, but={"home"}) == candidates[1:]
