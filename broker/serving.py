"""`python -m broker serve` and `python -m broker keys`: the bus for programs elsewhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.account import Account
    from broker.control.chronicle import Chronicle
    from broker.standalone import Standing

Bind = Annotated[str, typer.Option(help="ipc://PATH or tcp://HOST:PORT; port * takes a free one.")]


def serve(
    topology: Annotated[str, typer.Option(help="A bundled name or a file.")],
    bind: Bind,
    faults: Annotated[
        str, typer.Option(metavar="NAME|FILE|none", help="What goes wrong.")
    ] = "none",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="CURVE keys; needed beyond this machine.")
    ] = None,
    word: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A secret word, on a tcp port of this machine."),
    ] = None,
    expect: Annotated[
        int, typer.Option(min=0, help="Start the clock once so many nodes are there.")
    ] = 0,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Live page, control interface, counters for Prometheus."
        ),
    ] = None,
    token: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What those have to show; needed beyond this machine."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the run up again after a restart (SIGTERM)."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write every message's fate there in the end (parquet).")
    ] = None,
) -> None:
    """Serve a network on this machine's clock, to programs in other processes (`broker.join`)."""
    import faults as fault_language  # noqa: PLC0415 - heavy; `--help` should be quick
    import topologies  # noqa: PLC0415 - as above
    from broker import keys as key_files  # noqa: PLC0415
    from broker import standalone  # noqa: PLC0415
    from broker.control.chronicle import Chronicle  # noqa: PLC0415

    logging.basicConfig(format="%(levelname)s %(message)s")
    shown = key_files.word_of(token) if token is not None else b""
    listening = _listening(http, shown)
    chronicle = Chronicle()

    def ready(standing: Standing) -> contextlib.AbstractContextManager[None]:
        typer.echo(f"serving {topology} at {standing.endpoint}")
        return listening(standing, chronicle)

    account = standalone.serve(
        topologies.load(topology),
        fault_language.load(faults) if faults != "none" else (),
        bind=bind,
        seed=seed,
        folder=keys,
        word=key_files.word_of(word) if word is not None else b"",
        expected=expect,
        trace=trace,
        state=state,
        observer=chronicle,
        ready=ready,
    )
    typer.echo(final(account))


def keys(
    folder: Annotated[Path, typer.Argument(help="Where they are, or shall be.")],
    nodes: Annotated[list[str], typer.Argument(help="The nodes that get one each.")],
) -> None:
    """Make CURVE keys for a bus and its nodes, where there are none yet."""
    from broker import keys as key_files  # noqa: PLC0415

    for path in key_files.make(folder, nodes):
        typer.echo(str(path))


def final(account: Account) -> str:
    """The final account, for a person."""
    from broker.account import lateness  # noqa: PLC0415

    dropped = sum(account.dropped.values())
    lines = [
        f"{account.sent:,} messages sent, {account.duplicated:,} duplicated; "
        f"{account.delivered:,} delivered, {dropped:,} dropped, {account.in_flight:,} in flight",
        *(f"  {count:,} dropped: {reason}" for reason, count in account.dropped.items()),
        *(f"  {count:,} not accepted: {reason}" for reason, count in account.malformed.items()),
    ]
    if account.late:
        lines.append(lateness(account))
    return "\n".join(lines)


def _listening(
    http: str | None, token: bytes
) -> Callable[[Standing, Chronicle], contextlib.AbstractContextManager[None]]:
    """What opens the control interface once the bus is there, if it is wanted and may be. Raises
    BrokerError.
    """
    if http is None:
        return lambda _, __: contextlib.nullcontext()
    try:
        from broker.control.api import application  # noqa: PLC0415 - heavy, and of an extra
        from broker.control.server import Address, Server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BrokerError(
            f"--http needs {error.name}: `pip install 'atlas-emulator[serve]'` brings it"
        ) from error
    from broker.control.handling import Handling  # noqa: PLC0415

    address = Address.parse(http)
    address.demand(token)

    @contextlib.contextmanager
    def listening(standing: Standing, chronicle: Chronicle) -> Iterator[None]:
        server = Server(application(Handling(standing, chronicle), token), address)
        typer.echo(f"live page, control and counters at {server.url}")
        try:
            yield
        finally:
            server.close()

    return listening
