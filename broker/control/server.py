"""The control interface's HTTP server: a thread of its own beside the bus."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

from aiohttp import web

from broker.errors import BrokerError
from broker.keys import reaches_beyond

_START_S = 10.0
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``9464`` (on loopback), ``0.0.0.0:9464``, ``[::1]:9464``. Raises BrokerError."""
        host, _, port = text.rpartition(":")
        if not port.isdigit() or int(port) > 65_535:
            raise BrokerError(f"{text} is no address to listen at: write PORT, or HOST:PORT")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def demand(self, token: bytes) -> None:
        """Raises BrokerError where others could reach it and nobody is asked for a token."""
        if not token and reaches_beyond(f"tcp://{self}"):
            raise BrokerError(
                f"{self} can be reached from other machines, so it takes a token: start with "
                "`--token FILE` (made where there is none), or listen on 127.0.0.1"
            )


class Server:
    """Serves an application from when it is made until `close`. `url` is where.

    Raises BrokerError where the address is taken.
    """

    def __init__(self, app: web.Application, address: Address) -> None:
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S)
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()
        try:
            starting = asyncio.run_coroutine_threadsafe(self._start(address), self._loop)
            bound = starting.result(_START_S)
        except OSError as error:
            self.close()
            raise BrokerError(f"can't listen at {address}: {error.strerror}") from error
        self.url = f"http://{bound}"

    async def _start(self, address: Address) -> Address:
        await self._runner.setup()
        await web.TCPSite(self._runner, address.host, address.port).start()
        return Address(address.host, self._runner.addresses[0][1])

    def close(self) -> None:
        """Ends it, after those who are being served."""
        ending = asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop)
        ending.result(_START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        self._loop.close()
