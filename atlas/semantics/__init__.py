"""Who is alike: signatures of clients' gradients, and the neighborhoods that they form.

`sketch` makes a few numbers of a client's gradients, part by part, wherever the layers are held;
`cluster` finds, from two halves of each client's signature, whether there is more than one
neighborhood, and which.
"""

from __future__ import annotations

from atlas.semantics.clustering import Neighborhoods, cluster
from atlas.semantics.signature import sketch

__all__ = ["Neighborhoods", "cluster", "sketch"]
