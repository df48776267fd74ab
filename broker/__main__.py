"""The command line of the emulator: `python -m broker`.

A sub-command is a function in `COMMANDS`: its name, its parameters and its docstring are what a
person sees. Bad input ends with exit code 2 and a sentence that says where it stands and what would
be right; what failed for another reason with 1; Ctrl-C with 130.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from broker.endings import endings
from broker.exploring.command import explore
from broker.proxying import proxy
from broker.serving import keys, serve
from topologies import InputError, units

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def broker() -> None:
    """A network emulator for asyncio programs.

    Your programs exchange messages over a network that you describe in one file, while
    another says what goes wrong and when: crashes, partitions, thin links. That is
    `broker.run` in Python; hours pass in milliseconds, the same each time. Here is what you
    need beside it.
    """


def trace(
    file: Annotated[
        Path, typer.Argument(help="A trace.parquet, or the folder of a run that has one.")
    ],
    node: Annotated[
        list[str] | None,
        typer.Option(help="Only what these nodes sent, were sent, or suffered."),
    ] = None,
    purpose: Annotated[
        list[str] | None, typer.Option(help="Only messages with these purposes.")
    ] = None,
    fate: Annotated[
        list[str] | None,
        typer.Option(help="Only what was delivered, 'in flight', lost …; dropped: all losses."),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From then on, as '1.5 s'.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Until then, as '2 min'.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Print so many lines at most; 0: all.")] = 0,
    perfetto: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.json", help="Write it for ui.perfetto.dev or chrome://tracing instead."
        ),
    ] = None,
) -> None:
    """Show every message and every fault of a run, in order of time.

    In Python, `run.ledger.write_parquet("trace.parquet")` writes what is read here. The options
    --node, --purpose and --fate may be given several times and take patterns: 'edge-*'.
    """
    from broker import perfetto as chrome  # noqa: PLC0415 - heavy; `--help` should be quick
    from broker import timeline  # noqa: PLC0415 - as above
    from broker import trace as traces  # noqa: PLC0415 - as above

    whole = traces.read(file)
    chosen = whole.chosen(
        nodes=node or (),
        purposes=purpose or (),
        fates=fate or (),
        from_ns=_instant("--from", from_),
        to_ns=_instant("--to", to),
    )
    part = whole if len(chosen.table) < len(whole.table) else None
    console = Console()
    if perfetto is None:
        timeline.show(chosen, console, limit, part)
        return
    if perfetto.exists() and file.exists() and perfetto.samefile(file):
        raise InputError("that is the trace itself", key="--perfetto", remedy="Name another file")
    count = chrome.export(chosen, perfetto)
    console.print(timeline.summary(chosen, part), highlight=False, soft_wrap=True)
    console.print(
        f"{perfetto}: {count:,} events; open it in ui.perfetto.dev", highlight=False, soft_wrap=True
    )


COMMANDS: tuple[Callable[..., None], ...] = (trace, serve, proxy, keys, explore)
for command in COMMANDS:
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m broker`."""
    with endings():
        app(args=list(arguments) if arguments is not None else None, prog_name="python -m broker")


def _instant(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return units.nanoseconds(text)
    except InputError as error:
        raise InputError(error.problem, key=key, remedy=error.remedy) from error


if __name__ == "__main__":
    main()
