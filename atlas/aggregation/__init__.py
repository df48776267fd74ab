"""How adapters are combined: within a neighborhood after each round, and between neighborhoods.

Pure functions on adapters as PEFT names them. `METHODS` holds the ways to combine clients' adapters
(FedIT, FlexLoRA, FLoRA, FedSA, FFA, FedEx, HetLoRA, robust means and MIRA's), each `Method` the
same kind of function; `handed_in`, `handed_back` and `completed` say what of it crosses; `between`
moves adapters of neighborhoods towards each other, `laplacian` those of clients. Sums are taken in
float64, term by term in the order of the clients, and rounded once to fp32: the same arguments give
the same bits.
"""

from __future__ import annotations

from atlas.aggregation.means import average
from atlas.aggregation.methods import METHODS, Combined, Method, Round
from atlas.aggregation.moving import between, laplacian, random_graph, settling
from atlas.aggregation.pairs import joined, low_rank, parted, product_of, stack, sum_of
from atlas.aggregation.sharing import (
    ADDRESSED,
    PERSONAL,
    STARTED,
    Merged,
    Part,
    combine,
    combining_flops,
    completed,
    handed_back,
    handed_in,
)

__all__ = [
    "ADDRESSED",
    "METHODS",
    "PERSONAL",
    "STARTED",
    "Combined",
    "Merged",
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
    "random_graph",
    "settling",
    "stack",
    "sum_of",
]
