"""A client's side of one span: a host that works, whatever happens to hosts.

Any candidate can be brought to where the others are (see `history`). This is done when a host is
gone, late or has forgotten (repair); in a race with a host that is late (hedge), whose loser is
closed before the step is committed; and to go back to the host of the plan when it is there again
(return).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from atlas.config import Recovery
from atlas.models import AdapterState, ProtocolError, Range
from atlas.models.optimizer import FlatAdamW
from atlas.models.tensors import Packed
from atlas.protocol import PATIENCE_S, UnansweredError
from atlas.roles.candidates import Candidate, Shunned, Where, in_order
from atlas.roles.history import History, Known
from atlas.roles.host import ADAM_FLOPS
from atlas.roles.pace import LEAST_S, Pace
from atlas.roles.patience import monotonic_s
from atlas.roles.seat import LostHostError, Seat
from broker import Node

MOST_PAUSE_S = 60.0
"""All candidates are tried again after a second, then twice as long each time, up to this (RFC
6298, 2.5). It costs a few bytes each.
"""
T = TypeVar("T")


class SkippedStepError(Exception):
    """A host was lost in a step that nobody repeats."""


class SpanCaller:
    """Calls whoever hosts layers `span` for this client.

    Args:
        candidates: (where, host) in the order in which they are tried; the first is home.
        like: The span's parameters, for their names and shapes.
        pace: How long to wait for hosts.
        shunned: Whom to try last.
        attempts: Gives a greater number each time, over all of the client's lives.
        changed: Told whenever another host has taken the span on.
        kept: Told when there is a newer snapshot.
        sharing: Who shares the span's trunk, in order; nobody if it is the client's own.
    """

    def __init__(
        self,
        node: Node,
        span: Range,
        candidates: Sequence[tuple[Where, str]],
        *,
        like: AdapterState,
        pace: Pace,
        shunned: Shunned,
        attempts: Callable[[], int],
        changed: Callable[[], None],
        kept: Callable[[], None] = lambda: None,
        recovery: Recovery | None = None,
        micros: int = 1,
        clips: bool = False,
        sharing: Sequence[str] = (),
    ) -> None:
        self._sharing = sharing
        self._node = node
        self.span = span
        self._candidates = [Candidate(*candidate) for candidate in candidates]
        self.like = like
        self._pace = pace
        self._shunned = shunned
        self._attempts = attempts
        self._changed = changed
        self._kept = kept
        self._recovery = recovery or Recovery()
        self._micros = micros
        self._clips = clips
        self._seat: Seat | None = None
        self._before: str | None = None
        self._lost: str | None = None
        self._loose: set[asyncio.Task[None]] = set()
        self._steps = 1
        self._history = self._new_history(0, Known(0, None), None)
        self._gradients: AdapterState = {}
        self.norms: list[float] | None = None

    @property
    def known(self) -> Known:
        """The last state of the span that the client has."""
        return self._history.known

    @property
    def host(self) -> str | None:
        """Who hosts the span now."""
        return None if self._seat is None else self._seat.host

    # A round, as the client sees it.

    async def begin(
        self,
        round_: int,
        known: Known,
        *,
        steps: int = 1,
        kept: FlatAdamW | None = None,
        frozen: AdapterState | None = None,
    ) -> None:
        """Starts a round of `steps` steps from what is known of it, at home at best.

        `kept` are the parameters where they are kept here, `frozen` what the base has taken over.
        """
        self._steps = steps
        self._history = self._new_history(round_, known, kept, frozen)
        await self._insist(_nothing)

    def _new_history(
        self,
        round_: int,
        known: Known,
        kept: FlatAdamW | None,
        frozen: AdapterState | None = None,
    ) -> History:
        return History(
            round_,
            known,
            like=self.like,
            micros=self._micros,
            clips=self._clips,
            kept=kept,
            frozen=frozen,
            skips=self._recovery.lost == "skip" and round_ >= 0,
        )

    async def forward(self, hidden: Packed) -> Packed:
        """Hidden state in, hidden state out, packed alike: the next micro-batch of the step."""
        history, half = self._history, self._history.halves
        if not half:
            await self._return()
        history.send_forward(hidden)
        output = await self._insist(lambda seat: history.forward(seat, half), race="forward")
        self._answered()
        return output

    async def backward(self, gradient: Packed) -> Packed:
        """Gradient in, gradient out, packed alike.

        Where the step is to be clipped, `norms` of its gradients are known after its last one.
        """
        history, half = self._history, self._history.halves
        history.send_backward(gradient)
        back = await self._insist(lambda seat: history.backward(seat, half), race="backward")
        self._gradients, self.norms = back.parameters, back.norms
        self._answered()
        return back.gradient

    async def learn(self, hidden: Packed, targets: Packed, labels: int) -> tuple[float, Packed]:
        """Hidden state and targets in, loss and gradient out: forward and backward at once, where
        the host has the labels.
        """
        history, half = self._history, self._history.halves
        history.send_forward(hidden)
        history.send_targets(targets, labels)
        loss, back = await self._insist(lambda seat: history.learn(seat, half), race="learn")
        self.norms = back.norms
        self._answered()
        self._answered()
        return loss, back.gradient

    def drop(self) -> None:
        """What was computed of the step at hand counts no more, here or at the host."""
        self._history.dropped()

    def _answered(self) -> None:
        self._history.halves += 1
        if self._seat is not None:
            self._shunned.forgive(self._seat.host)

    async def sketch(self, dimensions: int, steepness: int = 1) -> np.ndarray:
        """The sketch, float64 [dimensions], of the gradients held; the host drops them, and so does
        this.
        """
        version = self._history.version
        values = await self._insist(lambda seat: seat.sketch(version, dimensions, steepness))
        self._history.dropped()
        return values

    async def commit(self, scale: float, rate: float) -> None:
        """Lets the host apply the step, times `scale`. What comes next says whether it did.

        Where the parameters are kept here they are updated here, at this learning rate.
        """
        history, kept, gradients = self._history, self._history.kept, self._gradients
        if kept is not None:
            held = [gradients[name] for name in kept.parameters]
            await self._node.compute(
                lambda: kept.apply(held, scale=scale, rate=rate),
                flops=ADAM_FLOPS * sum(tensor.numel() for tensor in held),
            )
        elif self._seat is not None:
            try:
                await self._seat.commit(history.version, scale)
            except LostHostError as lost:
                self._lose(self._seat, lost)
                self._seat = None
        history.committed(scale)
        every = self._recovery.snapshot_every
        if every and history.version % every == 0 and history.version < self._steps:
            if kept is not None:
                self._keep(Known(history.version, kept.snapshot()))
            elif self._seat is not None:
                self._in_background(self._fetch(self._seat))

    async def collect(self) -> AdapterState:
        """The span's adapter after the steps committed; the session is closed."""
        kept, version = self._history.kept, self._history.version
        if kept is not None:
            adapter = {name: value.detach().clone() for name, value in kept.parameters.items()}
        else:
            adapter = await self._insist(lambda seat: seat.collect(version, self.like))
        self.close()
        return adapter

    def close(self) -> None:
        """Lets the host forget the session."""
        if self._seat is not None:
            self._before = self._seat.host
            self._close(self._seat)
            self._seat = None

    # Hosts that come and go.

    async def _insist(
        self, call: Callable[[Seat], Coroutine[Any, Any, T]], *, race: str | None = None
    ) -> T:
        """The answer to `call`, from whichever host gives it; `race` is its kind if two may try."""
        until, pause_s = monotonic_s() + PATIENCE_S, LEAST_S
        refused: dict[str, str] = {}
        while True:
            if self._seat is None:
                self._seat = await self._find(until)
            seat = self._seat
            try:
                if race is not None and self._recovery.hedge and self._pace.knows(seat.host, race):
                    return await self._race(call, seat, self._pace.deadline_s(seat.host, race))
                return await call(seat)
            except LostHostError as lost:
                self._lose(seat, lost)
                self._seat = None
                if race is not None and self._history.skips:
                    raise SkippedStepError(lost.reason) from None
                if lost.refused:  # it took the session on, and will not do this
                    self._shunned.add(seat.host, monotonic_s(), waited_s=lost.waited_s)
                    if seat.host in refused:
                        self._require_hope(refused)
                        await asyncio.sleep(pause_s)
                        pause_s = min(2 * pause_s, MOST_PAUSE_S)
                    refused[seat.host] = lost.reason

    def _require_hope(self, refused: Mapping[str, str]) -> None:
        """Raises ProtocolError where all candidates have refused the very same request."""
        if all(candidate.host in refused for candidate in self._candidates):
            reasons = "; ".join(f"{host}: {reason}" for host, reason in refused.items())
            raise ProtocolError(
                f"all hosts of layers {self.span.first}-{self.span.last - 1} refuse what "
                f"{self._node.name} asks of them: {reasons}"
            )

    async def _find(self, until_s: float) -> Seat:
        """A seat at the first candidate that takes it, brought up to date."""
        pause_s = LEAST_S
        while monotonic_s() < until_s:
            first, *others = in_order(self._candidates, self._shunned, monotonic_s())
            seat = await self._take(first) or await self._take_one_of(others)
            if seat is not None:
                self._settle(seat)
                return seat
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)
        hosts = ", ".join(candidate.host for candidate in self._candidates)
        raise UnansweredError(
            f"{self._node.name} found no host for layers {self.span.first}-{self.span.last - 1} in "
            f"{PATIENCE_S:,.0f} s; it asked {hosts}"
        )

    async def _take_one_of(self, candidates: Sequence[Candidate]) -> Seat | None:
        """A seat at the first of these that is willing and able. All are asked for room at once, so
        that the dead among them cost no more time than one.
        """
        loop = asyncio.get_running_loop()
        seats = [self._seat_at(candidate) for candidate in candidates]
        asked = [loop.create_task(seat.ask_room()) for seat in seats]
        try:
            for seat, room in zip(seats, asked, strict=True):
                if await self._bring(seat, room):
                    return seat
        finally:
            for room in asked:
                room.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

    async def _take(self, candidate: Candidate) -> Seat | None:
        """A seat there, brought up to date, if that host is willing and able."""
        seat = self._seat_at(candidate)
        return seat if await self._bring(seat, seat.ask_room()) else None

    def _seat_at(self, candidate: Candidate) -> Seat:
        return Seat(
            self._node,
            self._pace,
            self.span,
            candidate,
            self._attempts(),
            self._moving_s,
            self._sharing if self._history.round >= 0 else (),
        )

    async def _bring(self, seat: Seat, room: Awaitable[None]) -> bool:
        """Whether there is room, and the session is where the client is."""
        try:
            await room
            history = self._history
            seat.mending = history.version > 0 or history.halves > 0 or self._lost is not None
            await history.bring(seat)
            seat.mending = False
        except LostHostError as lost:
            self._lose(seat, lost)
            return False
        except asyncio.CancelledError:
            self._close(seat)
            raise
        return True

    def _settle(self, seat: Seat) -> None:
        """From now on this is the host: those who watch are told."""
        place = {"first": self.span.first, "last": self.span.last, "host": seat.host}
        history = self._history
        common = {"client": self._node.name, "round": history.round, **place}
        if self._lost is not None:
            self._node.note(
                "repaired",
                **common,
                step=history.version,
                lost=self._lost,
                replayed=history.behind,
                fallback=seat.where == "elsewhere",
            )
        elif self._before not in (None, seat.host):
            event = "returned" if seat.where == "plan" else "moved"
            self._node.note(event, **common, step=history.version)
        self._lost, self._before = None, seat.host
        self._seat = seat
        self._changed()

    def _lose(self, seat: Seat, lost: LostHostError) -> None:
        """Gives the host up, and tells it so. Who failed is asked last for a while."""
        fields: dict[str, Any] = {
            "client": self._node.name,
            "host": seat.host,
            "reason": lost.reason,
        }
        if lost.refused:
            self._node.note("refused", **fields)
        else:
            now_s, waited_s = monotonic_s(), lost.waited_s
            self._shunned.add(seat.host, now_s, waited_s=waited_s, forgot=lost.forgot)
            self._node.note("suspected", **fields, waited_s=waited_s)
        if seat is self._seat or self._seat is None:
            self._lost = self._lost or seat.host
        self._close(seat)

    def _close(self, seat: Seat) -> None:
        """Without waiting: the way there may be cut."""
        self._in_background(seat.close())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)

    # Snapshots.

    async def _fetch(self, seat: Seat) -> None:
        """The state after this step. It counts whoever has made it: it is the same at all."""
        history = self._history
        version = history.version
        try:
            state = await seat.snapshot(version, self.like)
        except LostHostError:
            return  # who needs the host for more than this will find out
        if history is self._history and version > history.known.step:
            self._keep(Known(version, state))

    def _keep(self, known: Known) -> None:
        self._history.keep(known)
        self._kept()

    # A race with a host that is late.

    async def _race(
        self, call: Callable[[Seat], Coroutine[Any, Any, T]], first: Seat, late_s: float
    ) -> T:
        """The answer of whoever gives it first: the host, or a stand-in once the host is late.

        The loser is closed, so that only one of them will hear of the commit.
        """
        loop, asked_s = asyncio.get_running_loop(), monotonic_s()
        first.raced = True
        answer = loop.create_task(call(first))
        rival: asyncio.Task[tuple[Seat, T] | None] | None = None
        try:
            if (await asyncio.wait([answer], timeout=late_s))[0]:
                return answer.result()
            rival = loop.create_task(self._rival(call, first.host))
            await asyncio.wait([answer, rival], return_when=asyncio.FIRST_COMPLETED)
            lost = answer.exception() if answer.done() else None
            if answer.done() and not isinstance(lost, LostHostError):
                self._tell_race(first.host, first.host, asked_s)
                return answer.result()
            found = await rival
            if found is None:
                return await answer
            if isinstance(lost, LostHostError):
                self._lose(first, lost)
            else:
                self._close(first)
            rival = None
            winner, value = found
            self._tell_race(first.host, winner.host, asked_s)
            winner.mending = False
            self._before = None
            self._settle(winner)
            return value
        finally:
            first.raced = False
            answer.cancel()
            if rival is not None and not rival.cancel():
                found = rival.result()
                if found is not None:
                    self._close(found[0])
            ending = [task for task in (answer, rival) if task is not None]
            await asyncio.gather(*ending, return_exceptions=True)

    async def _rival(
        self, call: Callable[[Seat], Coroutine[Any, Any, T]], late: str
    ) -> tuple[Seat, T] | None:
        """What a stand-in answers, the first that does and is not shunned."""
        for candidate in in_order(self._candidates, self._shunned, monotonic_s(), but={late}):
            if self._shunned(candidate.host, monotonic_s()):
                continue
            seat = await self._take(candidate)
            if seat is None:
                continue
            seat.mending = True
            try:
                return seat, await call(seat)
            except LostHostError as lost:
                self._lose(seat, lost)
            except asyncio.CancelledError:
                self._close(seat)
                raise
        return None

    def _tell_race(self, late: str, won: str, asked_s: float) -> None:
        self._node.note(
            "hedged",
            client=self._node.name,
            round=self._history.round,
            step=self._history.version,
            first=self.span.first,
            last=self.span.last,
            late=late,
            host=won,
            waited_s=monotonic_s() - asked_s,
        )

    # What takes how long.

    def _bringing_s(self, host: str) -> float:
        """How long it would take to bring a seat at `host` to where the client is."""
        again = self._history.behind * self._micros + self._history.halves / 2
        return self._pace.expected_s(host, "open") + again * self._pace.expected_s(host, "replay")

    def _moving_s(self, host: str) -> float:
        """How long another host than this one would take to come to where the client is."""
        others = in_order(self._candidates, self._shunned, monotonic_s(), but={host})
        return self._bringing_s(others[0].host if others else host)

    # Home.

    async def _return(self) -> None:
        """Between two steps: back to the host of the plan, if it is there and that pays."""
        home, seat = self._candidates[0], self._seat
        if seat is None or seat.host == home.host or self._shunned(home.host, monotonic_s()):
            return
        kinds = ("forward", "backward")
        if not all(self._pace.knows(at, kind) for at in (home.host, seat.host) for kind in kinds):
            return
        saved_s = sum(
            self._pace.expected_s(seat.host, kind) - self._pace.expected_s(home.host, kind)
            for kind in kinds
        )
        replaying_s = self._bringing_s(home.host)
        fetching_s = self._pace.expected_s(seat.host, "snapshot?")
        fetching_s += self._pace.expected_s(home.host, "open")
        through_snapshot = self._history.kept is None and fetching_s < replaying_s
        moving_s = fetching_s if through_snapshot else replaying_s
        moving_s += self._pace.deadline_s(home.host, "room?")
        if saved_s * self._micros * (self._steps - self._history.version) <= moving_s:
            return
        if through_snapshot:
            await self._fetch(seat)
        back = await self._take(home)
        if back is not None:
            self._close(seat)
            self._settle(back)


async def _nothing(_: Seat) -> None:
    """What a round's beginning asks for beyond a host that has opened a session."""
