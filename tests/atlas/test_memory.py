"""A host holds no more than its device grants, and gives sessions up by the rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from atlas.models import Stage
from atlas.pairing import SpanCost
from atlas.roles.memory import IDLE_S, HostMemory, Key, span_of
from broker import DeviceMemoryError, Node, Reservation

GRANT, BASE, SESSION = 1000, 150, 100


@dataclass
class Device:
    """The part of a node that has to do with memory."""

    name: str = "host"
    now: float = 0.0
    memory_bytes: int = GRANT
    reserved_bytes: int = 0
    changed: list[Callable[[], None]] = field(default_factory=list)

    def reserve(self, size_bytes: int, purpose: str) -> Reservation:
        if self.reserved_bytes + size_bytes > self.memory_bytes:
            free = self.memory_bytes - self.reserved_bytes
            raise DeviceMemoryError(self.name, purpose, size_bytes, free, self.memory_bytes)
        self.reserved_bytes += size_bytes
        return Reservation(self._release, size_bytes)

    def _release(self, size_bytes: int) -> None:
        self.reserved_bytes -= size_bytes

    def on_memory(self, changed: Callable[[], None]) -> None:
        self.changed.append(changed)

    def grant(self, size_bytes: int) -> None:
        self.memory_bytes = size_bytes
        for changed in self.changed:
            changed()


@dataclass
class Lodger:
    memory: Reservation
    used_s: float
    version: int = 0
    busy: bool = False


class Hosting:
    """Sessions without anything in them."""

    def __init__(self) -> None:
        self.device = Device()
        self.sessions: dict[Key, Lodger] = {}
        self.ending: dict[Key, Lodger] = {}
        self.given_up: list[tuple[Key, str]] = []
        self.memory = HostMemory(
            cast("Node", self.device), self.sessions, self._give_up, lambda: self.device.now
        )

    def cost(self, key: Key) -> SpanCost:
        return SpanCost(key[1], key[2], BASE, SESSION, 1.0)

    async def open(self, key: Key, version: int = 0) -> None:
        held = self.memory.reserve(SESSION, f"a session of {key[0]}")
        try:
            base = self.memory.take_base(span_of(key), BASE, _layers)
        except BaseException:
            held.release()
            raise
        await base.stage
        self.sessions[key] = Lodger(held, self.device.now, version)

    async def ask_and_open(self, key: Key, version: int) -> None:
        """Opens a session where there is room for it, and checks that there is none elsewhere."""
        fits = self.has_room(key)
        try:
            await self.open(key, version)
        except DeviceMemoryError:
            # What is promised by one that still computes is not free yet.
            assert not fits or self.ending
        else:
            assert fits

    def has_room(self, key: Key) -> bool:
        try:
            self.memory.require_room(key, self.cost(key))
        except DeviceMemoryError:
            return False
        return True

    def end(self, key: Key) -> None:
        self.memory.release(span_of(key), self.sessions.pop(key).memory)

    def finish(self, key: Key) -> None:
        """What a session that was given up computed is over."""
        self.memory.release(span_of(key), self.ending.pop(key).memory)

    def _give_up(self, key: Key, why: str) -> None:
        self.given_up.append((key, why))
        lodger = self.sessions.pop(key)
        if lodger.busy:
            self.memory.expect(span_of(key), lodger.memory)
            self.ending[key] = lodger
        else:
            self.memory.release(span_of(key), lodger.memory)


async def _layers() -> Stage:
    return cast("Stage", SimpleNamespace())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sampled_from("abcd"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("close"), st.integers(0, 9)),
        st.tuples(st.just("work"), st.integers(0, 9)),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("grant"), st.integers(0, GRANT)),
        st.tuples(st.just("wait"), st.sampled_from((1, int(IDLE_S) + 1))),
    ),
    max_size=40,
)


@given(STEPS)
@hypothesis_settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_happens_a_host_holds_no_more_than_its_grant(steps: list[Any]) -> None:
    async def life() -> None:
        hosting = Hosting()
        device = hosting.device
        for what, *how in steps:
            keys = sorted(hosting.ending if what == "finish" else hosting.sessions)
            match what:
                case "open":
                    client, place, version = how
                    key = (client, place, place + 1)
                    if key in hosting.sessions or key in hosting.ending:
                        continue
                    await hosting.ask_and_open(key, version)
                case "grant":
                    device.grant(how[0])
                case "wait":
                    device.now += how[0]
                case _ if not keys:
                    continue
                case "close":
                    hosting.end(keys[how[0] % len(keys)])
                case "work":
                    hosting.sessions[keys[how[0] % len(keys)]].busy = True
                case "finish":
                    hosting.finish(keys[how[0] % len(keys)])
            served = {span_of(key) for key in hosting.sessions}
            assert len(hosting.sessions) * SESSION + len(served) * BASE <= device.memory_bytes
            if not hosting.ending:
                assert device.reserved_bytes <= device.memory_bytes
        for key in sorted(hosting.ending):
            hosting.finish(key)
        for key in sorted(hosting.sessions):
            hosting.end(key)
        device.grant(0)
        assert device.reserved_bytes == 0

    asyncio.run(life())


def given_up_when(granted: int, *sessions: tuple[str, int, int], busy: str = "") -> list[str]:
    """Sessions are (client, layer, steps); gives whom a squeeze to `granted` costs."""

    async def life() -> list[str]:
        hosting = Hosting()
        for client, layer, version in sessions:
            await hosting.open((client, layer, layer + 1), version)
            hosting.sessions[client, layer, layer + 1].busy = client == busy
        hosting.device.grant(granted)
        assert {why for _, why in hosting.given_up} <= {"squeezed"}
        return [key[0] for key, _ in hosting.given_up]

    return asyncio.run(life())


@pytest.mark.parametrize(
    ("granted", "expected"),
    [(GRANT, []), (450, []), (449, ["b"]), (349, ["b", "a"]), (249, ["b", "a", "c"])],
)
def test_who_has_the_fewest_steps_is_given_up_first_and_no_more_than_needed(
    granted: int, expected: list[str]
) -> None:
    assert given_up_when(granted, ("a", 0, 2), ("b", 0, 1), ("c", 0, 2)) == expected


def test_layers_go_with_their_last_session_and_count_as_room() -> None:
    # a alone on its layers: with it 250 bytes go, so b and c stay
    assert given_up_when(350, ("a", 0, 0), ("b", 1, 1), ("c", 1, 1)) == ["a"]


def test_one_that_computes_counts_as_gone_and_no_other_pays_for_it() -> None:
    assert given_up_when(350, ("a", 0, 0), ("b", 0, 1), ("c", 0, 1), busy="a") == ["a"]


def test_what_did_not_fit_is_named() -> None:
    hosting = Hosting()
    hosting.device.grant(200)
    with pytest.raises(DeviceMemoryError, match=r"200 of 200 bytes left; a session of a on layers"):
        hosting.memory.require_room(("a", 2, 5), hosting.cost(("a", 2, 5)))


def test_unused_layers_and_stale_sessions_give_way_before_those_in_use() -> None:
    async def life() -> list[tuple[Key, str]]:
        hosting = Hosting()
        await hosting.open(("gone", 0, 1))
        hosting.end(("gone", 0, 1))
        await hosting.open(("stale", 1, 2), version=5)
        hosting.device.now = IDLE_S + 1
        await hosting.open(("young", 2, 3))
        hosting.device.grant(500)
        assert hosting.given_up == []
        assert hosting.device.reserved_bytes == 500
        hosting.device.grant(499)
        return hosting.given_up

    assert asyncio.run(life()) == [(("stale", 1, 2), "unused")]
