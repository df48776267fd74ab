"""How many bytes a message is on the wire, headers counted.

A stream cuts it into segments (`Transport.segment_bytes`, each with `header_bytes`), a datagram is
one UDP packet (8 bytes of header) in IPv4 fragments (20 each, and Ethernet's 14) whose payload is a
multiple of 8 bytes (RFC 791, RFC 768).
"""

from __future__ import annotations

from topologies import Transport

SEGMENT_BYTES = 1_448
HEADER_BYTES = 66
LARGEST_DATAGRAM = 65_507
_UDP, _IP, _ETHERNET = 8, 20, 14


def wire_bytes(
    size_bytes: int, *, segment_bytes: int = SEGMENT_BYTES, header_bytes: int = HEADER_BYTES
) -> int:
    """What a message of a stream takes on the wire; an empty one has a segment, too."""
    return size_bytes + (-(-size_bytes // segment_bytes) or 1) * header_bytes


def fragments(size_bytes: int, transport: Transport) -> int:
    """How many packets a datagram is, where a packet holds what a full segment's does."""
    packet = transport.segment_bytes + max(transport.header_bytes - _ETHERNET - _IP, 0)
    return -(-(size_bytes + _UDP) // max(packet // 8 * 8, 8))


def datagram_bytes(size_bytes: int, transport: Transport) -> int:
    """What a datagram takes on the wire."""
    return size_bytes + _UDP + fragments(size_bytes, transport) * (_IP + _ETHERNET)
