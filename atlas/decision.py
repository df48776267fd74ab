"""What the coordinator has decided, and how that may change: plain data and pure functions.

A decision is whole: whoever knows the last one knows all that is decided. It says who belongs to
which neighborhood from which round on, who aggregates there in which term of office, and which
rounds are closed. A round is closed under the office that closed it, with the members who were
dropped from it; that is never taken back. Members of a round are those who belonged to the
neighborhood when the round began, so nobody can come into one that runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Office(_Plain):
    """Who aggregates for a neighborhood. Each appointment is a term of its own, from 1 on."""

    aggregator: str
    term: int


class Closed(_Plain):
    """A round's end: in which term of office, and without whom. Term 0: it was over before the
    neighborhood began.
    """

    term: int
    dropped: tuple[str, ...] = ()


class Stay(_Plain):
    """A client belongs to a neighborhood from a round on, until its next stay begins."""

    client: str
    neighborhood: str
    since: int
    examples: int


class Decision(_Plain):
    """All that is decided.

    `closed` has an entry for each round of a neighborhood that is over, in order. `similarity` is
    between neighborhoods, in the order of `offices`. `stays` are in the order of the clients, in
    which sums are taken, and a client's own in the order of time.
    """

    offices: dict[str, Office]
    closed: dict[str, tuple[Closed, ...]]
    stays: tuple[Stay, ...]
    similarity: tuple[tuple[float, ...], ...]
    silhouette: float | None
    p_value: float | None
    landmarks: dict[str, Any]
    """`atlas.semantics.Landmarks` as plain data. Told to voters, not to members."""
    alike: dict[str, tuple[float, ...]] = {}
    """How alike the first clients' signatures are, by client, columns in the same order; where the
    method of aggregation needs it.
    """
    signed: dict[str, bytes] = {}
    """Signatures of a round in which drift is measured, as far as it is closed. Told to voters."""

    def members(self, neighborhood: str, round_: int) -> dict[str, int]:
        """Who belongs to a neighborhood in a round, with examples, in the order of the clients."""
        at = {stay.client: stay for stay in self.stays if stay.since <= round_}
        return {
            name: stay.examples for name, stay in at.items() if stay.neighborhood == neighborhood
        }

    def counted(self, neighborhood: str, round_: int) -> dict[str, int]:
        """The members whose adapters are in a closed round, with their examples."""
        dropped = self.closed[neighborhood][round_].dropped
        members = self.members(neighborhood, round_)
        return {name: examples for name, examples in members.items() if name not in dropped}

    def running(self, neighborhood: str) -> int:
        """The round that a neighborhood is in; the number of rounds where it is through."""
        return len(self.closed[neighborhood])

    def began(self, neighborhood: str) -> int:
        """The first round of a neighborhood: not 0 for one that was founded later."""
        return sum(each.term == 0 for each in self.closed[neighborhood])

    def passed(self, round_: int) -> bool:
        """Whether that round is closed in all neighborhoods."""
        return all(len(closed) > round_ for closed in self.closed.values())

    def home(self, client: str, round_: int | None = None) -> Stay | None:
        """Where a client belongs in a round, or lastly; None where it belongs nowhere."""
        stays = [stay for stay in self.stays if stay.client == client]
        return next((s for s in reversed(stays) if round_ is None or s.since <= round_), None)

    def near(self, neighborhood: str) -> dict[str, int]:
        """The neighborhoods that matter to one, itself among them, with their places in
        `similarity`.
        """
        names = list(self.offices)
        own = names.index(neighborhood)
        return {
            name: place
            for place, name in enumerate(names)
            if place == own or self.similarity[own][place] > 0
        }

    def alikeness(self, neighborhood: str, clients: Sequence[str]) -> list[list[float]]:
        """How alike the signatures of these members are. One that came late counts as like the
        others as members are on the mean.
        """
        places = {name: place for place, name in enumerate(self.alike)}
        own = list(self.offices).index(neighborhood)
        usual = self.similarity[own][own]
        return [
            [
                self.alike[one][places[other]] if one in places and other in places else usual
                for other in clients
            ]
            for one in clients
        ]


def first_decision(
    members: Mapping[str, Mapping[str, int]],
    aggregators: Mapping[str, str],
    similarity: Sequence[Sequence[float]],
    order: Sequence[str],
    *,
    silhouette: float | None,
    p_value: float | None,
    landmarks: dict[str, Any],
    alike: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Decision:
    """The decision that training begins with: `members` of each neighborhood with their examples,
    `order` that of all clients.
    """
    stays = [
        Stay(client=client, neighborhood=name, since=0, examples=examples)
        for name, group in members.items()
        for client, examples in group.items()
    ]
    return Decision(
        offices={name: Office(aggregator=aggregators[name], term=1) for name in members},
        closed=dict.fromkeys(members, ()),
        stays=_in_order(stays, order),
        similarity=tuple(tuple(row) for row in similarity),
        silhouette=silhouette,
        p_value=p_value,
        landmarks=landmarks,
        alike={client: tuple(row) for client, row in alike.items()},
    )


def close(
    decision: Decision, neighborhood: str, round_: int, term: int, present: Sequence[str]
) -> Decision:
    """The round is over with the adapters of `present`; the others are dropped from it.

    Nothing changes where that round is not the one that runs, or another term of office does.
    """
    if decision.running(neighborhood) != round_ or decision.offices[neighborhood].term != term:
        return decision
    members = decision.members(neighborhood, round_)
    dropped = tuple(name for name in members if name not in present)
    rounds = (*decision.closed[neighborhood], Closed(term=term, dropped=dropped))
    return decision.model_copy(update={"closed": decision.closed | {neighborhood: rounds}})


def appoint(decision: Decision, neighborhood: str, aggregator: str, instead_of: Office) -> Decision:
    """Another aggregator, in the next term of office, unless there is already another one."""
    office = decision.offices[neighborhood]
    if office != instead_of:
        return decision
    office = Office(aggregator=aggregator, term=office.term + 1)
    return decision.model_copy(update={"offices": decision.offices | {neighborhood: office}})


def settle(
    decision: Decision,
    client: str,
    neighborhood: str,
    examples: int,
    order: Sequence[str],
    *,
    since: int | None = None,
) -> Decision:
    """A client belongs to a neighborhood from the next round on that has not begun there, nor
    where it was before; or from round `since`.
    """
    home = decision.home(client)
    if home is not None and home.neighborhood == neighborhood:
        return decision
    since = decision.running(neighborhood) + 1 if since is None else since
    if home is not None:
        since = max(since, decision.running(home.neighborhood) + 1, home.since + 1)
    stay = Stay(client=client, neighborhood=neighborhood, since=since, examples=examples)
    return decision.model_copy(update={"stays": _in_order([*decision.stays, stay], order)})


def move(
    decision: Decision, client: str, neighborhood: str, since: int, order: Sequence[str]
) -> Decision:
    """A client belongs to another neighborhood from round `since` on, which has not begun anywhere.

    The last one of a neighborhood stays. Who aggregates for its neighborhood leaves that to the
    first who stay.
    """
    home = decision.home(client)
    assert home is not None, "who moves belongs somewhere"
    staying = [name for name in decision.members(home.neighborhood, since) if name != client]
    if home.neighborhood == neighborhood or not staying:
        return decision
    office = decision.offices[home.neighborhood]
    if office.aggregator == client:
        decision = appoint(decision, home.neighborhood, staying[0], office)
    stay = home.model_copy(update={"neighborhood": neighborhood, "since": since})
    return decision.model_copy(update={"stays": _in_order([*decision.stays, stay], order)})


def found(decision: Decision, aggregator: str, since: int, landmarks: dict[str, Any]) -> Decision:
    """One more neighborhood, like none of the others, from round `since` on; nobody is in it yet.

    `landmarks` have it last.
    """
    name = f"neighborhood-{len(decision.offices)}"
    apart = [(*row, 0.0) for row in decision.similarity]
    alone = (*(0.0 for _ in decision.offices), 1.0)
    return decision.model_copy(
        update={
            "offices": decision.offices | {name: Office(aggregator=aggregator, term=1)},
            "closed": decision.closed | {name: (Closed(term=0),) * since},
            "similarity": (*apart, alone),
            "landmarks": landmarks,
        }
    )


def _in_order(stays: Sequence[Stay], order: Sequence[str]) -> tuple[Stay, ...]:
    places = {name: place for place, name in enumerate(order)}
    return tuple(sorted(stays, key=lambda stay: (places[stay.client], stay.since)))
