"""What a graph can be told, in files and in NetworkX: our own settings as attributes.

Nodes and edges carry the settings of our own files under the same names (`topologies.layout`):
``role``, ``device``, ``grant``, ``cluster`` and declared attributes on nodes; ``bandwidth``,
``delay``, ``jitter``, ``loss``, … on edges (`topologies.link_settings`), as text with units.
Programs may write SI numbers instead, under the names of a `Link`: ``bandwidth_bps``, ``delay_s``,
``jitter_s``, ``queue_bytes``; ``grant_bytes`` on nodes. Lists and mappings are texts, because
GraphML has neither: a table of jitter, a device's networks, and what is derived
(``delay_s=great-circle``). A transport stands in the graph's own attributes, as
``transport_congestion``, ``transport_initial_window``, ….
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StrictBool

from topologies import units
from topologies.document import Settings
from topologies.errors import InputError
from topologies.fields import one_of
from topologies.jitter import SHAPES
from topologies.layout import NodeSettings
from topologies.link_settings import CONGESTION, Direction, LossSettings

TRANSPORT = "transport_"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chance(value: object) -> object:
    return value if value is None or _is_number(value) else units.fraction(value)


def _loss(value: object) -> object:
    return LossSettings.model_construct(mean=float(value)) if _is_number(value) else value  # type: ignore[arg-type]


def _words(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def marks(value: object) -> object:
    """What is derived, and how, out of the text that stands for it in a graph.

    Raises InputError.
    """
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for word in value.split():
        name, equals, rule = word.partition("=")
        if not equals:
            problem = f'"{word}" is not what a value is derived by'
            raise InputError(problem, remedy="Write field=rule, as delay_s=great-circle")
        found[name] = rule
    return found


_Derived = Annotated[dict[str, str], BeforeValidator(marks)]


class GraphNode(NodeSettings):
    """A node's settings in a graph file: our own, or a device written out in SI numbers."""

    knows_null = True

    memory_bytes: int | None = None
    grant_bytes: int | None = None
    flops: float | None = None
    device_source: str = ""
    disk_bytes: int | None = None
    disk_read_bps: float | None = None
    disk_write_bps: float | None = None
    networks: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    derived: _Derived = Field(default_factory=dict)


class GraphEdge(Direction):
    """An edge's settings in a graph file: our own, or SI numbers under the names of a `Link`."""

    knows_null = True

    loss: Annotated[LossSettings | None, BeforeValidator(_loss)] = None
    duplicate: Annotated[float | None, BeforeValidator(_chance)] = None
    reorder: Annotated[float | None, BeforeValidator(_chance)] = None
    corrupt: Annotated[float | None, BeforeValidator(_chance)] = None
    bandwidth_bps: float | None = None
    delay_s: float | None = None
    jitter_s: float | None = None
    jitter_shape: Annotated[str, one_of((*SHAPES, "table"), what="shapes of jitter")] | None = None
    jitter_table: Annotated[tuple[float, ...] | None, BeforeValidator(_words)] = None
    burst: float | None = None
    queue_bytes: int | None = None
    derived: _Derived = Field(default_factory=dict)


class GraphSettings(Settings):
    """What a graph file says of the whole."""

    knows_null = True

    name: str | None = None
    description: str = ""
    attributes: str = ""
    transport_congestion: Annotated[str, one_of(CONGESTION, what="laws of congestion")] | None = (
        None
    )
    transport_segment_bytes: int | None = None
    transport_header_bytes: int | None = None
    transport_initial_window: int | None = None
    transport_minimum_rto_s: float | None = None
    transport_send_buffer_bytes: int | None = None
    transport_timeout_s: float | None = None


class Graph(Settings):
    """Node-link JSON, as `networkx.node_link_data` writes it."""

    knows_null = True

    directed: StrictBool = False
    multigraph: StrictBool = False
    graph: GraphSettings = GraphSettings()
    nodes: list[dict[str, object]]
    edges: list[dict[str, object]] | None = None
    links: list[dict[str, object]] | None = None
