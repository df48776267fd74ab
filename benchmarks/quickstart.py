"""The main job, measured: what it learns, how long it takes, and whether it is the same again.

    python benchmarks/quickstart.py [--config quickstart] [--seed 1]

Runs `atlas run CONFIG --seed SEED` twice as a person would: in one process, and in two under
another PYTHONHASHSEED. Compares digests and adapters, loads each adapter with PEFT onto the model's
folder and scores it again, and writes all of it to `benchmarks/results/CONFIG.json`, and what the
first run printed to `CONFIG.txt` beside it. Wall times are of whole commands with everything
cached; they depend on the machine, which the file describes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
LAYOUTS = ((1, "0"), (2, "4242"))


def main() -> None:
    """Runs, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if Path(arguments.config).is_file():
        arguments.config = str(Path(arguments.config).resolve())
    stem = Path(arguments.config).stem
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        folders = [here / "runs" / f"{stem}-{number}" for number in range(1, len(LAYOUTS) + 1)]
        runs = [
            _run(here, arguments.config, arguments.seed, folder, processes, hash_seed)
            for folder, (processes, hash_seed) in zip(folders, LAYOUTS, strict=True)
        ]
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        printed = (here / f"{folders[0].name}.txt").read_text()
        first = json.loads((folders[0] / "summary.json").read_text())
        result = {
            "command": f"atlas run {arguments.config} --seed {arguments.seed}",
            "machine": json.loads((folders[0] / "manifest.json").read_text())["platform"],
            "runs": runs,
            "largest_process_gib": round(usage.ru_maxrss / 2**20, 1),
            "same_digest": len({run["digest"] for run in runs}) == 1,
            "same_adapters": len({run["adapters"] for run in runs}) == 1,
            "loss_by_peft": _scores_by_peft(folders[0]),
            "summary": first,
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    (RESULTS / f"{stem}.txt").write_text(printed)
    print(json.dumps({key: result[key] for key in ("runs", "same_digest", "same_adapters")}))
    if not (result["same_digest"] and result["same_adapters"]):
        sys.exit("the two runs differ")


def _run(
    here: Path, config: str, seed: int, folder: Path, processes: int, hash_seed: str
) -> dict[str, Any]:
    command = [sys.executable, "-m", "atlas.cli", "run", config, "--seed", str(seed)]
    command += ["--processes", str(processes), "--out", str(folder.relative_to(here))]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
    with (here / f"{folder.name}.txt").open("w") as printed:
        started = time.monotonic()
        subprocess.run(command, check=True, env=environment, cwd=here, stdout=printed)
        seconds = time.monotonic() - started
    summary = json.loads((folder / "summary.json").read_text())
    adapters = hashlib.sha256()
    for file in sorted((folder / "adapters").rglob("*.*")):
        adapters.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return {
        "processes": processes,
        "hash_seed": hash_seed,
        "seconds": round(seconds, 1),
        "digest": summary["digest"],
        "adapters": adapters.hexdigest(),
    }


def _scores_by_peft(folder: Path) -> dict[str, dict[str, float]]:
    """Held-out loss by neighborhood and task, with PEFT's own classes on the model's folder."""
    sys.path.insert(0, str(REPOSITORY))
    from atlas import assets

    assets.forbid_hub()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from atlas import config, tasks

    chosen = config.load(str(folder / "config.yaml"))
    base = assets.model(chosen.model)
    tokenizer = AutoTokenizer.from_pretrained(base)
    manifest = json.loads((folder / "manifest.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    losses: dict[str, dict[str, float]] = {}
    for name, members in summary["neighborhoods"]["members"].items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, folder / "adapters" / name)
        for task_name in sorted({manifest["truth"][member] for member in members}):
            limits = {"max_tokens": chosen.training.tokens}
            task = tasks.load(task_name, tokenizer=tokenizer, held_out=chosen.held_out, **limits)
            score = tasks.score(model, tokenizer, task.held_out, **limits)
            losses.setdefault(name, {})[task_name] = score.loss
    return losses


if __name__ == "__main__":
    main()
