"""A listening socket that can be open, deaf or shut, as the machine that it stands for is.

    open   connections are accepted
    deaf   nothing answers: whoever connects sends SYN after SYN, as when a machine is gone or
           unreachable (the kernel drops what comes: a filter on the socket, for which Linux wants
           no privileges; elsewhere connections are accepted, and then hear nothing)
    shut   connections are refused, as where no program listens; the port stays ours

What a client sees is done by its own kernel, so that its own time-outs and retries are what counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import socket
import sys
from collections.abc import Callable
from typing import Literal

from broker.errors import BrokerError

State = Literal["open", "deaf", "shut"]

_BACKLOG = 1_024
_RETRY_S = 0.1
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux
_RETURN = 0x06  # BPF_RET | BPF_K: so many bytes of a packet are let through

_log = logging.getLogger(__name__)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("program", ctypes.POINTER(_Instruction)))


class Door:
    """A listening socket at `host` and `port` (0 takes a free one), shut at first.

    `came` is called with each connection that was accepted. Raises BrokerError where the address
    can't be had.
    """

    def __init__(self, host: str, port: int, came: Callable[[socket.socket], None]) -> None:
        self._came = came
        self._loop = asyncio.get_running_loop()
        self._state: State = "shut"
        self._socket = self._bound(host, port)
        address = self._socket.getsockname()
        self.host, self.port = str(address[0]), int(address[1])

    @property
    def state(self) -> State:
        """What it is now."""
        return self._state

    def turn(self, state: State) -> None:
        """From now on it is open, deaf or shut; who is in is not concerned."""
        if state == self._state:
            return
        if state == "shut":
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = self._bound(self.host, self.port)
        elif self._state == "shut":
            _hear(self._socket, state == "open")
            self._socket.listen(_BACKLOG)
            self._loop.add_reader(self._socket, self._accept)
        else:
            _hear(self._socket, state == "open")
        self._state = state

    def close(self) -> None:
        """Gives the address back."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors left, say: those who wait may go on waiting
                _log.warning("can't take a connection at port %d: %s", self.port, error)
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_RETRY_S, self._listen_on, self._socket)
                return
            connection.setblocking(False)
            self._came(connection)

    def _listen_on(self, listening: socket.socket) -> None:
        if listening is self._socket and self._state != "shut" and listening.fileno() >= 0:
            self._loop.add_reader(listening, self._accept)

    @staticmethod
    def _bound(host: str, port: int) -> socket.socket:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.sort(key=lambda one: one[0] != socket.AF_INET)  # "localhost" is 127.0.0.1
            family, kind, protocol, _, address = found[0]
            bound = socket.socket(family, kind, protocol)
        except OSError as error:
            raise BrokerError(f"can't listen at {host}:{port}: {error.strerror}") from error
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError as error:
            bound.close()
            raise BrokerError(f"can't listen at {host}:{port}: {error.strerror}") from error
        return bound


def _hear(listening: socket.socket, everything: bool) -> None:
    """Lets what comes through to a listening socket, or nothing."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # no filter to detach, or none allowed: then it hears
        if everything:
            listening.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        else:
            nothing = _Instruction(_RETURN, 0, 0, 0)
            program = _Filter(1, ctypes.pointer(nothing))
            listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, bytes(program))
