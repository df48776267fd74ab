"""When two texts are the same: but for case, spacing, quotes and the punctuation around words.

Sets gathered on the web hold the same text again with another full stop or capital. Learned from in
one place and asked for in another, it makes any score look better than it is. Signs inside words
and others that stand alone are kept, for they can be what a problem is about: `2 - 2` and `2 * 2`.
"""

from __future__ import annotations

import unicodedata

BEGINNING = 16
"""Words by which a text is known again in another task, which may show less of it."""

_MARKS = ".,;:!?…"
_AROUND = _MARKS + "\"'`()[]{}<>“”‘’„«»"  # noqa: RUF001 - these quotes are meant


def plain(text: str) -> str:
    """The text in plain words: equal for texts that are the same.

    Unicode's compatibility forms are made one (NFKC), case is folded, white space is one space,
    punctuation at either end of a word goes, and marks that stand alone do, if that leaves any.
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    spoken = [word for word in words if word.strip(_MARKS)] or words
    return " ".join(word.strip(_AROUND) or word for word in spoken)


def beginning(text: str) -> str:
    """The first `BEGINNING` words of the text in plain words."""
    head = text[: 40 * BEGINNING].split()[:BEGINNING]
    return plain(" ".join(head))
