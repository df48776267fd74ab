"""Raw figures of one stack, kept in a file: what each run of each cell took.

`{"backend", "settings", "checks", "cells": {name: {"seconds": [[of each flow] of each run], …}}}`,
a cell to a line. Written anew, whole or not at all, after each cell, so that a long measurement can
be broken off and what it has is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFERENCES = Path(__file__).parent / "references"


@dataclass
class Store:
    """The file of one stack. `cells` are its figures, `settings` how the stack was set, `checks`
    what was measured about the measuring itself.
    """

    backend: str
    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, backend: str, folder: Path = REFERENCES) -> Store:
        """What is in the folder for this stack, or an empty store that will be written there."""
        path = folder / f"{backend}.json"
        if not path.exists():
            return cls(backend, path)
        held = json.loads(path.read_text())
        return cls(backend, path, held["settings"], held["checks"], held["cells"])

    def put(
        self, name: str, seconds: list[list[float]], *, write: bool = True, **more: Any
    ) -> None:
        """Replaces a cell's figures and, unless told not to, writes the file."""
        rounded = [[float(f"{value:.6g}") for value in run] for run in seconds]
        self.cells[name] = {"seconds": rounded, **more}
        if write:
            self.write()

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cells = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(cell)}" for name, cell in sorted(self.cells.items())
        )
        head = {"backend": self.backend, "settings": self.settings, "checks": self.checks}
        text = json.dumps(head, indent=1)[:-2] + ',\n "cells": {\n' + cells + "\n }\n}\n"
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(self.path)
