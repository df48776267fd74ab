"""The control interface over HTTP: what there is to call, and who may.

    GET    /                   a live page for the browser
    GET    /docs, /openapi.json   this interface, for people and for programs
    GET    /healthz            whether the bus's own thread answers
    GET    /metrics            counters for Prometheus
    GET    /v1/state           everything that the page shows
    GET    /v1/faults          those that hold and those to come
    POST   /v1/faults          inject one: an entry of a scenario's timeline, as JSON
    DELETE /v1/faults          clear all
    DELETE /v1/faults/ID       clear one

With a token every call but the pages, their description and /healthz needs it (``Authorization:
Bearer …``). Without one, which is for loopback only, no other site's page may call: the host has to
be this machine by name or number, and a body has to be JSON, which a browser asks us about first.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel

from broker.control.handling import Handling, UnknownFaultError
from broker.control.models import Faults, Problem
from broker.control.openapi import document
from broker.counters import CONTENT_TYPE, exposition
from topologies import InputError

T = TypeVar("T")

MOST_BODY_BYTES = 2**20
ANSWER_S = 10.0
_PUBLIC = ("/", "/docs", "/openapi.json", "/healthz")
_PAGES = Path(__file__).with_name("pages")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class RefusedError(Exception):
    """A call that is not done: its status, and why."""

    def __init__(
        self, status: int, problem: str, key: str | None = None, remedy: str | None = None
    ):
        super().__init__(problem)
        self.status = status
        self.said = Problem(problem=problem, key=key, remedy=remedy)


def application(handling: Handling, token: bytes) -> web.Application:
    """The interface to one bus; with an empty token, for loopback."""
    app = web.Application(middlewares=[_refusals, _door(token)], client_max_size=MOST_BODY_BYTES)
    calls = _Calls(handling)
    app.add_routes(
        [
            web.get("/", _page("live.html")),
            web.get("/docs", _page("docs.html")),
            web.get("/openapi.json", calls.openapi),
            web.get("/healthz", calls.health),
            web.get("/metrics", calls.metrics),
            web.get("/v1/state", calls.state),
            web.get("/v1/faults", calls.faults),
            web.post("/v1/faults", calls.inject),
            web.delete("/v1/faults", calls.clear),
            web.delete("/v1/faults/{id}", calls.clear),
        ]
    )
    return app


class _Calls:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def _ask(self, question: Callable[[], T]) -> T:
        """What the bus's thread says. Raises RefusedError where it says nothing, or is gone."""
        answer = asyncio.wrap_future(self._handling.bus.ask(question))
        try:
            return await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            raise RefusedError(503, "the bus does not answer") from None
        except asyncio.CancelledError:
            if answer.cancelled():
                raise RefusedError(503, "the bus has stopped") from None
            raise

    async def openapi(self, _: web.Request) -> web.Response:
        return web.json_response(document())

    async def health(self, _: web.Request) -> web.Response:
        await self._ask(lambda: None)
        return web.Response(text="ok\n")

    async def metrics(self, _: web.Request) -> web.Response:
        state = await self._ask(self._handling.state)
        text = exposition(self._handling.bus.latest, state)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def state(self, _: web.Request) -> web.Response:
        return _said(await self._ask(self._handling.state))

    async def faults(self, _: web.Request) -> web.Response:
        return _said(await self._ask(self._handling.faults))

    async def inject(self, request: web.Request) -> web.Response:
        entry = await _body(request)
        injected = await self._ask(lambda: self._handling.inject(entry))
        return _said(Faults(faults=injected), 201)

    async def clear(self, request: web.Request) -> web.Response:
        fault = request.match_info.get("id", "")
        return _said(await self._ask(lambda: self._handling.clear(fault)))


def _page(name: str) -> Handler:
    text = (_PAGES / name).read_text(encoding="utf-8")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

    return page


def _said(model: BaseModel, status: int = 200) -> web.Response:
    body = model.model_dump_json().encode()
    return web.Response(body=body, status=status, content_type="application/json")


async def _body(request: web.Request) -> Mapping[str, Any]:
    if request.content_type != "application/json":
        raise RefusedError(415, "the body has to be JSON", "Content-Type", "Say application/json")
    try:
        entry = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from None
    if not isinstance(entry, dict):
        raise RefusedError(422, "a fault is an object", remedy='Write {"crash": "edge-3"}')
    return entry


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Says in JSON why something is not done."""
    try:
        answer = await handler(request)
    except RefusedError as refused:
        answer = _said(refused.said, refused.status)
    except InputError as error:
        said = Problem(problem=error.problem, key=error.key, remedy=error.remedy)
        answer = _said(said, 422)
    except UnknownFaultError as error:
        remedy = "GET /v1/faults has those that hold and those to come"
        answer = _said(Problem(problem=f'no fault is called "{error}"', remedy=remedy), 404)
    except web.HTTPException as error:
        answer = _said(Problem(problem=error.reason), error.status)
    answer.headers.update(_HEADERS)
    return answer


def _door(token: bytes) -> Middleware:
    """Lets in who may."""

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token:
            shown = request.headers.get("Authorization", "").encode()
            if request.path not in _PUBLIC and not hmac.compare_digest(shown, b"Bearer " + token):
                raise RefusedError(401, "this needs the token", "Authorization", "Say Bearer TOKEN")
        elif not _is_this_machine(request.host):
            raise RefusedError(403, f"{request.host} is not what this is called", "Host")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != request.host:
            raise RefusedError(403, "another site's page may not call this", "Origin")
        return await handler(request)

    return door


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names the loopback interface: another name that leads here would be
    somebody's trick to have a browser speak for them.
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
