"""What a proxy is told: where it listens, whom it calls, and which nodes these stand for.

```yaml
# shop.yaml
topology: two-sites.yaml        # a bundled name or a file, relative to this one
faults: evening.yaml
seed: 3
clock: first connection         # when the faults' time begins; or: at once
routes:
  cache: {listen: 127.0.0.1:6380, forward: 127.0.0.1:6379, from: camera-0, to: gateway}
  database: {listen: 5433, forward: 5432, from: gateway, to: screen}
```

`listen` and `forward` are addresses, or ports of this machine. Clients of the listener stand at the
node `from`, the server behind it at `to`; without a topology a route has neither, and is a plain
relay until toxics are put on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, field_validator

import faults as fault_language
import topologies
from faults import Scenario
from topologies import InputError, Topology
from topologies.document import Settings, parse_yaml, read_text
from topologies.errors import did_you_mean

LOOPBACK = "127.0.0.1"
_MOST_PORT = 65_535
_ROUTE = "CLIENT@LISTEN=SERVER@FORWARD"
_EXAMPLE = "phone@127.0.0.1:6380=shop@127.0.0.1:6379"


class Address(NamedTuple):
    """A host and a port; 0 is a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address(value: object) -> object:
    """The address that this text is: ``host:port``, or a port of this machine.

    Raises InputError.
    """
    if isinstance(value, Address):
        return value
    host, colon, port = str(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else LOOPBACK
    if not port.isascii() or not port.isdigit() or int(port) > _MOST_PORT:
        raise InputError(
            f'"{value}" is no address', remedy=f"Write host:port, as {LOOPBACK}:6379, or a port"
        )
    return Address(host or LOOPBACK, int(port))


_Address = Annotated[Address, BeforeValidator(address, json_schema_input_type=str | int)]


class RouteSettings(Settings):
    """Where clients come in, and the server that is called for each of them."""

    listen: _Address = Field(description="where clients connect; port 0 takes a free one")
    forward: _Address = Field(description="the real server")
    from_: str | None = Field(default=None, alias="from", description="the node of the clients")
    to: str | None = Field(default=None, description="the node of the server")


class ProxyFile(Settings):
    """A proxy: its network, what goes wrong in it, and its routes."""

    topology: str | None = Field(default=None, description="a bundled name or a file")
    faults: str | None = Field(default=None, description="a bundled name or a file")
    seed: int = Field(default=0, description="of everything that is drawn")
    clock: Literal["first connection", "at once"] = Field(
        default="first connection", description="when the faults' time begins"
    )
    api: _Address | None = Field(default=None, description="where Toxiproxy's HTTP API listens")
    routes: Mapping[str, RouteSettings] = Field(default={}, description="by name")

    @field_validator("routes")
    @classmethod
    def _has_names(cls, routes: Mapping[str, RouteSettings]) -> Mapping[str, RouteSettings]:
        for name in routes:
            if not name or "/" in name:
                raise InputError(f'"{name}" can\'t be a name', remedy='Leave out the "/"')
        return routes


class Route(NamedTuple):
    """A route, checked. `source` and `target` are nodes, or None where there is no network."""

    name: str
    listen: Address
    forward: Address
    source: str | None = None
    target: str | None = None


class ProxySettings(NamedTuple):
    """All that a proxy is told, read and checked."""

    routes: tuple[Route, ...] = ()
    topology: Topology | None = None
    faults: Scenario | None = None
    seed: int = 0
    at_once: bool = False
    api: Address | None = None


def load(path: str | Path) -> ProxySettings:
    """The proxy that this file describes. Raises InputError with file, line, key and remedy."""
    path = Path(path)
    document = parse_yaml(read_text(path), str(path))
    said = document.read(ProxyFile, document.mapping())
    topology = topologies.load(_beside(path, said.topology)) if said.topology else None
    scenario = fault_language.load(_beside(path, said.faults)) if said.faults else None
    routes = []
    for name, route in said.routes.items():
        try:
            routes.append(
                check(Route(name, route.listen, route.forward, route.from_, route.to), topology)
            )
        except InputError as error:
            place = ("routes", name, *([error.key] if error.key else []))
            raise document.error(error.problem, place, error.remedy) from None
    if scenario is not None and topology is None:
        raise document.error("faults need a network", ("faults",), "Name a topology, too")
    at_once = said.clock == "at once"
    return ProxySettings(tuple(routes), topology, scenario, said.seed, at_once, said.api)


def route(text: str, topology: Topology | None) -> Route:
    """The route that this word of a command line is: `CLIENT@LISTEN=SERVER@FORWARD`, without nodes
    where there is no topology. Raises InputError.
    """
    listen, equals, forward = text.partition("=")
    if not equals:
        raise InputError(f'"{text}" is no route', remedy=f"Write {_ROUTE}, as {_EXAMPLE}")
    ends = []
    for side in (listen, forward):
        node, at, where = side.rpartition("@")
        found = address(where)
        assert isinstance(found, Address)
        ends.append((node if at else None, found))
    (source, here), (target, there) = ends
    return check(Route(str(here), here, there, source, target), topology)


def check(route: Route, topology: Topology | None) -> Route:
    """This route, if its nodes are of this topology. Raises InputError with the key."""
    for key, node in (("from", route.source), ("to", route.target)):
        if topology is None and node is not None:
            raise InputError(
                f'there is no network in which "{node}" could be',
                key=key,
                remedy="Name a topology, or leave the nodes out",
            )
        if topology is not None and node is None:
            raise InputError(
                "this setting is missing", key=key, remedy="Which node of the topology is it?"
            )
        if topology is not None and node not in topology.nodes:
            raise InputError(
                f'there is no node "{node}"',
                key=key,
                remedy=did_you_mean(str(node), topology.nodes, what="nodes"),
            )
    if not route.forward.port:
        raise InputError("port 0 is no server's", key="forward", remedy="Give the server's port")
    return route


def _beside(file: Path, named: str) -> str | Path:
    """What a file names: a bundled name as it is, or a path relative to the file."""
    path = Path(named)
    return file.parent / path if path.suffix else named
