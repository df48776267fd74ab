"""The control interface from Python, with nothing but this package.

bus = Client("http://127.0.0.1:9464")
with bus.fault({"partition": [["edge-*"], ["others"]]}):
    …                                        # until here the network is divided
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from broker.control.models import Cleared, Fault, Faults, Problem, State
from broker.errors import BrokerError

M = TypeVar("M", bound=BaseModel)


class ControlError(BrokerError):
    """A call that was refused: `status` of HTTP, and why."""

    def __init__(self, status: int, said: Problem) -> None:
        parts = (said.key, said.problem)
        text = ": ".join(part for part in parts if part)
        super().__init__(f"{text}. {said.remedy}" if said.remedy else text)
        self.status = status
        self.said = said


class Client:
    """Speaks to the control interface of one bus.

    Args:
        url: Where it is, as ``http://127.0.0.1:9464``.
        token: What it wants to be shown, where it listens beyond loopback.
        timeout_s: How long to wait for an answer.

    Every call raises ControlError where the bus refuses, and OSError where nobody is there.
    """

    def __init__(self, url: str, token: str = "", *, timeout_s: float = 10.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BrokerError(f"{url} is no address of a bus: write http://HOST:PORT")
        https = parts.scheme == "https"
        self._kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        self._place = (parts.hostname, parts.port)
        self._timeout_s = timeout_s
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def state(self) -> State:
        """Everything that the live page shows."""
        return self._call(State, "GET", "/v1/state")

    def faults(self) -> list[Fault]:
        """The faults that hold and those to come."""
        return self._call(Faults, "GET", "/v1/faults").faults

    def inject(self, entry: Mapping[str, Any]) -> Fault:
        """Injects a fault: an entry of a scenario's timeline, as ``{"crash": "edge-3", "for":
        "20 s"}``. Its `at` counts from now and may be left out. Of a `flap` it gives the first.
        """
        return self._call(Faults, "POST", "/v1/faults", entry).faults[0]

    def clear(self, fault: str) -> Cleared:
        """Ends a fault, or sees that it never begins."""
        return self._call(Cleared, "DELETE", f"/v1/faults/{urllib.parse.quote(fault, safe='')}")

    def clear_all(self) -> Cleared:
        """Ends all faults, and sees that none that is to come begins."""
        return self._call(Cleared, "DELETE", "/v1/faults")

    @contextlib.contextmanager
    def fault(self, entry: Mapping[str, Any]) -> Iterator[Fault]:
        """A fault that holds as long as the block."""
        injected = self.inject(entry)
        try:
            yield injected
        finally:
            with contextlib.suppress(ControlError):  # it has ended by itself
                self.clear(injected.id.partition(".")[0])

    def _call(
        self, answer: type[M], method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> M:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        sent = None if body is None else json.dumps(body)
        connection = self._kind(*self._place, timeout=self._timeout_s)
        with contextlib.closing(connection):
            try:
                connection.request(method, self._prefix + path, sent, headers)
                response = connection.getresponse()
                content = response.read()
            except http.client.HTTPException as error:
                raise ConnectionError(f"the bus has hung up: {error!r}") from error
        try:
            if response.status >= 400:
                raise ControlError(response.status, Problem.model_validate_json(content))
            return answer.model_validate_json(content)
        except ValidationError:
            said = Problem(problem=f"what answers is no bus: {content[:80]!r}")
            raise ControlError(response.status, said) from None
