"""How adapters are combined: within a neighborhood after each round, and between neighborhoods.

Pure functions on adapters as PEFT names them. `METHODS` holds the ways to combine clients' adapters
(FedIT, FlexLoRA, FLoRA, FedSA, FFA, FedEx, HetLoRA and robust means), each `Method` the same kind
of function; `handed_in`, `handed_back` and `completed` say what of it crosses; `between` and
`laplacian` move adapters of neighborhoods, or of tasks, towards each other. Sums are taken in
float64, term by term in the order of the clients, and rounded once to fp32: the same arguments give
the same bits.
"""

from __future__ import annotations

from atlas.aggregation.means import average
from atlas.aggregation.methods import METHODS, Combined, Method, Round
from atlas.aggregation.moving import between, laplacian
from atlas.aggregation.pairs import low_rank, product_of, stack, sum_of
from atlas.aggregation.sharing import (
    PERSONAL,
    STARTED,
    Part,
    combine,
    combining_flops,
    completed,
    handed_back,
    handed_in,
    joined,
    parted,
)

__all__ = [
    "METHODS",
    "PERSONAL",
    "STARTED",
    "Combined",
    "Method",
    "Part",
    "Round",
    "average",
    "between",
    "combine",
    "combining_flops",
    "completed",
    "handed_back",
    "handed_in",
    "joined",
    "laplacian",
    "low_rank",
    "parted",
    "product_of",
    "stack",
    "sum_of",
]
