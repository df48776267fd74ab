"""What happened, in words: one sentence for each note that is worth telling to a person.

The live view, the plain lines and the report all tell an event by the same sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atlas.results.display import (
    count,
    show_layers,
    show_list,
    show_loss,
    show_memory,
    show_seconds,
    show_share,
)
from atlas.results.events import (
    Aggregated,
    Drifted,
    Dropped,
    Elected,
    Evaluated,
    Event,
    Evicted,
    Fault,
    Finished,
    Hedged,
    LeftOut,
    Moved,
    NeighborhoodsFound,
    Placed,
    Refused,
    Repaired,
    Replaced,
    Resumed,
    Returned,
    Suspected,
)

Tone = Literal["plain", "trouble", "doubt", "mended"]


@dataclass(frozen=True)
class Sentence:
    """A sentence without its full stop, and its tone.

    Tones: `trouble` something broke; `doubt` something seems broken or is not to be had; `mended`
        it goes on; `plain` the rest.
    """

    text: str
    tone: Tone


def tell(event: Event | None) -> Sentence | None:  # noqa: PLR0911, PLR0912
    """The sentence for an event, or None where there is nothing to tell."""
    match event:
        case NeighborhoodsFound():
            return Sentence(_neighborhoods(event), "plain")
        case Suspected():
            return Sentence(
                f"{event.client} has no answer from {event.host} after "
                f"{show_seconds(event.waited_s)} and looks for another host",
                "doubt",
            )
        case Repaired():
            return Sentence(_repaired(event), "mended")
        case Moved():
            layers = show_layers(event.first, event.last)
            return Sentence(f"{event.client} goes on at {event.host} with {layers}", "plain")
        case Returned():
            layers = show_layers(event.first, event.last)
            return Sentence(f"{event.client} is back at {event.host} with {layers}", "mended")
        case Hedged():
            return Sentence(_hedged(event), "plain")
        case Refused():
            because = f": {event.reason}" if event.reason else ""
            return Sentence(f"{event.host} can't serve {event.client}{because}", "doubt")
        case Evicted():
            return Sentence(_evicted(event), "trouble")
        case Resumed():
            return Sentence(
                f"{event.client} is back and goes on from its disk in round {event.round}", "mended"
            )
        case Aggregated():
            return Sentence(_aggregated(event), "plain")
        case Elected() | Replaced() | Dropped() | LeftOut() | Placed() | Drifted():
            return _membership(event)
        case Fault():
            return _fault(event)
        case Evaluated():
            return Sentence(_evaluated(event), "plain")
        case Finished():
            return Sentence(f"training is over after {count(event.rounds, 'round')}", "plain")
        case _:
            return None


def _membership(
    event: Elected | Replaced | Dropped | LeftOut | Placed | Drifted,
) -> Sentence:
    match event:
        case Elected():
            return Sentence(f"{event.coordinator} coordinates now, in term {event.term}", "mended")
        case Replaced():
            return Sentence(
                f"{event.aggregator} aggregates for {event.neighborhood} instead of {event.lost}, "
                f"in term {event.term}",
                "mended",
            )
        case Dropped():
            return Sentence(
                f"round {event.round} of {event.neighborhood} is closed without "
                f"{show_list(event.clients)}, who are late",
                "doubt",
            )
        case LeftOut():
            return Sentence(
                f"training begins without {show_list(event.clients)}, waited for "
                f"{show_seconds(event.waited_s)}",
                "doubt",
            )
        case Placed():
            return Sentence(
                f"{event.client} belongs to {event.neighborhood} from round {event.round} on",
                "plain",
            )
        case Drifted():
            return Sentence(
                f"{event.client} has other text by now and leaves {event.left} for "
                f"{event.neighborhood}, from round {event.round} on",
                "plain",
            )


def _neighborhoods(event: NeighborhoodsFound) -> str:
    groups = "; ".join(f"{name}: {', '.join(clients)}" for name, clients in event.members.items())
    return f"{count(len(event.members), 'neighborhood')} found ({groups})"


def _repaired(event: Repaired) -> str:
    text = f"{event.host} takes over {show_layers(event.first, event.last)} of {event.client} "
    text += f"from {event.lost}"
    if event.replayed:
        text += f", {count(event.replayed, 'step')} replayed"
    if event.fallback:
        return f"fallback: {text} (no host of the neighborhood could take it)"
    return text


def _evicted(event: Evicted) -> str:
    layers = show_layers(event.first, event.last)
    text = f"{event.host} gives up {layers} of {event.client} after {count(event.steps, 'step')}: "
    if event.why == "squeezed":
        return f"{text}its device takes {show_memory(event.bytes)} back"
    return f"{text}they were unused, and a newcomer needs {show_memory(event.bytes)}"


def _hedged(event: Hedged) -> str:
    text = f"{event.late} was late for {event.client}, and a stand-in was asked, too: "
    return text + (f"{event.host} was first" if event.host != event.late else "it was first yet")


def _aggregated(event: Aggregated) -> str:
    clients = event.clients if isinstance(event.clients, int) else len(event.clients)
    where = f" at {event.aggregator}" if event.aggregator else ""
    loss = "" if event.mean_loss is None else f", mean loss {show_loss(event.mean_loss)}"
    return (
        f"{event.neighborhood} has combined the adapters of {count(clients, 'client')}{where} "
        f"after round {event.round}{loss}"
    )


def _fault(event: Fault) -> Sentence:
    words = fault_in_words(event)
    if event.phase == "begin":
        return Sentence(words, "trouble")
    if event.kind == "crash" and event.nodes:
        return Sentence(f"{show_list(event.nodes)} {_verb(event.nodes, 'restart')}", "mended")
    return Sentence(f"over: {words}", "mended")


_FATES = {"crash": "die", "stop": "stop", "pause": "freeze"}


def fault_in_words(event: Fault) -> str:
    """What a fault does, from its kind and its `text` ("slow edge-2: compute 4x")."""
    short = event.text.removeprefix("end of ").removeprefix(event.kind).strip()
    subject, _, change = short.partition(": ")
    subject = (
        show_list(event.nodes) or subject or show_list([" → ".join(link) for link in event.links])
    )
    more = f" ({change})" if change else ""
    where = short.partition(": ")[0] or subject
    if event.kind in _FATES:
        return f"{subject} {_verb(event.nodes, _FATES[event.kind])}{more}"
    if event.kind == "degrade" and where.startswith("links "):
        return f"bad {where}{more}"
    words = {
        "slow": f"{subject} {_verb(event.nodes, 'compute')} slower{more}",
        "skew": f"the clock of {subject} goes wrong{more}",
        "degrade": f"a bad link: {where}{more}",
        "partition": f"the network is cut: {short or subject}",
        "traffic": f"traffic of others: {where}{more}",
    }
    return words.get(event.kind) or " ".join(p for p in (event.kind, short or subject) if p)


def _verb(subjects: tuple[str, ...], verb: str) -> str:
    return verb if len(subjects) > 1 else f"{verb}s"


def _evaluated(event: Evaluated) -> str:
    where = f" ({event.neighborhood})" if event.neighborhood and event.phase == "after" else ""
    text = f"{event.task}{where} {event.phase} training: loss {show_loss(event.loss)}"
    if event.choice_loss is not None:
        text += f", over the choices {show_loss(event.choice_loss)}"
    if event.accuracy is not None:
        text += f", accuracy {show_share(event.accuracy)}"
    if event.majority is not None:
        text += f" (always the same answer: {show_share(event.majority)})"
    return text
