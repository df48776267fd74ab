"""`kill -9` at random moments: a run that is resumed ends as one that was never killed.

    python benchmarks/resume.py [--config tiny] [--moments 25] [--seed 0]

Runs `atlas run CONFIG` once to its end. Then, for each moment, runs it again, kills it when its
checkpoint has grown to a share drawn by the seed (above 1: some time after it was complete), kills
every third one once more on its way, resumes it, and compares: digest, adapters, notes, trace and
faults have to be the same bytes. `benchmarks/results/resume.json` gets the counts and the wall
times, one entry for each config. Each run is a child of this process, which has imported everything
already; so times are of the run alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlas import assets, cli
from atlas.results.manifest import machine
from faults.patterns import Dice

RESULTS = Path(__file__).with_name("results")
LOOK_S = 0.002

CONFIGS: dict[str, tuple[str, ...]] = {
    "tiny": ("training.rounds=2", "held_out=8"),
    "quickstart": (
        *("training.rounds=2", "training.steps=3", "training.batch=4", "training.tokens=32"),
        "held_out=8",
    ),
}
"""What is changed in a config to make it short."""


class Child:
    """`atlas ARGUMENTS` in a process of its own, and how long it has run."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.started = time.monotonic()
        self.ended: float | None = None
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = 1
            try:
                cli.main(arguments)
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            finally:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                os._exit(code)

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended or time.monotonic()) - self.started

    def is_over(self, *, wait: bool = False) -> bool:
        """Whether it has ended; with *wait*, once it has."""
        if self.ended is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            if pid:
                self.ended, self.code = time.monotonic(), os.waitstatus_to_exitcode(status)
        return self.ended is not None

    def kill(self) -> None:
        """`kill -9`."""
        if not self.is_over():
            os.kill(self.pid, signal.SIGKILL)
            self.is_over(wait=True)


def checkpoint_bytes(folder: Path) -> int:
    """How much a run has written to its checkpoint so far."""
    total = 0
    for file in (folder / "checkpoint").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # it is just being removed
            total += file.stat().st_size
    return total


def kill_at(child: Child, folder: Path, share: float, whole: int, after_s: float) -> bool:
    """Kills a run when so much of its checkpoint is there; above 1, that much of `after_s` later.
    Whether it was killed before it ended.
    """
    while not child.is_over() and checkpoint_bytes(folder) < min(share, 1) * whole:
        time.sleep(LOOK_S)
    if share > 1 and not child.is_over():
        time.sleep((share - 1) * after_s)
    child.kill()
    return child.code == -signal.SIGKILL


def content(folder: Path) -> dict[str, str]:
    """What two runs have to have in common, by file: a digest of it. The wall time is no part."""
    names = ("config.yaml", "manifest.json", "metrics.jsonl", "faults.yaml", "trace.parquet")
    files = {name: (folder / name).read_bytes() for name in names}
    files |= adapters(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del summary["wall_seconds"]
    files["summary.json"] = json.dumps(summary).encode()
    return {name: hashlib.sha256(bytes_).hexdigest() for name, bytes_ in files.items()}


def adapters(folder: Path) -> dict[str, bytes]:
    """The files of a run's adapters."""
    files = sorted((folder / "adapters").glob("*/*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def trials(
    arguments: Sequence[str], shares: Sequence[Sequence[float]], folder: Path
) -> dict[str, Any]:
    """A run that is never killed, and for each of `shares` one that is killed there, again on its
    way if there are several, and resumed.
    """
    log = folder / "log.txt"
    whole = Child(["run", *arguments, "--out", str(folder / "whole"), "--checkpoint", "keep"], log)
    whole.is_over(wait=True)
    if whole.code:
        raise SystemExit(log.read_text(encoding="utf-8"))
    expected, size = content(folder / "whole"), checkpoint_bytes(folder / "whole")
    found = []
    for number, moments in enumerate(shares):
        out = folder / f"run-{number}"
        child = Child(["run", *arguments, "--out", str(out)], log)
        kills, before_s = 0, 0.0
        for share in moments:
            kills += kill_at(child, out, share, size, 0.2 * whole.seconds)
            before_s += child.seconds
            child = Child(["run", "--resume", str(out)], log)
        child.is_over(wait=True)
        found.append(
            {
                "shares": [round(share, 3) for share in moments],
                "kills": kills,
                "seconds_before": round(before_s, 2),
                "seconds_resumed": round(child.seconds, 2),
                "same": child.code == 0 and content(out) == expected,
            }
        )
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return {
        "seconds_never_killed": round(whole.seconds, 2),
        "checkpoint_bytes": size,
        "steps": json.loads((folder / "whole" / "summary.json").read_text())["steps"],
        "moments": len(found),
        "kills": sum(one["kills"] for one in found),
        "same": sum(one["same"] for one in found),
        "seconds_resumed_median": statistics.median(one["seconds_resumed"] for one in found),
        "trials": found,
    }


def main() -> None:
    """Draws the moments, kills, resumes, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", choices=sorted(CONFIGS))
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    assets.forbid_hub()
    from atlas import experiment  # noqa: F401 - children have it then

    dice = Dice(arguments.seed, arguments.config, "resume")
    shares = [
        sorted(dice.between(1, 1100) / 1000 for _ in range(2 if number % 3 == 2 else 1))
        for number in range(arguments.moments)
    ]
    changes = [part for change in CONFIGS[arguments.config] for part in ("--set", change)]
    with tempfile.TemporaryDirectory() as name:
        result = trials([arguments.config, *changes], shares, Path(name))
    file = RESULTS / "resume.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    command = f"atlas run {arguments.config} {' '.join(changes)}"
    known[arguments.config] = {"command": command, "machine": machine(), **result}
    file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(known[arguments.config], indent=2))
    sys.exit(0 if result["same"] == result["moments"] else 1)


if __name__ == "__main__":
    main()
