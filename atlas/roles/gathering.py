"""Text on its way to one place, for methods that train where all of it is.

Of each group the first client gathers: the others send it their text, and are devices like any
other from then on. What came is on its disk before it says so. It is the only text that ever leaves
a client, and it goes by a message of its own, for a purpose of its own.
"""

from __future__ import annotations

import contextlib

import msgpack

from atlas.models import ProtocolError
from atlas.protocol import MOST_AGAIN_S, TEXT, Accepted, Text, answer_within_s, parse
from atlas.roles.patience import keep
from atlas.roles.settings import RunSettings
from atlas.tasks import ClientData, Example
from broker import Message, Node
from topologies import InputError


async def gather(node: Node, settings: RunSettings, data: ClientData) -> ClientData | None:
    """All text of this client's group, where it is the one that gathers; else None, once its own is
    there.
    """
    first, *others = settings.group_of(node.name)
    if node.name != first:
        rows = [[row.prompt, row.answer, list(row.choices)] for row in data.examples]
        await _hand_over(node, first, msgpack.packb([data.task, rows]))
        return None
    while missing := [name for name in others if _file(name) not in node.disk]:
        message = await node.receive()
        try:
            body = parse(message)
        except InputError as error:
            node.note("malformed", source=message.source, problem=str(error))
            continue
        if isinstance(body, Text) and message.source in missing:
            await keep(node, _file(message.source), b"".join(message.payload))
            await have(message)
    examples = list(data.examples)
    for name in others:
        examples += _read(await node.disk.read(_file(name)))
    return ClientData(data.task, tuple(examples))


async def _hand_over(node: Node, first: str, packed: bytes) -> None:
    """Sends it until it is there."""
    within_s = answer_within_s(node, first, [packed])
    while True:
        with contextlib.suppress(TimeoutError):
            await node.request(first, Text().header(), [packed], purpose=TEXT, timeout=within_s)
            return
        within_s = min(2 * within_s, MOST_AGAIN_S)


async def have(message: Message, _: Text | None = None) -> None:
    """Says that a client's text is here."""
    await message.reply(Accepted().header())


def _file(client: str) -> str:
    return f"text-{client}"


def _read(packed: bytes) -> list[Example]:
    """Raises ProtocolError for what is no text."""
    try:
        _, rows = msgpack.unpackb(packed)
        return [Example(prompt, answer, tuple(choices)) for prompt, answer, choices in rows]
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"what came as text is none: {error}") from None
