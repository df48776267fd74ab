"""A run that was killed goes on: it ends as if it never had been, or says why it can't."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atlas import assets, cli, config, experiment
from atlas.models import Session, Stage
from atlas.results import RunFolder, read_run
from atlas.results.manifest import Manifest
from topologies import InputError

REPOSITORY = Path(__file__).parents[2]
SMALL = (
    *("training.rounds=2", "training.steps=1", "held_out=8"),
    "tasks=[stdlib-package,stdlib-unicode]",
)

FAULTS = """
name: two
timeline:
  - {at: 1.1 s, crash: host of client-0, for: 2 s}
  - {at: 900 ms, crash: client-5, for: 500 ms}
"""
KILLING = f"""
import json, pathlib
from atlas import assets
from benchmarks.resume import Child, adapters, trials
assets.forbid_hub()
from atlas import experiment
here = pathlib.Path()
arguments = ["tiny", "--topology", "few.yaml"]
arguments += [part for change in {SMALL!r} for part in ("--set", change)]
found = trials([*arguments, "--faults", "two.yaml"], [[0.35, 0.8]], here)
calm = Child(["run", *arguments, "--faults", "none", "--out", "calm"], here / "log.txt")
calm.is_over(wait=True)
assert adapters(here / "calm")
found["calm"] = adapters(here / "calm") == adapters(here / "run-0") == adapters(here / "whole")
found["left"] = sorted(path.name for path in (here / "run-0").iterdir())
found["deaths"] = json.loads((here / "run-0" / "summary.json").read_text())["deaths"]
print(json.dumps(found))
"""
"""A process that kills children of its own, for only these can be forked without harm."""


def few() -> str:
    """The topology `tiny-clusters` with half of its devices."""
    file = REPOSITORY / "topologies" / "catalog" / "tiny-clusters.yaml"
    left_out = re.compile(r"(client-[2367]|host-[3-59]|host-1[01])\b")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not left_out.search(line))


class Watching:
    """A view that interrupts the run at a note of this kind, as Ctrl-C would."""

    def __init__(self, event: str = "") -> None:
        self.event = event
        self.said: list[str] = []

    def expect(self, **_: object) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)

    def note(self, note: object) -> None:
        if getattr(note, "event", None) == self.event:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was ended when it had just finished training."""
    assets.forbid_hub()
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.raises(KeyboardInterrupt):
        experiment.run(config.load("tiny", SMALL), folder, view=Watching("finished"))
    return folder


@pytest.fixture
def ended(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_killed_twice_ends_with_the_bytes_of_one_that_never_was(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    (tmp_path / "few.yaml").write_text(few())
    (tmp_path / "two.yaml").write_text(FAULTS)

    ended = subprocess.run(
        [sys.executable, "-c", KILLING],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["kills"], found["same"]) == (2, 1), found
    assert found["deaths"] == 2
    assert found["calm"], "with faults and without, the adapters are the same bytes"
    assert found["left"] == [
        *("adapters", "config.yaml", "faults.yaml", "manifest.json", "metrics.jsonl"),
        *("report.html", "summary.json", "trace.parquet"),
    ]


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_nothing_that_was_computed_is_computed_again(
    ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was computed before")

    before = (ended / "metrics.jsonl").read_text()
    known = _bytes_in(ended / "checkpoint")
    for owner, name in ((Stage, "run"), (Stage, "run_tokens"), (Session, "commit")):
        monkeypatch.setattr(owner, name, refuse)
    view = Watching()
    summary = experiment.resume(ended, view=view, checkpoint="keep")

    assert summary.finished
    assert (summary.steps, summary.steps_lost, summary.steps_twice) == (16, 0, 0)
    assert any("results are known from before" in text for text in view.said)
    assert (ended / "metrics.jsonl").read_text().startswith(before)
    after = _bytes_in(ended / "checkpoint")
    assert known < after < 1.1 * known, "the last scores were new"

    everything = {path: path.stat().st_mtime_ns for path in ended.rglob("*") if path.is_file()}
    view = Watching()
    assert experiment.resume(ended, view=view) == summary
    assert view.said == [f"The run in {ended} is finished: there is nothing left to do"]
    assert everything == {
        path: path.stat().st_mtime_ns for path in ended.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("section", "name", "said"),
    [
        ("digests", "topology", "has changed: topology"),
        ("digests", "task stdlib-unicode", "has changed: task stdlib-unicode"),
        ("digests", "model", "has changed: model"),
        ("versions", "torch", "torch was 0 when this run began, and is "),
        ("platform", "processor", "processor was 0 when"),
    ],
)
def test_what_has_changed_since_a_run_began_is_named(
    trained: Path, section: str, name: str, said: str
) -> None:
    now = read_run(trained).manifest
    before = now.model_copy(update={section: {**getattr(now, section), name: "0"}})
    now.require_same(now, file=trained / "manifest.json")

    with pytest.raises(InputError, match=said) as refused:
        before.require_same(now, file=trained / "manifest.json")
    assert f"{section}.{name}" in str(refused.value)


def test_a_config_that_was_edited_is_another_run(ended: Path) -> None:
    file = ended / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))

    with pytest.raises(InputError, match="has changed: config"):
        experiment.resume(ended, view=Watching())


def test_a_resumed_run_that_tells_something_else_is_ended(ended: Path) -> None:
    file = ended / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"bytes_total":', '"bytes_total":1')
    file.write_text("".join(lines) + '{"time_s": 12')

    with pytest.raises(InputError, match="does not do what it did") as refused:
        experiment.resume(ended, view=Watching())
    assert "metrics.jsonl:3" in str(refused.value)


def test_one_process_at_a_time_writes_to_a_run(ended: Path) -> None:
    (ended / ".summary.json.part").write_text("{")
    with RunFolder(ended, resume=True), pytest.raises(InputError, match="another process"):
        RunFolder(ended, resume=True)
    RunFolder(ended, resume=True).close()

    assert not (ended / ".summary.json.part").exists()


def test_a_run_that_was_killed_before_it_began_says_so(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_manifest(Manifest())

    with pytest.raises(InputError, match="before it had begun"):
        experiment.resume(folder.path, view=Watching())
    assert read_run(folder.path).summary is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--resume nowhere", "nowhere: this is not the folder of a run"),
        ("tiny --resume run", "Leave out config"),
        ("--resume run --seed 3", "Leave out seed"),
        ("--resume run --out other", "Leave out out"),
        ("--resume run --faults none", "Leave out faults"),
        ("--resume run --set seed=3", "Leave out --set"),
    ],
)
def test_what_can_not_be_resumed_is_told_in_a_sentence(
    arguments: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *arguments.split()])

    assert ended.value.code == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []
