"""What was found, as files: the faults, the network, and a test that repeats it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import faults
from broker.exploring.trial import Failure, Trial
from topologies import Topology, units

_HIDDEN = ("_asyncio_loop_factory", "network", "anyio_backend")


def sentence(name: str, trial: Trial, failure: Failure) -> str:
    """What was found, in a sentence."""
    struck = "; ".join(_in_words(trial)) or "no fault at all"
    return f"{name} fails under seed {trial.seed} with {struck}: {failure.text}"


def write(item: Any, trial: Trial, said: str, folder: Path) -> tuple[Path, Path, Path]:
    """The files: faults, topology, test. A folder that is not there is made."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", item.name).strip("_").removeprefix("test_")
    scenario = folder / f"{name}.yaml"
    topology = folder / f"{name}.topology.json"
    test = folder / f"test_{name}_found.py"
    text = "name: nothing\ntimeline: []\n"
    if trial.scenario is not None:
        text = faults.write(trial.scenario)
    scenario.write_text(text, encoding="utf-8")
    topology.write_text(_node_link(trial.topology), encoding="utf-8")
    test.write_text("\n".join(_lines(item, trial, said, folder, scenario, topology)) + "\n",
                    encoding="utf-8")  # fmt: skip
    return scenario, topology, test


def _in_words(trial: Trial) -> Iterator[str]:
    if trial.scenario is None:
        return
    events = faults.expand(trial.scenario, trial.topology, trial.seed)
    ends = {event.fault: event.at_ns for event in events if event.phase == "end"}
    for event in events:
        if event.phase == "begin":
            lasts = ""
            if event.fault in ends:
                lasts = f" for {units.show_nanoseconds(ends[event.fault] - event.at_ns)}"
            yield f"{event.text} at {units.show_nanoseconds(event.at_ns)}{lasts}"


def _node_link(topology: Topology) -> str:
    import networkx  # noqa: PLC0415 - takes longer to import than an exploration takes

    data = networkx.node_link_data(topology.to_networkx(), edges="links")
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _lines(
    item: Any, trial: Trial, said: str, folder: Path, scenario: Path, topology: Path
) -> Iterator[str]:
    """A test that does what the explored one did, under what was found."""
    module = item.module.__name__
    root = item.path.parents[module.count(".")]
    names = item._fixtureinfo.argnames
    given = getattr(item, "callspec", None)
    values = {name: value for name, value in (given.params if given else {}).items()
              if name in names and name not in _HIDDEN}  # fmt: skip
    fixtures = [name for name in _own_fixtures(item, module) if name not in values]
    asynchronous = [mark for mark in ("asyncio", "anyio") if item.get_closest_marker(mark)]
    whole = f"{item.cls.__name__}().{item.function.__name__}" if item.cls else "original"
    what = f"{item.cls.__name__} as _{item.cls.__name__}" if item.cls else (
        f"{item.function.__name__} as original"
    )  # fmt: skip
    yield '"""Found by exploring:'
    yield ""
    yield said.replace("\\", "\\\\").replace('"""', "'''")
    yield '"""'
    yield ""
    yield "import sys"
    yield "from pathlib import Path"
    yield ""
    yield "import pytest"
    yield ""
    yield "HERE = Path(__file__).parent"
    yield f"sys.path.insert(0, str(HERE / {os.path.relpath(root, folder)!r}))"
    yield ""
    yield f"from {module} import {', '.join([*fixtures, what])}  # noqa: E402"
    yield ""
    yield ""
    yield from (f"@pytest.mark.{mark}" for mark in asynchronous)
    settings = _settings(item)
    yield "@pytest.mark.network("
    yield f"    topology=HERE / {topology.name!r},"
    yield f"    faults=HERE / {scenario.name!r},"
    yield f"    seed={trial.seed},"
    yield from (f"    {key}={value!r}," for key, value in settings.items())
    yield ")"
    arguments = ", ".join(name for name in names if name not in values)
    passed = ", ".join(f"{name}={values[name]!r}" if name in values else f"{name}={name}"
                       for name in names)  # fmt: skip
    prefix, wait = ("async ", "await ") if asynchronous else ("", "")
    call = f"_{whole}" if item.cls else whole
    yield f"{prefix}def {scenario.stem.join(('test_', '_found'))}({arguments}):"
    yield f"    {wait}{call}({passed})"


def _own_fixtures(item: Any, module: str) -> list[str]:
    """The fixtures of the test's own module, which have to come along."""
    definitions = item._fixtureinfo.name2fixturedefs
    return [name for name, found in definitions.items() if found[-1].func.__module__ == module]


def _settings(item: pytest.Item) -> dict[str, object]:
    """What else the mark network says."""
    said: dict[str, object] = {}
    for mark in item.iter_markers("network"):
        said = {**mark.kwargs, **said}
    return {key: said[key] for key in ("strict", "limit") if key in said}
