"""Names for nodes, out of the labels that other programs gave them.

Labels repeat, are empty, and have characters that no folder's name can have. A node is called by
its label, cleaned; where several have the same one, by the label and its id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def distinct(labels: Sequence[tuple[str, str]]) -> list[str]:
    """A name of its own for each label and id."""
    cleaned = [clean(label) or clean(identity) or "node" for label, identity in labels]
    shared = Counter(cleaned)
    taken = {name for name in shared if shared[name] == 1}
    names: list[str] = []
    for name, (_, identity) in zip(cleaned, labels, strict=True):
        if shared[name] == 1:
            names.append(name)
            continue
        stem = candidate = f"{name}-{clean(identity) or 'node'}"
        count = 1
        while candidate in taken:
            count += 1
            candidate = f"{stem}-{count}"
        taken.add(candidate)
        names.append(candidate)
    return names


def clean(label: str) -> str:
    """A label as a name, which is also that of a folder; empty where nothing of it is left."""
    printable = "".join(c if c.isprintable() else " " for c in label)
    name = " ".join(printable.replace("/", "-").replace("\\", "-").split())[:150].strip()
    return "" if name in (".", "..") else name
