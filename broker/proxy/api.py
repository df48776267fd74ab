"""Toxiproxy's HTTP API, for what its clients call, so that tests written for it run unchanged.

    GET, POST          /proxies                          all, a new one
    GET, PATCH, DELETE /proxies/{proxy}                  POST does what PATCH does
    GET, POST          /proxies/{proxy}/toxics
    GET, PATCH, DELETE /proxies/{proxy}/toxics/{toxic}
    POST               /populate, /reset                 many at once; all open, and no toxics
    GET                /version

Paths, bodies, statuses and errors are those of https://github.com/Shopify/toxiproxy (api.go, 2.x).
Two things more: a new proxy may have its `toxics` with it, so that no connection comes before them,
and `from` and `to`, its nodes in the topology. What is not known is refused and named.

It has no password, as Toxiproxy's has none: it listens on this machine only, and refuses browsers.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.errors import BrokerError
from broker.proxy.gate import Gate
from broker.proxy.served import Proxy
from broker.proxy.settings import Address, Route, address, check
from broker.proxy.toxics import TYPES, Stream, Toxic
from topologies import InputError

VERSION = "2.12.0"
"""The version of Toxiproxy whose API this is: clients ask."""
_MOST_BYTES = 2**20
_MOST_GATES = 1_000
_LOCAL = frozenset({"localhost", "127.0.0.1"})
_Model = TypeVar("_Model", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _NewProxy(_Body):
    name: str = ""
    listen: str = "127.0.0.1:0"
    upstream: str = ""
    enabled: bool = True
    toxics: tuple[dict[str, Any], ...] = ()
    source: str | None = Field(default=None, alias="from")
    target: str | None = Field(default=None, alias="to")


class _ProxyChange(_Body):
    name: str | None = None
    listen: str | None = None
    upstream: str | None = None
    enabled: bool | None = None
    toxics: tuple[dict[str, Any], ...] | None = None  # clients send back what they were given


class _NewToxic(_Body):
    name: str = ""
    type: str = ""
    stream: str = "downstream"
    toxicity: float = Field(default=1.0, ge=0, le=1)
    attributes: dict[str, Any] = Field(default={})


class _ToxicChange(_Body):
    name: str | None = None
    type: str | None = None
    stream: str | None = None
    toxicity: float | None = Field(default=None, ge=0, le=1)
    attributes: dict[str, Any] = Field(default={})


class _ApiError(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error

    def as_json(self) -> dict[str, object]:
        return {"error": self.error, "status": self.status}


class Api:
    """The API of a proxy, on the same event loop."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._app = web.Application(middlewares=[_answer], client_max_size=_MOST_BYTES)
        self._app.add_routes([
            web.get("/version", self._version),
            web.post("/reset", self._reset),
            web.post("/populate", self._populate),
            web.get("/proxies", self._all),
            web.post("/proxies", self._create),
            web.get("/proxies/{proxy}", self._show),
            web.post("/proxies/{proxy}", self._update),
            web.patch("/proxies/{proxy}", self._update),
            web.delete("/proxies/{proxy}", self._delete),
            web.get("/proxies/{proxy}/toxics", self._toxics),
            web.post("/proxies/{proxy}/toxics", self._create_toxic),
            web.get("/proxies/{proxy}/toxics/{toxic}", self._show_toxic),
            web.post("/proxies/{proxy}/toxics/{toxic}", self._update_toxic),
            web.patch("/proxies/{proxy}/toxics/{toxic}", self._update_toxic),
            web.delete("/proxies/{proxy}/toxics/{toxic}", self._delete_toxic),
        ])  # fmt: skip
        self._runner: web.AppRunner | None = None

    async def open(self, where: Address) -> Address:
        """Listens there, and gives the address with its port.

        Raises BrokerError where the address can't be had, or is not this machine's own.
        """
        if where.host not in ("127.0.0.1", "localhost", "::1"):
            raise BrokerError(
                f"the API has no password and can't listen at {where}: bind it to 127.0.0.1, and "
                "let others in through a tunnel"
            )
        runner = web.AppRunner(self._app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, where.host, where.port).start()
        except OSError as error:
            await runner.cleanup()
            raise BrokerError(f"can't listen at {where}: {error.strerror}") from error
        self._runner = runner
        bound = runner.addresses[0]
        return Address(str(bound[0]), int(bound[1]))

    async def close(self) -> None:
        """Gives the address back."""
        if self._runner is not None:
            await self._runner.cleanup()

    # Proxies.

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _reset(self, _: web.Request) -> web.Response:
        for gate in self._proxy.gates.values():
            gate.open()
            for name in list(gate.toxics):
                gate.remove(name)
        return web.Response(status=204)

    async def _all(self, _: web.Request) -> web.Response:
        return web.json_response({name: _said(gate) for name, gate in self._proxy.gates.items()})

    async def _create(self, request: web.Request) -> web.Response:
        body = _read(_NewProxy, await _json(request))
        if body.name in self._proxy.gates:
            raise _ApiError(409, "proxy already exists")
        return web.json_response(_said(self._add(body)), status=201)

    async def _populate(self, request: web.Request) -> web.Response:
        given = await _json(request)
        if not isinstance(given, list):
            raise _ApiError(400, "bad request body: a list of proxies was expected")
        bodies = [_read(_NewProxy, one) for one in given]
        for number, body in enumerate(bodies, 1):
            for field in ("name", "upstream"):
                if not getattr(body, field):
                    raise _ApiError(400, f"missing required field: {field} at proxy {number}")
        made: list[dict[str, object]] = []
        problem: dict[str, object] = {}
        for body in bodies:
            known = self._proxy.gates.get(body.name)
            try:
                if known is not None and not _differs(known, body.listen, body.upstream):
                    made.append(_said(known))
                    continue
                if known is not None:
                    self._proxy.remove(body.name)
                made.append(_said(self._add(body)))
            except (_ApiError, BrokerError, InputError) as error:
                problem = _problem(error).as_json()
                break
        status = problem.get("status", 201)
        assert isinstance(status, int)
        return web.json_response({**problem, "proxies": made}, status=status)

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(_said(self._gate(request)))

    async def _update(self, request: web.Request) -> web.Response:
        gate = self._gate(request)
        body = _read(_ProxyChange, await _json(request))
        listen, upstream = body.listen or str(gate.listen), body.upstream or str(gate.forward)
        enabled = gate.is_open if body.enabled is None else body.enabled
        if _differs(gate, listen, upstream):
            here, there = _address(listen), _address(upstream)
            gate.shut()
            gate.listen, gate.forward = here, there
        if enabled:
            gate.open()
        else:
            gate.shut()
        return web.json_response(_said(gate))

    async def _delete(self, request: web.Request) -> web.Response:
        self._proxy.remove(self._gate(request).name)
        return web.Response(status=204)

    def _gate(self, request: web.Request) -> Gate:
        gate = self._proxy.gates.get(request.match_info["proxy"])
        if gate is None:
            raise _ApiError(404, "proxy not found")
        return gate

    def _add(self, body: _NewProxy) -> Gate:
        for field in ("name", "upstream"):
            if not getattr(body, field):
                raise _ApiError(400, f"missing required field: {field}")
        if len(self._proxy.gates) >= _MOST_GATES:
            raise _ApiError(400, f"there are {_MOST_GATES} proxies already")
        world = self._proxy.world
        ends = (_address(body.listen), _address(body.upstream))
        route = Route(body.name, *ends, body.source, body.target)
        if body.source is not None or body.target is not None:
            check(route, None if world is None else world.topology)
        toxics = [_toxic(_read(_NewToxic, one)) for one in body.toxics]
        return self._proxy.add(route, toxics, opened=body.enabled)

    # Toxics.

    async def _toxics(self, request: web.Request) -> web.Response:
        gate = self._gate(request)
        return web.json_response([toxic.as_json() for toxic in gate.toxics.values()])

    async def _create_toxic(self, request: web.Request) -> web.Response:
        gate = self._gate(request)
        toxic = _toxic(_read(_NewToxic, await _json(request)))
        if toxic.name in gate.toxics:
            raise _ApiError(409, "toxic already exists")
        gate.put(toxic)
        return web.json_response(toxic.as_json())

    async def _show_toxic(self, request: web.Request) -> web.Response:
        return web.json_response(self._found(request).as_json())

    async def _update_toxic(self, request: web.Request) -> web.Response:
        known = self._found(request)
        body = _read(_ToxicChange, await _json(request))
        said = known.attributes.model_dump() | body.attributes
        changed = known.model_copy(
            update={
                "attributes": _read(type(known.attributes), said),
                "toxicity": known.toxicity if body.toxicity is None else body.toxicity,
            }
        )
        self._gate(request).put(changed)
        return web.json_response(changed.as_json())

    async def _delete_toxic(self, request: web.Request) -> web.Response:
        self._gate(request).remove(self._found(request).name)
        return web.Response(status=204)

    def _found(self, request: web.Request) -> Toxic:
        toxic = self._gate(request).toxics.get(request.match_info["toxic"])
        if toxic is None:
            raise _ApiError(404, "toxic not found")
        return toxic


def _said(gate: Gate) -> dict[str, object]:
    """A proxy as Toxiproxy says it, and its nodes."""
    said: dict[str, object] = {
        "name": gate.name,
        "listen": str(gate.listen),
        "upstream": str(gate.forward),
        "enabled": gate.is_open,
        "toxics": [toxic.as_json() for toxic in gate.toxics.values()],
    }
    if gate.nodes[0] is not None:
        said |= {"from": gate.nodes[0], "to": gate.nodes[1]}
    return said


def _differs(gate: Gate, listen: str, upstream: str) -> bool:
    here, there = _address(listen), _address(upstream)
    same_host = here.host == gate.listen.host or {here.host, gate.listen.host} <= _LOCAL
    return not (same_host and here.port == gate.listen.port and there == gate.forward)


def _address(text: str) -> Address:
    found = address(text)
    assert isinstance(found, Address)
    return found


def _toxic(body: _NewToxic) -> Toxic:
    if body.stream not in ("upstream", "downstream"):
        raise _ApiError(400, "stream was invalid, can be either upstream or downstream")
    model = TYPES.get(body.type)
    if model is None:
        raise _ApiError(400, "invalid toxic type")
    stream: Stream = "upstream" if body.stream == "upstream" else "downstream"
    return Toxic(
        name=body.name or f"{body.type}_{stream}",
        stream=stream,
        toxicity=body.toxicity,
        attributes=_read(model, body.attributes),
    )


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise _ApiError(400, f"bad request body: {error}") from None


def _read(model: type[_Model], given: object) -> _Model:
    try:
        return model.model_validate(given)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
        place = ".".join(map(str, error["loc"]))
        raise _ApiError(400, f"bad request body: {place}: {error['msg']}") from None


def _problem(error: Exception) -> _ApiError:
    if isinstance(error, _ApiError):
        return error
    return _ApiError(400 if isinstance(error, InputError) else 500, str(error))


@web.middleware
async def _answer(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns errors into Toxiproxy's, and browsers away, where pages could call it unseen."""
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        return web.Response(status=403, text="User agent not allowed\n")
    try:
        return await handler(request)
    except (_ApiError, BrokerError, InputError) as error:
        problem = _problem(error)
        return web.json_response(problem.as_json(), status=problem.status)
