"""Who may join a bus in wall time, and as which nodes.

A hello has three steps. The connection says hello; the bus answers with a question (random bytes,
for this connection, once); the connection says which nodes it brings and proves that it knows their
secret word by its HMAC over the question and the names. So a hello that was recorded and is played
again proves nothing. Where the bus has CURVE keys the proof is the key's: ZAP has told whose it is,
and a connection can bring that node and no other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.errors import FrameError

WAITING = 1_024
"""So many connections may have been asked and not have answered."""
_IDENTITY_BYTES = 5


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody who has proved to be these nodes.

    `lives` says which of their programs are running already, as which incarnation: whoever was cut
    off goes on where they were.
    """

    identity: bytes
    nodes: frozenset[int]
    lives: dict[int, int]


class Admission:
    """Decides over hellos. `words` has each node's secret word; with `keyed`, keys decide instead.

    `is_here` tells whether a node lives behind a connection that is still there.
    """

    def __init__(
        self,
        names: Sequence[str],
        words: Mapping[str, bytes],
        *,
        keyed: bool,
        is_here: Callable[[int], bool],
    ) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._words = words
        self._keyed = keyed
        self._is_here = is_here
        self._asked: dict[bytes, bytes] = {}

    def hear(
        self, identity: bytes, user: str, body: Mapping[str, Any]
    ) -> dict[str, object] | Newcomer:
        """What to answer, or who has come. Raises FrameError with the reason it is nobody."""
        if len(identity) != _IDENTITY_BYTES or identity[0]:
            raise FrameError("a routing id of its own choice")  # the bus makes them, unguessable
        if "proof" not in body:
            if len(self._asked) >= WAITING:
                del self._asked[next(iter(self._asked))]
            question = self._asked[identity] = secrets.token_bytes(16)
            return {"question": question}
        question = self._asked.pop(identity, b"")
        if not question:
            raise FrameError("an answer to no question")
        names, proof = body.get("nodes"), body["proof"]
        if not isinstance(names, list) or not names or not isinstance(proof, bytes):
            raise FrameError("a hello without nodes")
        numbers = [self._numbers.get(name) if isinstance(name, str) else None for name in names]
        nodes = frozenset(number for number in numbers if number is not None)
        if len(nodes) != len(names):
            raise FrameError("a node that is not there")
        if self._keyed:
            if names != [user]:
                raise FrameError("a key that is another node's")
        elif not self._is_proved(names, question, proof):
            raise FrameError("wrong word")
        lives = self._lives(body.get("lives", {}), nodes)
        if not lives and any(self._is_here(number) for number in nodes):
            raise FrameError("second hello")
        return Newcomer(identity, nodes, lives)

    def _lives(self, lives: object, nodes: frozenset[int]) -> dict[int, int]:
        if not isinstance(lives, dict):
            raise FrameError("lives that make no sense")
        found = {self._numbers.get(name, -1): life for name, life in lives.items()}
        known = all(isinstance(life, int) and 0 <= life < 2**32 for life in found.values())
        if not known or not found.keys() <= nodes:
            raise FrameError("lives that make no sense")
        return found

    def _is_proved(self, names: Sequence[str], question: bytes, proof: bytes) -> bool:
        words = {self._words[name] for name in names}
        return len(words) == 1 and hmac.compare_digest(
            proof_of(words.pop(), question, names), proof
        )


def proof_of(word: bytes, question: bytes, names: Sequence[str]) -> bytes:
    """What answers the bus's question."""
    said = b"\0".join([question, *(name.encode() for name in names)])
    return hmac.new(word, said, hashlib.sha256).digest()
