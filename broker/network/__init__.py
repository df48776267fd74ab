"""The network as a pure state machine: sends, faults and time in; fates of messages out.

No sockets and no clock of its own: `Network.send`, `apply` and `advance` are told the instant, and
`next_ns` says when something will happen next. Time is whole nanoseconds; the same topology, seed
and calls give the same fates. Later traffic moves earlier arrivals, so nobody is told an arrival
before it has happened, except by `arrivals`, of what has left its last bottleneck.

The model is a fluid one with the windows of TCP. Each ordered pair of nodes has one flow, first in,
first out inside; flows share the links they cross by weighted max-min fairness.

    sharing     weighted max-min, a pure function of a table
    laws        the published laws of TCP's throughput
    chance      jitter and losses, from seeded streams
    segments    what a message is on the wire
    routes      who reaches whom, shortest by delay
    paths       a route with all that a flow needs to know of it
    ways        the topology under the conditions of now
    window      a sender's congestion window
    flow        one stream of messages and its sender
    datagrams   packets that nobody sends again
    model       all of it together: `Network`
"""

from broker.network.model import Cost, Fate, Network
from broker.network.segments import HEADER_BYTES, SEGMENT_BYTES, datagram_bytes, wire_bytes
from broker.network.sharing import Demand, Use, max_min

__all__ = [
    "HEADER_BYTES",
    "SEGMENT_BYTES",
    "Cost",
    "Demand",
    "Fate",
    "Network",
    "Use",
    "datagram_bytes",
    "max_min",
    "wire_bytes",
]
