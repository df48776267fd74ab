"""The command `explore`: a test of pytest under many seeds and random faults."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from topologies import InputError


def explore(
    test: Annotated[str, typer.Argument(metavar="FILE::TEST", help="As pytest names it.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from the test's own on.")] = (
        1000
    ),
    faults: Annotated[
        str, typer.Option(metavar="random|mark", help="Drawn, or those that the mark names.")
    ] = "random",
    intensity: Annotated[
        float, typer.Option(min=0, max=1, help="How many faults, how long, how bad.")
    ] = 0.5,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only faults of this kind; may be given several times.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Real time after which nothing more is tried.")] = (
        "1 min"
    ),
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")] = 0,
    out: Annotated[Path, typer.Option(help="Where to write what is found.")] = Path("found"),
) -> None:
    """Look for what breaks a test that is marked `network`.

    It is run under many seeds and random faults, over all cores. The first that fails is shrunk to
    the smallest that fails in the same way, and written down as a fault file and a test.
    """
    if faults not in ("random", "mark"):
        remedy = "Write random, or mark: what the test's own mark names"
        raise InputError(f"{faults} is neither", key="--faults", remedy=remedy)
    if importlib.util.find_spec("pytest") is None:
        remedy = "pip install pytest pytest-asyncio"
        raise InputError("exploring takes pytest, which is not installed", remedy=remedy)
    import pytest  # noqa: PLC0415 - not everybody has it

    settings = {
        "seeds": seeds,
        "faults": "random" if faults == "random" else None,
        "intensity": intensity,
        "kinds": list(kind or ()),
        "budget": budget,
        "jobs": jobs,
    }
    options = [
        "--network-explore",
        json.dumps(settings),
        "--network-found",
        str(out),
        "--no-header",
    ]
    sys.exit(pytest.main([test, "-q", "-p", "pytest_atlas", *options]))
