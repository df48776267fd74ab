"""One connection through the proxy: two real sockets, and two ways between them, each on its own.

What a program sends is taken from its socket and goes through the toxics of its way, then through
the network, and into the other program's socket when it is there. TCP is kept up end to end:

- *Back pressure.* A way holds a bounded number of bytes; then nothing is read any more, and the
  sender's own kernel tells the sender. What the receiver does not read fills the same bound.
- *Half-close.* A FIN goes behind the bytes before it, and the other way stays open.
- *Reset.* An RST overtakes what was not yet on the wire, as a kernel drops its send buffer.
- *Handshake.* SYN, SYN-ACK and ACK cross the network: the server is called when the SYN is there,
  and the first bytes come a round trip and a half after the client began.

When a node *crashes* its own program's sockets are reset, for that program forgets them, and the
other end is not told: it has a half-open connection, hears nothing, and is reset only when it says
something to a machine that has come back. When a node is *stopped* the kernel lives on and resets
the others at once. A *paused* node's sockets are neither read nor written.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from broker.network import SEGMENT_BYTES
from broker.network.paths import queue_bytes
from broker.proxy.items import Ending, Item
from broker.proxy.stages import Stage
from broker.proxy.world import World
from faults import Conditions
from topologies import Link

GRAIN_S = 1e-3
"""What a link sends in this time goes as one piece: the receiver sees bytes that come evenly."""
MOST_GRAIN, LEAST_HELD = 64 * 2**10, 64 * 2**10
UNSHAPED_HELD = 2**20
_WRITE_BUFFER = 2**18
_SYN_RETRIES = 7  # Linux: at once, then after 1, 2, 4 … 32 s
_ABORT = struct.pack("ii", 1, 0)  # struct linger: an RST instead of a FIN

Way = Literal["upstream", "downstream"]


@dataclass(slots=True)
class Tally:
    """What became of the connections of a route, and of their bytes, by the way they went."""

    opened: int = 0
    refused: int = 0
    reset: int = 0
    taken: int = 0
    handed: int = 0
    lost: int = 0

    def add(self, other: Tally) -> None:
        """Counts another one's in."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class End(asyncio.Protocol):
    """The socket of one real program. `node` is where it stands; None where there is no network."""

    transport: asyncio.Transport
    sends: Half
    receives: Half

    def __init__(self, connection: Connection, node: str | None) -> None:
        self._connection = connection
        self.node = node
        self.is_open = False  # the socket is there
        self.heard_all = False  # its program has said that no more will come
        self.told_all = False  # it has been told so
        self.full = False  # it does not read as fast as is written to it
        self.frozen = False
        self.dead = False  # its node crashed, and has forgotten it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.is_open = True
        transport.pause_reading()
        transport.set_write_buffer_limits(_WRITE_BUFFER)

    def data_received(self, data: bytes) -> None:
        self.sends.take(data)

    def eof_received(self) -> bool:
        self.heard_all = True
        self.sends.take(Ending.FINISH)
        self._part()
        return True

    def pause_writing(self) -> None:
        self.full = True
        self.receives.steer()

    def resume_writing(self) -> None:
        self.full = False
        self.receives.steer()

    def connection_lost(self, _: Exception | None) -> None:
        was_open, self.is_open = self.is_open, False
        self._connection.lost_socket(self, ours=not was_open)

    def finish(self) -> None:
        """The other program will say no more."""
        if self.is_open and not self.told_all:
            self.told_all = True
            if not self.heard_all and self.transport.can_write_eof():
                with contextlib.suppress(OSError):
                    self.transport.write_eof()
            self._part()

    def close(self) -> None:
        """Closes its socket, once what was written is out."""
        if self.is_open:
            self.is_open = False
            self.transport.close()

    def reset(self) -> None:
        """Its program sees a reset."""
        if self.is_open:
            self.is_open = False
            self._connection.tally.reset = 1
            with contextlib.suppress(OSError):
                known: socket.socket = self.transport.get_extra_info("socket")
                known.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            self.transport.abort()

    def _part(self) -> None:
        if self.heard_all and self.told_all:
            self.close()


class Half:
    """One way of a connection, from a program's socket to the other's."""

    def __init__(self, source: End, target: End, world: World | None, channel: int) -> None:
        self.source, self.target = source, target
        self.stages: list[Stage] = []
        self.tally = Tally()
        self._world, self._channel = world, channel
        self._held = self._in_network = 0
        self._call = 0  # counts how often it was hung up
        self._late: deque[Item] = deque()  # is there, but the node is frozen
        self._is_open = self._reads = False
        self._touched = False
        self._being_told: asyncio.Future[None] | None = None
        self._grain, self._most = MOST_GRAIN, UNSHAPED_HELD
        self._entry: Callable[[Item], None] = self.pass_on
        self.measure()

    # In.

    def open(self) -> None:
        """From now on its program may send."""
        self._is_open = True
        self.steer()

    def take(self, item: Item) -> None:
        """The program has sent something."""
        if not isinstance(item, Ending):
            self.tally.taken += len(item)
            self._held += len(item)
        self._entry(item)
        self.steer()

    def chain(self, stages: Sequence[Stage]) -> None:
        """It goes through these, one after the other, from now on."""
        self.stages = list(stages)
        for stage, following in pairwise(self.stages):
            stage.give = following.take
        if self.stages:
            self.stages[-1].give = self.pass_on
        self._entry = self.stages[0].take if self.stages else self.pass_on
        self.measure()

    def lose(self, count: int) -> None:
        """So many bytes will never arrive."""
        self._held -= count
        self.tally.lost += count
        self.steer()

    def measure(self) -> None:
        """How much it holds at most, and in what pieces bytes go over the links as they are now."""
        most = [stage.toxic.attributes.held_bytes for stage in self.stages if stage.acts]
        links = self._links()
        if links:
            rate_bps = min(link.bandwidth_bps for link in links)
            segments = max(int(rate_bps / 8 * GRAIN_S) // SEGMENT_BYTES, 1)
            self._grain = min(segments * SEGMENT_BYTES, MOST_GRAIN)
            round_trip_s = 2 * sum(link.delay_s for link in links)
            # A window's worth on the way and in the queue, twice, as Linux sizes send buffers.
            wanted = 2 * (rate_bps / 8 * round_trip_s + max(map(queue_bytes, links)))
            bound = self._world.topology.transport.send_buffer_bytes if self._world else 0
            most.append(min(max(int(wanted), LEAST_HELD), bound))
        self._most = max(most, default=self._most if self._world else UNSHAPED_HELD)

    def _links(self) -> tuple[Link, ...] | None:
        world, ends = self._world, (self.source.node, self.target.node)
        if world is None or ends[0] is None or ends[1] is None:
            return None
        return world.links(ends[0], ends[1])

    def steer(self) -> None:
        """Reads what its program sends, or lets it wait."""
        source = self.source
        if not source.is_open or source.heard_all:
            return
        most = self._most if self._reads else self._most // 2
        reads = self._is_open and self._held < most and not self.target.full and not source.frozen
        if reads != self._reads:
            self._reads = reads
            if reads:
                source.transport.resume_reading()
            else:
                source.transport.pause_reading()

    # On the way.

    def pass_on(self, item: Item) -> None:
        """What has come through the toxics goes into the network, or into the other socket."""
        if self.target.dead:
            self.lose(_size(item))
            self.touch()
        elif self._world is None:
            self._arrive(item)
        elif isinstance(item, Ending):
            if item is not Ending.FINISH:
                self._hang_up()
            self._carry(0, functools.partial(self._ended, item, self._call))
        else:
            self._in_network += len(item)
            whole = memoryview(item)
            for begin in range(0, len(whole), self._grain):
                part = whole[begin : begin + self._grain]
                self._carry(len(part), functools.partial(self._ended, part, self._call))

    def _carry(self, size: int, then: Callable[[str], None]) -> None:
        world, source, target = self._world, self.source.node, self.target.node
        if world is None or source is None or target is None:
            then("")
        else:
            world.carry(source, target, self._channel, size, then)

    def cross(self) -> asyncio.Future[bool]:
        """A packet without bytes goes this way: whether it arrives, unless that is never known."""
        there: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def then(reason: str) -> None:
            if not there.done():
                there.set_result(not reason)

        self._carry(0, then)
        return there

    def _hang_up(self) -> None:
        """What is in the network is lost."""
        self._call += 1
        if self._world is not None and self.source.node and self.target.node:
            self._world.hang_up(self.source.node, self.target.node, self._channel)
        lost, self._in_network = self._in_network, 0
        self.lose(lost)

    def touch(self) -> None:
        """Something was said to a node that has forgotten this connection, or is down."""
        self._touched = True
        self.retry()

    def retry(self) -> None:
        """What was said to a node that was down is said again; once it is back it answers that it
        knows nothing of this connection.
        """
        if self._touched and self.target.dead and self.source.is_open and self._links():
            self._touched = False
            self._being_told = asyncio.ensure_future(self._be_told())

    async def _be_told(self) -> None:
        if await self.cross() and await self.target.sends.cross():
            self.source.reset()
        else:
            self._touched = True

    # Out.

    def _ended(self, item: Item, call: int, reason: str) -> None:
        if call != self._call:
            return
        self._in_network -= _size(item)
        if not reason:
            self._arrive(item)
            return
        self.lose(_size(item))
        if reason == "stream timeout":  # the sender's kernel has given up
            self.source.reset()
        elif self.target.dead:
            self.touch()

    def _arrive(self, item: Item) -> None:
        target = self.target
        if target.frozen:
            self._late.append(item)
        elif not isinstance(item, Ending):
            if not target.is_open:
                self.lose(len(item))
                return
            self._held -= len(item)
            self.tally.handed += len(item)
            target.transport.write(item)
            if not self._reads:
                self.steer()
        elif item is Ending.FINISH:
            target.finish()
        elif item is Ending.RESET:
            target.reset()
        else:
            self.source.close()
            target.close()

    def thaw(self) -> None:
        """The node goes on: what is there is taken up."""
        while self._late and not self.target.frozen:
            self._arrive(self._late.popleft())

    @property
    def holds(self) -> bool:
        """Whether bytes are under way."""
        return self._held > 0

    def drop(self) -> None:
        """Nothing more will arrive."""
        for stage in self.stages:
            stage.drop()
        self._hang_up()
        self._late.clear()
        self.lose(self._held)

    def close(self) -> None:
        """As `drop`, for ever."""
        if self._being_told is not None:
            self._being_told.cancel()
        self._is_open = False
        self.drop()


class Connection:
    """A client that was accepted, and the server that is called for it.

    `ended` is called once nothing is left of it; `node_of` are the nodes of client and server.
    """

    def __init__(
        self,
        accepted: socket.socket,
        upstream: tuple[str, int],
        channel: int,
        world: World | None,
        nodes: tuple[str | None, str | None],
        ended: Callable[[Connection], None],
    ) -> None:
        self.number = channel
        self._upstream = upstream
        self._ended = ended
        self._over = False
        self.client, self.server = End(self, nodes[0]), End(self, nodes[1])
        self.up = Half(self.client, self.server, world, channel)
        self.down = Half(self.server, self.client, world, channel)
        self.client.sends = self.server.receives = self.up
        self.server.sends = self.client.receives = self.down
        self.tally = Tally(opened=1)
        self._world = world
        self._opening = asyncio.ensure_future(self._open(accepted))

    def tallies(self) -> tuple[Tally, Tally, Tally]:
        """What has become of it so far: all of it, and what went up, and down."""
        whole = Tally()
        for part in (self.tally, self.up.tally, self.down.tally):
            whole.add(part)
        return whole, self.up.tally, self.down.tally

    def half(self, way: Way) -> Half:
        """The way of this name."""
        return self.up if way == "upstream" else self.down

    async def _open(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self.client, accepted)
        except OSError:
            accepted.close()
            self._finish()
            return
        if self._world is not None:
            self._weather(self._world.conditions)
        for retry in range(_SYN_RETRIES):
            if await self.up.cross():
                break
            await asyncio.sleep(2**retry)
        else:
            self.client.reset()
            return
        try:
            await loop.create_connection(lambda: self.server, *self._upstream)
        except OSError:
            self.tally.refused = 1
            if await self.down.cross():
                self.client.reset()
            return
        if self._world is not None:
            self._weather(self._world.conditions)
        if await self.down.cross():
            self.up.open()
            if await self.up.cross():
                self.down.open()

    # What happens to its nodes.

    def strike(self, conditions: Conditions) -> None:
        """The conditions are these from now on."""
        self._weather(conditions)
        for half in (self.up, self.down):
            half.measure()
            half.thaw()
            half.steer()
            half.retry()

    def _weather(self, conditions: Conditions) -> None:
        for end in (self.client, self.server):
            if end.node is None:
                continue
            end.frozen = conditions.is_paused(end.node)
            if not end.is_open:
                continue
            if not conditions.is_up(end.node):
                self._die(end)
            elif conditions.is_stopped(end.node):
                end.reset()
                end.sends.take(Ending.RESET)

    def _die(self, end: End) -> None:
        """Its node is gone: it has forgotten the connection, and its peer does not know."""
        end.dead = True
        unheard = end.receives.holds
        end.reset()
        end.sends.drop()
        end.receives.drop()
        if unheard:
            end.receives.touch()

    def lost_socket(self, end: End, *, ours: bool) -> None:
        """A socket is closed: by us, or its program has reset it, or died."""
        if not ours:
            self.tally.reset = 1
            end.sends.take(Ending.RESET)
        other = self.server if end is self.client else self.client
        if not other.is_open:
            self._finish()

    def close(self) -> None:
        """Closes both sockets."""
        self.client.close()
        self.server.close()
        self._finish()

    def reset(self) -> None:
        """Resets both sockets."""
        self.client.reset()
        self.server.reset()
        self._finish()

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        self._opening.cancel()
        for half in (self.up, self.down):
            half.close()
        self._ended(self)


def _size(item: Item) -> int:
    return 0 if isinstance(item, Ending) else len(item)
