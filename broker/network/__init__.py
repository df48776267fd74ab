"""The network as a pure state machine: sends, faults and time in; fates of messages out.

No sockets and no clock of its own: `Network.send`, `apply` and `advance` are told the instant, and
`next_ns` says when something will happen next. Time is whole nanoseconds; the same topology, seed
and calls give the same fates. Later traffic moves earlier arrivals, so nobody is told an arrival
before it has happened, except by `arrivals`, of what has left its last bottleneck.

Each ordered pair of nodes has one stream, first in, first out inside. Its short messages are trains
of packets: first in, first out at each link, at its full rate, as datagrams are; and where a link
is much slower than all others on the way, so is each window of what is longer, until the link has
been busy for a while. All else drains as a fluid, and such flows share the links they cross by
weighted max-min fairness; trains take their time from them, and so does traffic in the background
that does not give way.

    sharing     weighted max-min, a pure function of a table
    laws        the published laws of TCP's throughput
    chance      jitter and losses, from seeded streams
    segments    what a message is on the wire
    lookahead   how soon a message can be anywhere
    calls       who has called whom across NATs
    routes      who reaches whom, shortest by delay
    paths       a route with all that a flow needs to know of it
    ways        the topology under the conditions of now
    agenda      what happens when, and what has ended
    window      a sender's congestion window
    flow        one stream as a fluid: its messages, and how far they have drained
    sender      its sender: window, round trips, losses
    shares      who gets how much of what, solved once an instant
    progress    what happens to streams in the course of time
    streams     all of them: trains or fluids, and faults
    datagrams   packets that nobody sends again, at one link
    carrier     and on their way over all
    model       all of it together: `Network`
"""

from broker.network.model import Cost, Fate, Load, Network
from broker.network.segments import HEADER_BYTES, SEGMENT_BYTES, datagram_bytes, wire_bytes
from broker.network.sharing import Demand, Use, max_min

__all__ = [
    "HEADER_BYTES",
    "SEGMENT_BYTES",
    "Cost",
    "Demand",
    "Fate",
    "Load",
    "Network",
    "Use",
    "datagram_bytes",
    "max_min",
    "wire_bytes",
]
