"""`python -m broker proxy`: the network for programs that speak plain TCP."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topologies import InputError

if TYPE_CHECKING:
    from broker.proxy import Proxy, ProxySettings
    from faults import Event


def proxy(
    file: Annotated[
        Path | None, typer.Argument(help="A YAML file with routes, topology and faults.")
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLIENT@LISTEN=SERVER@FORWARD",
            help="As phone@127.0.0.1:6380=shop@127.0.0.1:6379; without nodes where there is no "
            "topology. Several times for several.",
        ),
    ] = None,
    topology: Annotated[str | None, typer.Option(help="A bundled name or a file.")] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="NAME|FILE|none", help="What goes wrong.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn.")] = None,
    api: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Toxiproxy's HTTP API, on this machine: 8474."),
    ] = None,
    at_once: Annotated[
        bool,
        typer.Option("--at-once", help="The faults' time begins now, not with the first client."),
    ] = False,
) -> None:
    """Put the network between real programs: clients connect here, and reach the real server.

    What the command line says comes before what the file says; its routes are added.
    """
    from broker.proxy.loop import new_event_loop  # noqa: PLC0415 - heavy; `--help` is quick

    settings = settings_of(file, route, topology, faults, seed, api, at_once)
    with contextlib.closing(new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_serve(settings))


def settings_of(
    file: Path | None = None,
    route: list[str] | None = None,
    topology: str | None = None,
    faults: str | None = None,
    seed: int | None = None,
    api: str | None = None,
    at_once: bool = False,
) -> ProxySettings:
    """What the file and the command line say together. Raises InputError."""
    import faults as fault_language  # noqa: PLC0415 - heavy; `--help` should be quick
    import topologies  # noqa: PLC0415 - as above
    from broker import proxy as proxies  # noqa: PLC0415
    from broker.proxy.settings import address, check  # noqa: PLC0415

    said = proxies.load(file) if file is not None else proxies.ProxySettings()
    if topology is not None:
        said = said._replace(topology=topologies.load(topology))
        said = said._replace(routes=tuple(check(one, said.topology) for one in said.routes))
    if faults is not None:
        said = said._replace(faults=fault_language.load(faults) if faults != "none" else None)
    if said.faults is not None and said.topology is None:
        raise InputError("faults need a network", key="--faults", remedy="Give a --topology, too")
    try:
        more = tuple(proxies.route(text, said.topology) for text in route or ())
    except InputError as error:
        key = f"--route > {error.key}" if error.key else "--route"
        raise InputError(error.problem, key=key, remedy=error.remedy) from None
    said = said._replace(
        routes=(*said.routes, *more),
        seed=said.seed if seed is None else seed,
        at_once=said.at_once or at_once,
    )
    if api is not None:
        where = address(api)
        assert isinstance(where, proxies.Address)
        said = said._replace(api=where)
    if not said.routes and said.api is None:
        raise InputError(
            "there is nothing to listen for",
            remedy="Give a --route, a file with routes, or an --api to which they are given",
        )
    return said


async def _serve(settings: ProxySettings) -> None:
    from broker import proxy as proxies  # noqa: PLC0415 - as above
    from broker.proxy.served import end_tasks  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    served = proxies.Proxy(settings, _tell)
    try:
        async with _api(served, settings):
            for gate in served.gates.values():
                typer.echo(
                    f"{_at(gate.nodes[0], gate.listen)} → {_at(gate.nodes[1], gate.forward)}"
                )
            typer.echo("ready")
            await over.wait()
    finally:
        served.close()
        typer.echo(_final(served))
        await end_tasks()


@contextlib.asynccontextmanager
async def _api(served: Proxy, settings: ProxySettings) -> AsyncIterator[None]:
    if settings.api is None:
        yield
        return
    try:
        from broker.proxy.api import Api  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise InputError(
            f"the API needs the package {error.name}",
            key="--api",
            remedy="Install the extra: pip install 'atlas-emulator[serve]'",
        ) from None
    api = Api(served)
    where = await api.open(settings.api)
    typer.echo(f"API of Toxiproxy at http://{where}")
    try:
        yield
    finally:
        await api.close()


def _at(node: str | None, where: object) -> str:
    return f"{node} at {where}" if node is not None else str(where)


def _tell(at_s: float, event: Event) -> None:
    typer.echo(f"{at_s:10.3f} s  {event.text}")


def _final(served: Proxy) -> str:
    """The final account, for a person."""
    tally = served.tally()
    lines = [
        f"{tally.opened:,} connections, {tally.refused:,} refused by the server, {tally.reset:,} "
        f"reset; {tally.taken:,} bytes taken, {tally.handed:,} handed on, {tally.lost:,} lost"
    ]
    if served.world is not None and served.world.late:
        lines.append(
            f"{served.world.late:,} times something arrived more than 1 ms after its time, by up "
            f"to {served.world.lag_ns / 1e6:.1f} ms: this machine is busy"
        )
    return "\n".join(lines)
