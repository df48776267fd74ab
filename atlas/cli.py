"""The command line: `atlas run`, `atlas compare`, `atlas config`, `atlas show`, `atlas explore`.

Bad input ends with exit code 2 and a sentence that says where it stands and what would be right; a
run that failed with 1; Ctrl-C with 130. Only `atlas run` needs the learning system, and imports it
when it is called.
"""

from __future__ import annotations

import enum
import functools
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from topologies import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune one language model on many small, unreliable devices.",
)
show = typer.Typer(no_args_is_help=True, help="Show what is bundled, or a file of your own.")
app.add_typer(show, name="show")

Name = Annotated[str, typer.Argument(help="A bundled name or a file; without it, what there is.")]
ConfigName = Annotated[
    str, typer.Argument(metavar="[CONFIG]", help="A YAML file, or quickstart or tiny.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, as in training.steps=10."),
]


class Kept(enum.StrEnum):
    """What becomes of a run's checkpoint."""

    REMOVE = "remove"
    KEEP = "keep"
    NONE = "none"


@app.command()
def run(
    context: typer.Context,
    config: ConfigName = "quickstart",
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder for the results; a new one in runs/ if not set.")
    ] = None,
    topology: Annotated[str | None, typer.Option(help="A bundled name or a file.")] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="NAME|FILE|none", help="What goes wrong, and when.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that the nodes are spread over.")
    ] = 1,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="The method; see `atlas show recipes`."),
    ] = None,
    changes: Changes = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Go on with the run in this folder, which was ended."),
    ] = None,
    checkpoint: Annotated[
        Kept, typer.Option(help="Keep what is computed until the run is finished, for ever, never.")
    ] = Kept.REMOVE,
) -> None:
    """Run a config: by default the quickstart, twelve devices with four kinds of real text."""
    if resume is not None:
        _refuse_with_resume(context)
    from atlas import assets  # noqa: PLC0415 - `atlas --help` should be quick
    from atlas import config as configs  # noqa: PLC0415 - as above
    from atlas.methods import find  # noqa: PLC0415 - as above

    settings = [] if recipe is None else find(recipe).changes()
    settings += changes or ()
    for key, value in (("seed", seed), ("topology", topology), ("faults", faults)):
        if value is not None:
            settings.append(f"{key}={value}")
    chosen = configs.load(config, settings)
    _need_learning()
    assets.forbid_hub()  # before transformers is imported, which is now
    from atlas import experiment  # noqa: PLC0415 - needs the learning system
    from atlas.results import (  # noqa: PLC0415 - so does this
        Layout,
        final_table,
        is_run,
        open_view,
    )
    from broker.endings import say  # noqa: PLC0415 - as `atlas --help` should be quick

    folder = resume or out or _next_folder(chosen.name)
    how = functools.partial(experiment.run, chosen) if resume is None else experiment.resume
    console = Console()
    try:
        with open_view(console) as view:
            summary = how(folder, processes=processes, view=view, checkpoint=checkpoint.value)
    except KeyboardInterrupt:
        kept = f"; what was known by then is in {folder}" if is_run(folder) else ""
        if kept and checkpoint is not Kept.NONE:
            kept += f", and `atlas run --resume {folder}` goes on"
        say(f"interrupted{kept}")
        raise typer.Exit(130) from None
    final_table(summary, {path.name: path for path in Layout(folder).written()}, console)


@app.command()
def config(name: ConfigName = "quickstart", changes: Changes = None) -> None:
    """Print a complete config, every default written out, ready to be changed."""
    import yaml  # noqa: PLC0415

    from atlas import config as configs  # noqa: PLC0415

    yaml.safe_dump(configs.load(name, changes or ()).complete(), sys.stdout, sort_keys=False)


@app.command()
def compare(
    config: ConfigName = "quickstart",
    recipes: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,…", help="Methods, by name or file; the first is the baseline."
        ),
    ] = "atlas,fedit,local,centralized",
    seeds: Annotated[int, typer.Option(min=1, help="How many; they are 0, 1, 2 and so on.")] = 3,
    out: Annotated[Path, typer.Option(help="The folder for the results.")] = Path("comparison"),
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="'NAME: KEY=VALUE …'",
            help="Run all of it under this condition; without any, with ample memory for all.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; as many as cores if not set.")
    ] = None,
    rates: Annotated[
        str,
        typer.Option(
            metavar="RATE,RATE,…",
            help="Learning rates of which each recipe gets its best, by loss on validation rows.",
        ),
    ] = "",
    changes: Changes = None,
    keep_journals: Annotated[
        bool, typer.Option(help="Keep what was computed, for conditions that are added later.")
    ] = False,
) -> None:
    """Compare methods: recipes by seeds by conditions, each a run. What is finished is kept."""
    _need_learning()
    from atlas import comparison, methods  # noqa: PLC0415 - `atlas --help` should be quick
    from atlas.comparison import running, telling, tuning  # noqa: PLC0415 - as above
    from broker.endings import say  # noqa: PLC0415 - as above

    chosen = [methods.find(name.strip()) for name in recipes.split(",")]
    under = [comparison.Condition.read(text) for text in conditions or ("ample: memory=ample",)]
    names = [recipe.name for recipe in chosen]
    console = Console()
    tell = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    run_cells = functools.partial(
        running.run_cells,
        out=out,
        jobs=jobs or os.cpu_count() or 1,
        tell=tell,
        keep_journals=keep_journals,
    )
    found: dict[str, float] = {}
    text = ""
    comparison.plan(config, chosen, range(seeds), under, changes or ())  # what can't be meant
    try:
        if rates:
            given = [_rate(rate) for rate in rates.split(",")]
            search = tuning.search(config, chosen, given, 0, under[0], changes or ())
            tell(f"{len(search)} runs to find learning rates")
            tried = run_cells(search)
            found = tuning.chosen(search, tried)
            text = telling.rates_table(tried, names) + "\n"
        cells = comparison.plan(config, chosen, range(seeds), under, changes or (), found)
        tell(f"{len(cells)} runs: {len(chosen)} recipes, {seeds} seeds, {len(under)} conditions")
        rows = run_cells(cells)
    except KeyboardInterrupt:
        say(f"interrupted; what is finished is in {out}, and the same command goes on")
        raise typer.Exit(130) from None
    failed = running.failures(cells, out)
    text += telling.table(rows, names, failed)
    comparison.write_rows(out / "results.parquet", rows)
    (out / "table.md").write_text(text, encoding="utf-8")
    tell(f"\n{text}\nWritten: {out / 'results.parquet'}, {out / 'table.md'}")
    if failed:
        raise typer.Exit(1)


@show.command("recipes")
def show_recipes(name: Name = "") -> None:
    """The methods that can be run and compared, ours and those of installed packages."""
    from atlas import showing  # noqa: PLC0415

    showing.recipes(name, Console())


@show.command("topology")
def show_topology(
    name: Name = "",
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="KEY=VALUE",
            help="Derive what the file leaves out otherwise, as in disconnected=largest.",
        ),
    ] = None,
) -> None:
    """Nodes, devices and links of a topology; ≈ marks what no file states."""
    from atlas import showing  # noqa: PLC0415

    showing.topology(name, rules or (), Console())


@show.command("faults")
def show_faults(
    name: Name = "",
    topology: Annotated[str, typer.Option(help="The topology it is to meet.")] = "edge-clusters",
    seed: Annotated[int, typer.Option(help="Of what a scenario draws.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="All faults, however many.")] = False,
) -> None:
    """The concrete events of a scenario and a picture of them, without running anything."""
    from atlas import showing  # noqa: PLC0415

    showing.faults(name, topology, seed, Console(), everything=everything)


@show.command("tasks")
def show_tasks(
    name: Name = "",
    count: Annotated[
        bool, typer.Option("--count", help="Read its text, too, fetched at need, and count.")
    ] = False,
) -> None:
    """The tasks known by name, with their sources and licences; or one of them in detail."""
    from atlas import showing  # noqa: PLC0415

    showing.tasks(name, Console(), count=count)


@show.command("devices")
def show_devices(name: Name = "") -> None:
    """The profiles of real devices, with their sources."""
    from atlas import showing  # noqa: PLC0415

    showing.devices(name, Console())


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def explore(context: typer.Context) -> None:
    """Look for what breaks a test, under many seeds and random faults (`python -m broker`'s)."""
    from broker.__main__ import app as broker  # noqa: PLC0415 - `atlas --help` should be quick

    broker(["explore", *context.args], prog_name="atlas")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script `atlas`."""
    from broker.endings import endings  # noqa: PLC0415

    with endings():
        app(args=list(arguments) if arguments is not None else None, prog_name="atlas")


def _refuse_with_resume(context: typer.Context) -> None:
    """Raises InputError where a run that goes on is asked to be another one."""
    for name in ("config", "seed", "out", "topology", "faults", "recipe", "changes"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(
                "a run that goes on is the run that it was, with its own config and folder",
                key="--resume",
                remedy=f"Leave out {'--set' if name == 'changes' else name}",
            )


def _rate(text: str) -> float:
    """A learning rate. Raises InputError for what is none."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InputError(
            f"{text!r} is no learning rate", key="--rates", remedy="Write 0.0005,0.001,0.002"
        )
    return rate


def _need_learning() -> None:
    missing = [
        name
        for name in ("torch", "transformers", "peft", "sklearn")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise InputError(
            f"`atlas run` needs {', '.join(missing)}, which is not installed",
            remedy="Install the learning system: pip install -c constraints.txt '.[learn]'",
        )


def _next_folder(name: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


if __name__ == "__main__":
    main()
