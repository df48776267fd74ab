"""Who is alike: signatures of clients' gradients, and the neighborhoods that they form.

`sketch` makes a few numbers of a client's gradients, part by part, wherever the layers are held;
`private_sum` does so for text of which no single example may be told from the signature.
`cluster` finds, from two halves of each client's signature, whether there is more than one
neighborhood, and which. With the landmarks that it leaves, `place` finds the neighborhood of who
comes later, and `drifted` that of who no longer belongs to his.
"""

from __future__ import annotations

from atlas.semantics.clustering import Neighborhoods, cluster
from atlas.semantics.placing import Landmarks, Placement, drifted, place
from atlas.semantics.privacy import noise_multiplier, private_sum, spent
from atlas.semantics.signature import decode, encode, sketch

__all__ = [
    "Landmarks",
    "Neighborhoods",
    "Placement",
    "cluster",
    "decode",
    "drifted",
    "encode",
    "noise_multiplier",
    "place",
    "private_sum",
    "sketch",
    "spent",
]
