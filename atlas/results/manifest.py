"""The manifest: on what a run was made, so that it can be made again.

Versions of the packages that its numbers depend on, the seed, digests of what went in, and the
kind of machine that computed. No path, user or host name is in it: a run's folder can be given
away.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from topologies import InputError

PACKAGES = {
    "atlas": "atlas-emulator",
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "pyzmq": "pyzmq",
    "numpy": "numpy",
}


class Manifest(BaseModel):
    """`manifest.json`. `kind` marks a run's folder; `format` counts changes of its layout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["atlas run"] = "atlas run"
    format: Literal[1] = 1
    name: str = ""
    """What the run is called, from its config."""
    seed: int | None = None
    digests: dict[str, str] = {}
    """SHA-256 of what went in, by name: the model, each task's text, topology, faults, config."""
    truth: dict[str, str] = {}
    """The task that each client was dealt. The experimenter's; no program of the run knows it."""
    steps_expected: int = 0
    versions: dict[str, str] = {}
    platform: dict[str, str | int] = {}

    @classmethod
    def here(
        cls,
        *,
        name: str = "",
        seed: int,
        truth: Mapping[str, str],
        steps_expected: int,
        digests: Mapping[str, str] | None = None,
    ) -> Self:
        """The manifest of a run on this machine, with the packages that are installed."""
        return cls(
            name=name,
            seed=seed,
            digests=dict(digests or {}),
            truth=dict(truth),
            steps_expected=steps_expected,
            versions=versions(),
            platform=machine(),
        )

    def require_same(self, other: Manifest, *, file: Path) -> None:
        """Raises InputError unless `other` is of the same run on the same kind of machine.

        `file` is where this one stands.
        """
        for name in sorted(self.digests.keys() | other.digests.keys()):
            if self.digests.get(name) != other.digests.get(name):
                raise InputError(
                    f"what this run was begun with has changed: {name}",
                    file=str(file),
                    key=f"digests.{name}",
                    remedy="Put it back as it was, or begin another run",
                )
        for section in ("versions", "platform"):
            before, now = getattr(self, section), getattr(other, section)
            for name in sorted(before.keys() - {"cores"}):
                if before[name] != now.get(name):
                    raise InputError(
                        f"{name} was {before[name]} when this run began, and is {now.get(name)}: "
                        "the same numbers can't be promised",
                        file=str(file),
                        key=f"{section}.{name}",
                        remedy="Resume it where it began, or begin another run",
                    )


def versions() -> dict[str, str]:
    """The installed versions of what a run depends on. Nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str | int]:
    """The kind of machine: system, instruction set, processor and cores."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "implementation": platform.python_implementation(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
