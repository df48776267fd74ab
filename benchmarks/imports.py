"""How long importing the rooms takes, beside a bare interpreter.

```sh
python benchmarks/imports.py            # measures, and writes results/imports.json
python benchmarks/imports.py --table    # prints the table of docs/measurements.md
```

Each figure is processor time (user and system) of a whole process that runs one statement, the
median of eleven, bytecode compiled before, less that of a process that does nothing: one thread's
work, so that it is also how long one waits on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "imports.json"
REPEATS = 11
STATEMENTS = (
    "import broker",
    "import topologies",
    "import faults",
    "import broker; broker.run",
    "import broker.standalone, broker.control.api",
)


def processor_s(statement: str) -> float:
    """Seconds of processor time that a process takes for a statement."""
    variables = {
        key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
    }
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", statement], check=True, cwd=REPOSITORY, env=variables, timeout=60
    )
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


def measure() -> dict[str, object]:
    """The figures, by statement."""
    figures: dict[str, float] = {}
    for statement in ("pass", *STATEMENTS):
        processor_s(statement)  # compiles
        figures[statement] = statistics.median(processor_s(statement) for _ in range(REPEATS))
    bare = figures.pop("pass")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "bare_s": round(bare, 3),
        "seconds": {name: round(seconds - bare, 3) for name, seconds in figures.items()},
    }


def table() -> str:
    """The figures as the page has them."""
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [f"| `{name}` | {seconds:.2f} s |" for name, seconds in figures["seconds"].items()]
    return "\n".join(["| statement | processor time |", "|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--table", action="store_true", help="print the table of the page")
    if not parser.parse_args().table:
        RESULTS.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
