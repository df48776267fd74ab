"""The command line as a person meets it: exit codes, errors of one screen, and Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import faults
import topologies
from atlas import cli, config, tasks
from atlas.results import is_run, read_run

REPOSITORY = Path(__file__).parents[2]
SCREEN_LINES, SCREEN_COLUMNS = 24, 80

SMALL = ("training.rounds=1", "training.steps=1", "held_out=8", "faults=none")
"""What makes `tiny` as short as a run can be."""

LEARNING = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "sklearn",
    "scipy",
    "gguf",
    "plotly",
    "jinja2",
    "filelock",
)
"""What only the extra `learn` brings, as it is imported."""

Atlas = Callable[..., tuple[int, str, str]]


@pytest.fixture
def atlas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Atlas:
    """Calls `atlas` in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", str(SCREEN_COLUMNS))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main(list(arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a few bad files in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slip.yaml").write_text("name: mine\ntraining:\n  setps: 3\n")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "number.yaml").write_text("tasks: 3\n")
    (tmp_path / "half.yaml").write_text("tasks: [{name: mine}]\n")
    (tmp_path / "missing.yaml").write_text("tasks: [{name: mine, train: not-there.jsonl}]\n")
    (tmp_path / "choices.yaml").write_text("tasks: [{name: a, train: b.jsonl, choices: 3}]\n")
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    ends = "links: [{between: [hub, phone], bandwidth: 1 Mbit/s, delay: 5 ms}]\n"
    phone = "phone: {role: client, device: raspberry-pi-5}"
    (tmp_path / "bare.yaml").write_text(f"nodes: {{hub: {{role: coordinator}}, {phone}}}\n{ends}")
    hub = "hub: {role: coordinator, device: small-server}"
    island = "island: {role: host, device: laptop}"
    (tmp_path / "islands.yaml").write_text(f"nodes: {{{hub}, {phone}, {island}}}\n{ends}")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("config tinny", ['"tinny"', 'Did you mean "tiny"']),
        ("run tinny", ['"tinny"', 'Did you mean "tiny"']),
        ("config slip.yaml", ["slip.yaml:3", "setps", 'Did you mean "steps"']),
        ("config list.yaml", ["list.yaml", "a list"]),
        ("config number.yaml", ["number.yaml:1", "tasks"]),
        ("config half.yaml", ["half.yaml:1", "train"]),
        ("config twice.yaml", ["twice.yaml:2", "seed", "twice"]),
        ("run tiny --set model=tiny-lama", ["model", 'Did you mean "tiny-llama"']),
        ("run tiny --set tasks=[stdlib-keywrd]", ["tasks", 'Did you mean "stdlib-keyword"']),
        ("run missing.yaml --set model=tiny-llama", ["not-there.jsonl", "No such file"]),
        ("config tiny --set training.setps=3", ["setps", 'Did you mean "steps"']),
        ("config tiny --set lora.rnk=3", ["rnk", 'Did you mean "rank"']),
        ("config tiny --set training.steps", ["--set", "training.steps", "key=value"]),
        ("config tiny --set training.steps=", ["--set", "training.steps", "key=value"]),
        ("config tiny --set training.steps=many", ["training", "steps", "'many'"]),
        ("config tiny --set training.steps=0", ["training", "steps", "greater"]),
        ("config tiny --set name.of=3", ["--set name.of", "no keys of its own"]),
        ("config tiny --set tasks=[a", ["--set tasks", "not YAML"]),
        ("config tiny --set deal.by=mixture", ["--set deal.by", "alpha is needed"]),
        ("config tiny --set deal.alfa=1", ["--set deal.alfa", 'Did you mean "alpha"']),
        ("config choices.yaml", ["choices.yaml:1", "tasks #1 > choices: ", "not 3"]),
        (
            "run tiny --set tasks=[stdlib-unicode] --set deal.domains=2",
            ["deal.domains", "has 0 domains", "show tasks"],
        ),
        ("config tiny --set name=../elsewhere", ["name", "../elsewhere"]),
        ("config tiny --set split.spans=0", ["--set split.spans", "greater"]),
        ("config tiny --set split.spans=some", ["--set split.spans", "'some'"]),
        ("run tiny --set split.spans=12", ["split.spans", "11 layers", "11 or fewer"]),
        ("run tiny --set split.client_layers=12", ["split.client_layers", "11 or fewer"]),
        ("run tiny --set lora.targets=[foo]", ["lora.targets", "'foo'", "q_proj"]),
        (
            "run tiny --faults none --topology bare.yaml",
            ["hub", "no device", "device: raspberry-pi-5"],
        ),
        (
            "run tiny --faults none --topology islands.yaml",
            ["no way from island to hub", "Add the links"],
        ),
        ("run tiny --topology tiny-cluster", ['Did you mean "tiny-clusters"']),
        ("run tiny --topology not-there.yaml", ["not-there.yaml", "no such file"]),
        ("run tiny --faults tinny", ['Did you mean "tiny"']),
        ("run tiny --out taken", ["taken", "--out"]),
        ("run tiny --out file", ["file", "--out"]),
        ("run tiny --out file/below", ["file/below", "--out"]),
        ("run tiny --processes 0", ["--processes"]),
        ("run tiny --seed -1", ["seed"]),
        ("show topology tiny-cluster", ['Did you mean "tiny-clusters"']),
        ("show faults tinny", ['Did you mean "tiny"']),
        ("show faults tiny --topology slip.yaml", ["slip.yaml"]),
        ("show tasks news-topics", ['Did you mean "news-topic"']),
        ("show devices raspberry-pi-6", ['Did you mean "raspberry-pi-']),
        ("shwo", ["shwo"]),
        ("run --sed 3", ["--sed"]),
    ],
)
def test_bad_input_is_told_on_one_screen_with_what_would_be_right(
    atlas: Atlas, workplace: Path, arguments: str, said: list[str]
) -> None:
    code, _, error = atlas(*arguments.split())

    assert code == 2
    assert "Traceback" not in error
    for words in said:
        assert words in error
    lines = sum(1 + len(line) // SCREEN_COLUMNS for line in error.splitlines())
    assert lines <= SCREEN_LINES
    assert (workplace / "taken" / "diary.txt").read_text() == "mine"
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("model.safetensors.index.json", "{}", "list of weight files"),
        ("config.json", "{", "config.json"),
        ("tokenizer.json", '{"version": ', "tokenizer"),
    ],
)
def test_a_damaged_model_is_named_before_a_folder_is_claimed(
    atlas: Atlas, workplace: Path, tiny_folder: Path, file: str, content: str, said: str
) -> None:
    folder = workplace / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / file).write_text(content)

    code, _, error = atlas("run", "tiny", "--set", f"model={folder}", "--out", "results")

    assert code == 2, error
    assert said in error
    assert str(folder) in error.replace("\n", "")
    assert not (workplace / "results").exists()


@pytest.mark.usefixtures("workplace")
def test_a_disk_that_is_full_is_told_in_one_line(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "results/trace.parquet")

    monkeypatch.setattr("broker.ledger.Ledger.write_parquet", full)
    changes = [part for change in SMALL for part in ("--set", change)]

    code, _, error = atlas("run", "tiny", "--out", "results", *changes)

    assert code == 1
    assert error.splitlines()[-1] == "error: results/trace.parquet: No space left on device"
    assert read_run("results").summary is not None


@pytest.mark.parametrize("name", config.catalog())
def test_a_printed_config_is_complete_and_loads_as_the_config_it_is_of(
    atlas: Atlas, tmp_path: Path, name: str
) -> None:
    code, printed, _ = atlas("config", name, "--set", "training.rounds=7")
    file = tmp_path / "printed.yaml"
    file.write_text(printed)

    assert code == 0
    assert config.load(str(file)) == config.load(name, ["training.rounds=7"])
    for section in (config.Config, config.Training, config.Split):
        assert all(f"{key}:" in printed for key in section.model_fields)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("topology", topologies.catalog()),
        ("faults", faults.catalog()),
        ("tasks", tuple(tasks.registry())),
        ("devices", tuple(topologies.devices())),
    ],
)
def test_everything_bundled_can_be_listed_and_shown(
    atlas: Atlas, what: str, names: tuple[str, ...]
) -> None:
    code, listed, _ = atlas("show", what)

    assert code == 0
    assert names
    assert all(name in listed for name in names)
    for name in names:
        code, shown, _ = atlas("show", what, name)
        assert code == 0
        assert name in shown


def test_the_answers_and_domains_of_a_task_can_be_counted(atlas: Atlas) -> None:
    rows = tasks.registry()["stdlib-unicode"].read(None)
    code, shown, _ = atlas("show", "tasks", "stdlib-unicode", "--count")

    assert code == 0
    assert f"{len(rows):,}" in shown
    for kind in ("letter", "mark", "number", "symbol"):
        assert f"{kind} {sum(row.answer == kind for row in rows):,}" in shown


def test_a_scenario_is_shown_as_concrete_events_on_a_topology_of_ones_own(
    atlas: Atlas, tmp_path: Path
) -> None:
    network = tmp_path / "pair.yaml"
    network.write_text(
        "nodes: {north: {}, south: {}}\n"
        "links: [{between: [north, south], bandwidth: 1 Mbit/s, delay: 5 ms}]\n"
    )
    scenario = tmp_path / "storm.yaml"
    scenario.write_text("timeline: [{at: 3 s, crash: south, for: 4 s}]\n")

    code, shown, _ = atlas("show", "faults", str(scenario), "--topology", str(network))

    assert code == 0
    assert "3 s" in shown
    assert "crash south" in shown
    assert "7 s" in shown


def test_a_run_fills_its_folder_and_says_where_everything_is(atlas: Atlas, workplace: Path) -> None:
    changes = [part for change in SMALL for part in ("--set", change)]

    code, said, error = atlas("run", "tiny", "--seed", "3", "--out", "results", *changes)

    assert code == 0, error
    summary = json.loads((workplace / "results" / "summary.json").read_text())
    assert summary["finished"]
    assert summary["steps"] == summary["steps_expected"] == 8
    record = read_run("results")
    assert record.manifest.seed == 3
    for name in ("config.yaml", "metrics.jsonl", "trace.parquet", "summary.json", "report.html"):
        assert name in said
        assert (workplace / "results" / name).stat().st_size > 0


def test_explore_is_the_emulators_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explore", "--help"])

    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "atlas explore" in shown
    assert "FILE::TEST" in shown


def test_without_the_learning_system_everything_but_a_run_works() -> None:
    program = f"""
import sys
for name in {LEARNING}:
    sys.modules[name] = None
from atlas import cli
for line in ("config", "config tiny", "show topology edge-clusters", "show faults quickstart",
             "show tasks", "show devices"):
    try:
        cli.main(line.split())
    except SystemExit as ended:
        assert not ended.code, (line, ended.code)
cli.importlib.util.find_spec = lambda name: None
cli.main(["run", "tiny"])
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2, ended.stderr
    assert "pip install" in ended.stderr
    assert "[learn]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_command_line_does_not_import_torch_before_it_runs_something() -> None:
    program = (
        "import sys, atlas.cli, atlas.config, atlas.showing, atlas.tasks; "
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert ended.stdout.strip() == "[]"


def test_ctrl_c_ends_at_once_and_leaves_a_readable_folder_and_nothing_else(
    tmp_path: Path,
) -> None:
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "atlas.cli", "run", "tiny", "--processes", "2"]
    command += ["--set", "training.rounds=50", "--set", "held_out=8", "--out", str(out)]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for_a_step(process, out / "metrics.jsonl")
        assert list(temporary.rglob("*")), "the socket's folder is where TMPDIR says"
        os.killpg(process.pid, signal.SIGINT)
        started = time.monotonic()
        said, _ = process.communicate(timeout=30)
        seconds = time.monotonic() - started
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    assert process.returncode == 130, said
    assert seconds < 10
    assert "Traceback" not in said
    assert "interrupted" in said
    assert _left_after(2, process.pid) == {}
    assert [path for path in temporary.rglob("*") if not path.is_dir()] == []
    assert is_run(out)
    record = read_run(out)
    assert record.summary is not None
    assert not record.summary.finished
    assert 0 < record.summary.steps < record.summary.steps_expected


def _wait_for_a_step(process: subprocess.Popen[str], metrics: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and '"step"' in metrics.read_text(encoding="utf-8"):
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no step was done in two minutes: {process.communicate()[0]}")


def _left_after(seconds: float, group: int) -> dict[int, str]:
    """Processes of a group that are still there when they have had this long to go."""
    deadline = time.monotonic() + seconds
    while (left := _processes_of_group(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _processes_of_group(group: int) -> dict[int, str]:
    """Living processes of a process group and their command lines, as Linux tells them."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(owner) == group and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
