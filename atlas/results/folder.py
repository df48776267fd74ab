"""A run's folder, written while the run goes on and read when it is over or broken off.

    config.yaml      the complete config, every default written out
    manifest.json    versions, seed, digests; it marks the folder as a run's
    metrics.jsonl    one line for each note, flushed as it comes
    faults.yaml      the scenario as it was in this run, everything filled in; it can be run again
    trace.parquet    each message and fault
    summary.json     the figures, sorted
    report.html      one file that needs no network
    adapters/<neighborhood>/   as PEFT saves them; <client>/ where each has its own
    checkpoint/      what was computed so far, for a run that goes on; gone once it is finished

Files that are rewritten are replaced in one go, so a reader finds the old or the new one, never
half of it. Nothing that was there is lost: a folder that holds anything is refused, and a run that
is resumed tells again what it had told before, or ends with an error. One process at a time writes
to a folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from atlas.results.events import read
from atlas.results.manifest import Manifest
from atlas.results.notes import Note, Record, from_lines, to_line
from atlas.results.summary import Summary
from topologies import InputError

Read = TypeVar("Read", bound=BaseModel)


class Layout:
    """Where things lie in a run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.faults = self.path / "faults.yaml"
        self.trace = self.path / "trace.parquet"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"
        self.adapters = self.path / "adapters"
        self.checkpoint = self.path / "checkpoint"

    def adapter(self, name: str) -> Path:
        """The folder of a neighborhood's or a client's adapter."""
        if not name or name != Path(name).name or name in (".", ".."):
            raise ValueError(f"{name!r} can't be the name of a folder")
        return self.adapters / name

    def written(self) -> tuple[Path, ...]:
        """The parts of the folder that are there, in the order of the list above."""
        return tuple(part for part in self._parts() if part.exists())

    def _parts(self) -> tuple[Path, ...]:
        return (
            self.config,
            self.manifest,
            self.metrics,
            self.faults,
            self.trace,
            self.summary,
            self.report,
            self.adapters,
            self.checkpoint,
        )


class RunFolder(Layout):
    """The folder of a run that is under way. Close it, or use it as a context manager.

    Args:
        path: the folder; it is created, with the folders above it.
        resume: go on with the run that is there; it is not created then.

    Raises:
        InputError: the folder holds something, or is none of a run to `resume`; it can't be
            written; or another process has it.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        super().__init__(path)
        self._told: deque[str] = deque()
        (_require_run if resume else require_free)(self.path)
        try:
            if resume:
                self._take()
                self._told += self._clear_up()
            else:
                self.path.mkdir(parents=True, exist_ok=True)
                self._take()
                self.write_manifest(Manifest())
            self._notes = self.metrics.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise _refusal(
                self.path,
                f"the folder can't be written: {error.strerror or error}",
                "Name a folder that you may write to",
            ) from error

    def _take(self) -> None:
        """Holds the folder, as long as this process lives, against others that would write to it.
        Raises InputError where one does.
        """
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InputError(
                "another process is at work on the run in this folder",
                file=str(self.path),
                remedy="Wait until it has ended, or name another folder",
            ) from None

    def _clear_up(self) -> list[str]:
        """Takes away what a killed run left half done. The lines of `metrics.jsonl` that remain."""
        for part in self.path.glob(".*.part"):
            part.unlink()
        text = _text(self.metrics)
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(self.metrics, len(whole.encode()))
        return whole.splitlines()

    def note(self, note: Note) -> None:
        """Append a note to `metrics.jsonl` and flush it, so that no crash of ours loses it.

        In a run that was resumed, what its earlier life had told stands there already. Raises
        InputError where this life tells something else.
        """
        line = to_line(note)
        if not self._told:
            self._notes.write(line + "\n")
            self._notes.flush()
        elif line != self._told.popleft():
            raise InputError(
                "the resumed run does not do what it did before it was killed",
                file=str(self.metrics),
                line=_text(self.metrics).count("\n") - len(self._told),
                remedy="Begin it anew: what it needs has changed since",
            )

    def write_config(self, config: Mapping[str, object]) -> None:
        """Write `config.yaml` in the order given; every default must be in it."""
        replace(self.config, _yaml(config))

    def write_manifest(self, manifest: Manifest) -> None:
        """Write `manifest.json`."""
        replace(self.manifest, _json(manifest))

    def write_faults(self, scenario: str) -> None:
        """Write `faults.yaml`, the text of a scenario."""
        replace(self.faults, scenario)

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`, its keys sorted."""
        replace(self.summary, _json(summary))

    def write_report(self, html: str) -> None:
        """Write `report.html`."""
        replace(self.report, html)

    def remove_checkpoint(self) -> None:
        """Remove `checkpoint/`, which a run that is finished does not need."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def close(self) -> None:
        """Close `metrics.jsonl`, and let others write. Closing twice does no harm."""
        if not self._notes.closed:
            self._notes.close()
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class RunRecord:
    """What a run left behind, read and checked.

    A run that was broken off has no `summary`, and may have no `config` or `faults`; its notes are
    all there. `config` and `faults` are texts, as written.
    """

    folder: Layout
    manifest: Manifest
    notes: tuple[Record, ...]
    summary: Summary | None
    config: str
    faults: str


def require_free(path: str | Path) -> None:
    """Raises InputError where a run could not begin because something is there already."""
    path = Path(path)
    try:
        is_folder = path.is_dir()
        is_file = path.exists() and not is_folder
        is_full = is_folder and any(path.iterdir())
    except OSError as error:
        raise _refusal(
            path,
            f"the folder can't be read: {error.strerror or error}",
            "Name a folder that you may read and write",
        ) from error
    if is_file:
        raise _refusal(path, "this is a file, not a folder", "Name a folder")
    if is_run(path):
        raise _refusal(
            path,
            "the folder holds the results of an earlier run",
            "Name another folder, or remove this one",
        )
    if is_full:
        raise _refusal(
            path,
            "the folder holds something that is not a run of ATLAS",
            "Name a folder that is empty or not there yet",
        )


def is_run(path: Path) -> bool:
    """Whether the folder is that of a run."""
    try:
        Manifest.model_validate_json(Layout(path).manifest.read_bytes())
    except (OSError, ValidationError):
        return False
    return True


def read_run(path: str | Path) -> RunRecord:
    """Read a run's folder, be it finished or not.

    Raises:
        InputError: it is not a run's folder, or one of its files is damaged.
    """
    folder = Layout(path)
    _require_run(folder.path)
    notes = from_lines(_text(folder.metrics), file=folder.metrics)
    for number, note in enumerate(notes, start=1):
        try:
            read(note)
        except ValidationError as error:
            raise _damaged(folder.metrics, error, line=number) from error
    return RunRecord(
        folder=folder,
        manifest=_model(Manifest, folder.manifest),
        notes=notes,
        summary=_model(Summary, folder.summary) if folder.summary.is_file() else None,
        config=_text(folder.config),
        faults=_text(folder.faults),
    )


def _require_run(path: Path) -> None:
    if not Layout(path).manifest.is_file():
        raise InputError(
            "this is not the folder of a run: it has no manifest.json",
            file=str(path),
            remedy="Name the folder that `atlas run --out` wrote",
        )


def replace(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _refusal(path: Path, problem: str, remedy: str) -> InputError:
    return InputError(problem, file=str(path), key="--out", remedy=remedy)


def _model(model: type[Read], path: Path) -> Read:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: ValidationError, line: int | None = None) -> InputError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return InputError(
        f"the file is damaged, or of another version: {first['msg']}",
        file=str(path),
        line=line,
        key=where or None,
        remedy="Restore the file, or run again",
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _json(model: BaseModel) -> str:
    values = model.model_dump(mode="json")
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _yaml(config: Mapping[str, object]) -> str:
    return str(yaml.safe_dump(config, sort_keys=False))
