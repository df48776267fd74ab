"""Who coordinates, and what is decided: an election among voters, as a pure state machine.

The rules are Raft's (Ongaro and Ousterhout, 2014), with a log of one entry: the state to agree on
is small, so each decision holds all of it and takes the place of the one before.

* A voter gives one vote a term, and only to a candidate whose record is as new as its own. Terms
  grow. So a term has at most one leader.
* What the leader decides it gives the next number and sends to all voters. It is *committed*, and
  may be acted upon, when a majority has it on disk under this leader's term. Any later leader was
  elected by a majority, one of which has it, so its own record is as new: it descends from it. What
  was acted upon is never undone.
* Before a voter stands for a new term it asks whether it would be elected (Ongaro's thesis, 9.6),
  and nobody says yes who hears from a leader. So a voter that was cut off can't disturb the others,
  and a minority's term does not grow.
* A leader that hears no majority for long resigns.

A leader says with every sign of life when the next one comes; it comes the less often the longer
nothing happens. Who waits for it allows three of these, and `FACTOR` times what they were late
before; a draw, seeded by voter and attempt, sees to it that not all stand at once.

The machine is told messages and the time, and gives messages to send. Whoever runs it writes
`ballot` to disk before it sends them, whenever it has changed. Messages may be lost, doubled and
come in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atlas.protocol import MOST_BEAT_S, CallVote, ElectionMessage, Follow, Lead, Vote

BEAT_S = 2.0
"""How often a leader gives a sign of life while something happens."""
FACTOR = 6.0
QUORUM_S = 30.0
"""How long a leader goes on without hearing a majority, beside three beats."""
REACH = 5
"""How often the time between two attempts doubles at most."""

Letter = tuple[str, ElectionMessage]
Version = tuple[int, int]


@dataclass(frozen=True)
class Ballot:
    """What a voter never forgets: its term, whom it voted for in it, and the last record it took.

    `version` is the term and the number of the record; a greater one is newer. `decision` is empty
    as long as nothing is decided.
    """

    term: int
    vote: str | None
    version: Version = (1, 0)
    decision: dict[str, Any] = field(default_factory=dict)


class Election:
    """One voter.

    Args:
        name: The voter's own.
        voters: All of them, in the same order everywhere.
        first: Who leads the first term, without an election.
        ballot: What an earlier life kept, or None in the first.
        seed: Of the draws.
        now_s: The time.
    """

    def __init__(
        self,
        name: str,
        voters: Sequence[str],
        first: str,
        ballot: Ballot | None,
        *,
        seed: int,
        now_s: float,
    ) -> None:
        self._name = name
        self._others = tuple(voter for voter in voters if voter != name)
        self._majority = len(voters) // 2 + 1
        self._seed = seed
        self._draws = 0
        self._attempts = 0
        self._late_s = 0.0
        self._next_s = BEAT_S
        self._heard_s = now_s
        self._heard: dict[str, float] = {}
        self._taken: dict[str, Version] = {}
        self._asking: tuple[int, bool] | None = None
        self._yes: set[str] = set()
        begins = ballot is None
        self.ballot = ballot or Ballot(1, first)
        self.leader: str | None = first if begins else None
        self.due_s = now_s + self._patience_s()
        if begins and name == first:
            self._lead(now_s)
        elif self.ballot.vote == name:
            self.due_s = now_s  # it may have led: the others wait for it

    @property
    def term(self) -> int:
        """The term that it is in. Never falls."""
        return self.ballot.term

    @property
    def leads(self) -> bool:
        """Whether this voter is the leader of its term."""
        return self.leader == self._name

    @property
    def committed(self) -> int | None:
        """The number of the last decision of this term that a majority has; None if it leads not,
        or none has been yet.
        """
        if not self.leads or self.ballot.version[0] != self.term:
            return None
        taken = sorted([self.ballot.version, *self._taken.values()], reverse=True)
        if len(taken) < self._majority or taken[self._majority - 1][0] != self.term:
            return None
        return taken[self._majority - 1][1]

    # What happens.

    def tick(self, now_s: float) -> list[Letter]:
        """It is `due_s`: a leader gives a sign of life, others lose patience with it."""
        if now_s < self.due_s:
            return []
        if not self.leads:
            return self._try(now_s)
        since_s = now_s - 3 * self._next_s - QUORUM_S
        if 1 + sum(heard >= since_s for heard in self._heard.values()) < self._majority:
            self._follow(None, now_s)
            return []
        return self._beat(now_s)

    def decide(self, decision: dict[str, Any], now_s: float) -> list[Letter]:
        """The leader proposes the next decision, made from the one in `ballot`."""
        assert self.leads, "only a leader decides"
        version = (self.term, self.ballot.version[1] + 1)
        self.ballot = replace(self.ballot, version=version, decision=decision)
        self._next_s = BEAT_S / 2
        return self._beat(now_s)

    def receive(self, source: str, message: ElectionMessage, now_s: float) -> list[Letter]:
        """A message of another voter, in whatever order they come."""
        if source not in self._others:
            return []
        if message.term > self.term:
            self.ballot = replace(self.ballot, term=message.term, vote=None)
            self._follow(None, now_s)
        match message:
            case CallVote():
                return self._vote(source, message, now_s)
            case Vote():
                return self._count(source, message, now_s)
            case Lead():
                return self._take(source, message, now_s)
            case Follow():
                if self.leads and message.term == self.term:
                    self._heard[source] = now_s
                    taken = self._taken.get(source, (0, 0))
                    self._taken[source] = max(taken, message.version)
        return []

    # Elections.

    def _try(self, now_s: float) -> list[Letter]:
        """Would I be elected?"""
        self._follow(None, now_s)
        self._asking, self._yes = (self.term + 1, True), {self._name}
        return self._won(now_s) or self._call(now_s)

    def _call(self, now_s: float) -> list[Letter]:
        if self._asking is None:  # a voter alone is elected without a letter
            return []
        asked, trial = self._asking
        self._attempts += 1
        wait_s = BEAT_S * 2.0 ** min(self._attempts - 1, REACH) + FACTOR * self._late_s
        self.due_s = now_s + wait_s * (1 + self._draw())
        call = CallVote(term=self.term, asked=asked, version=self.ballot.version, trial=trial)
        return [(voter, call) for voter in self._others]

    def _vote(self, source: str, call: CallVote, now_s: float) -> list[Letter]:
        new = call.version >= self.ballot.version
        if call.trial:
            content = self.leads or (
                self.leader not in (None, source) and now_s < self._heard_s + self._allowed_s()
            )
            granted = new and call.asked > self.term and not content
        else:
            granted = new and call.asked == self.term and self.ballot.vote in (None, source)
            if granted:
                self.ballot = replace(self.ballot, vote=source)
                self.due_s = max(self.due_s, now_s + self._patience_s())
        vote = Vote(term=self.term, asked=call.asked, trial=call.trial, granted=granted)
        return [(source, vote)]

    def _count(self, source: str, vote: Vote, now_s: float) -> list[Letter]:
        if not vote.granted or (vote.asked, vote.trial) != self._asking:
            return []
        self._yes.add(source)
        return self._won(now_s)

    def _won(self, now_s: float) -> list[Letter]:
        """What comes after a majority: the real election after the trial, and then office."""
        if self._asking is None or len(self._yes) < self._majority:
            return []
        asked, trial = self._asking
        if trial:
            self.ballot = replace(self.ballot, term=asked, vote=self._name)
            self._asking, self._yes = (asked, False), {self._name}
            return self._won(now_s) or self._call(now_s)
        self._asking = None
        self._lead(now_s)
        return self.decide(self.ballot.decision, now_s)

    # Leading and following.

    def _lead(self, now_s: float) -> None:
        self.leader = self._name
        self._attempts = 0
        self._heard = dict.fromkeys(self._others, now_s)
        self._taken = {}
        self._next_s = BEAT_S / 2
        self.due_s = now_s

    def _beat(self, now_s: float) -> list[Letter]:
        """A sign of life to everybody, with the record for those who don't have it."""
        self._next_s = min(2 * self._next_s, MOST_BEAT_S)
        self.due_s = now_s + self._next_s
        version = self.ballot.version
        bare = Lead(term=self.term, version=version, next_s=self._next_s, decision=None)
        whole = bare.model_copy(update={"decision": self.ballot.decision})
        return [
            (voter, bare if self._taken.get(voter) == version else whole) for voter in self._others
        ]

    def _take(self, source: str, lead: Lead, now_s: float) -> list[Letter]:
        if lead.term == self.term:
            if self.leader == source:
                late_s = min(now_s - self._heard_s - self._next_s, self._next_s)
                self._late_s = max(0.9 * self._late_s, late_s)
            self._follow(source, now_s)
            self._heard_s, self._next_s, self._attempts = now_s, lead.next_s, 0
            self.due_s = now_s + self._patience_s()
            if lead.decision is not None and lead.version > self.ballot.version:
                self.ballot = replace(self.ballot, version=lead.version, decision=lead.decision)
        return [(source, Follow(term=self.term, version=self.ballot.version))]

    def _follow(self, leader: str | None, now_s: float) -> None:
        if self.leads:
            self.due_s = now_s + BEAT_S * (1 + self._draw())
        self.leader, self._asking = leader, None

    def _allowed_s(self) -> float:
        """How long a leader may be silent."""
        return 3 * self._next_s + 1.0 + FACTOR * self._late_s

    def _patience_s(self) -> float:
        return self._allowed_s() * (1 + self._draw())

    def _draw(self) -> float:
        """Uniform in [0, 1): by seed, voter and how many were drawn before."""
        self._draws += 1
        text = f"election {self._seed} {self._name} {self._draws}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2.0**56
