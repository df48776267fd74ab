"""The scenario file: what may stand in it, and what is refused.

```yaml
name: evening-churn
description: one sentence                       # optional
timeline:
  - {at: 30 s, crash: edge-3, for: 20 s}        # without `for` it never comes back
  - {at: 60 s, partition: [[cluster=0], [cluster=1, cluster=2]], for: 15 s}
  - {at: 80 s, degrade: {link: [edge-1, gateway-0], bandwidth: 10%, delay: +150 ms}, for: 1 min}
  - {at: 90 s, slow: {nodes: device=raspberry-pi-4, compute: 4x}}
  - {at: 95 s, stop: edge-2, for: 10 s}         # asked to end, and started again
  - {at: 96 s, pause: edge-1, for: 5 s}
  - {at: 97 s, skew: {nodes: edge-*, offset: -200 ms, drift: 50 ppm}, for: 1 min}
  - {at: 98 s, traffic: {from: edge-0, to: gateway-0, rate: 8 Mbit/s}, for: 1 min}
  - {at: 99 s, degrade: {nodes: edge-1, loss: 2 %, burst: 8}, for: 1 min}      # losses in bursts
  - {at: 2 min, crash: any 30 % of role=client, for: 1 min}
processes:
  - churn: {nodes: role=client, mean_up: 4 min, mean_down: 30 s, until: 1 h}
```

Nodes are named by a selector: a name, a pattern (``edge-*``), an attribute (``role=client``), a
share drawn by the seed (``any 30 %``), a list of these, or what only a run can know (``host of
client-3``, ``busiest host``: anything of several words that is no node's name). This file knows the
words; whether they fit a topology is found out by `faults.expand`. The kinds of fault are in
`faults.entries`, and a table of them in ``docs/faults.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, StrictBool, model_validator

from faults import recordings
from faults.entries import Fault
from faults.errors import ScenarioError
from faults.processes import Process
from faults.recordings import Recording
from topologies.bundled import Catalog
from topologies.document import Document, Settings, parse_yaml
from topologies.errors import InputError

_FOLDER = Path(__file__).with_name("catalog")
_CATALOG = Catalog(_FOLDER, "scenario", ScenarioError)


class ScenarioFile(Settings):
    """A fault scenario: what goes wrong, and when."""

    name: str | None = Field(default=None, description="its name; else the file's")
    description: str = Field(default="", description="a sentence for people")
    concrete: StrictBool = Field(
        default=False, description="a run wrote it, so that what changes nothing is no slip"
    )
    timeline: tuple[Fault, ...] = Field(default=(), description="faults at stated times")
    processes: tuple[Process, ...] = Field(default=(), description="faults by the laws of chance")

    @model_validator(mode="after")
    def _is_a_scenario(self) -> ScenarioFile:
        if not {"timeline", "processes"} & self.model_fields_set:
            raise InputError("this scenario has neither a timeline nor processes")
        return self


@dataclass(frozen=True)
class Scenario:
    """What goes wrong, and when, in the words of its file. `faults.expand` makes events of it.

    Attributes:
        name: the file's own, or else the file's name.
        description: a sentence for people.
        concrete: a run wrote it (`faults.concrete`), so that what changes nothing is no slip.
        timeline: faults at stated times, in the file's order.
        processes: faults by chance.
        recordings: the traces that the timeline plays, by the file names in it.
        origin: the file it was read from, for errors.
    """

    name: str
    description: str = ""
    concrete: bool = False
    timeline: tuple[Fault, ...] = ()
    processes: tuple[Process, ...] = ()
    recordings: Mapping[str, Recording] = field(default_factory=dict, repr=False)
    origin: Document = field(
        default_factory=lambda: Document("scenario", None, failure=ScenarioError),
        repr=False,
        compare=False,
    )

    @staticmethod
    def of(content: Mapping[str, Any]) -> Scenario:
        """The scenario of which a file would say this, in plain dicts, lists and words.

        Raises ScenarioError.
        """
        return _scenario(Document("scenario", dict(content), failure=ScenarioError), Path())


def catalog() -> tuple[str, ...]:
    """The names of the bundled scenarios."""
    return _CATALOG.names()


def load(name_or_path: str | Path) -> Scenario:
    """The bundled scenario of this name, or the one in this file.

    Raises ScenarioError when there is neither, or when the file is no scenario.
    """
    folder = _FOLDER if _CATALOG.is_bundled(name_or_path) else Path(name_or_path).parent
    return parse(*_CATALOG.read(name_or_path), folder)


def parse(text: str, file: str = "<text>", folder: Path | None = None) -> Scenario:
    """The scenario that this YAML text is; *file* is its name in errors, *folder* where the traces
    that it names lie (else the current one). Raises ScenarioError.
    """
    return _scenario(parse_yaml(text, file, ScenarioError), folder or Path())


def _scenario(document: Document, folder: Path) -> Scenario:
    whole = document.read(ScenarioFile, document.mapping())
    played: dict[str, Recording] = {}
    for index, fault in enumerate(whole.timeline):
        if fault.trace is not None and fault.trace.file not in played:
            place = ("timeline", index, "trace", "file")
            played[fault.trace.file] = _recording(folder / fault.trace.file, document, place)
    return Scenario(
        name=whole.name or Path(document.file).stem,
        description=whole.description,
        concrete=whole.concrete,
        timeline=whole.timeline,
        processes=whole.processes,
        recordings=played,
        origin=document,
    )


def _recording(path: Path, document: Document, place: tuple[str | int, ...]) -> Recording:
    try:
        return recordings.read(path)
    except ScenarioError as error:
        raise document.error(f"{error.file}: {error.problem}", place, error.remedy) from None
