"""Whether the run in a folder is what the README promises of the main job: `check_run.py FOLDER`.

Reads `summary.json` as any other program would. Every promise that is broken is named, and the exit
code is 1 then. Of the real model more is promised than of the tiny random one: that it learns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILES = (
    "config.yaml",
    "manifest.json",
    "metrics.jsonl",
    "faults.yaml",
    "trace.parquet",
    "summary.json",
    "report.html",
)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def broken_promises(folder: Path) -> list[str]:
    """What the run should be and is not. Raises OSError where its summary can't be read."""
    run = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    adapters = sorted((folder / "adapters").glob("*"))
    promises = {
        "the run finished": run["finished"],
        "there were four tasks or more": len(run["tasks"]) >= 4,
        "hosts died": run["deaths"] > 0,
        "chains were repaired": run["repairings"] > 0,
        "a client fell back to another neighborhood": run["fallbacks"] > 0,
        "all steps were done": run["steps"] == run["steps_expected"] > 0,
        "no step was lost": run["steps_lost"] == 0,
        "no step was applied twice": run["steps_twice"] == 0,
        "no device could hold a whole step": run["largest_grant_bytes"] < run["whole_step_bytes"],
        "each neighborhood has an adapter": len(adapters) == run["neighborhoods"]["count"] > 0,
    }
    is_real = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["name"] != "tiny"
    for name, task in run["tasks"].items():
        share = 0.5 if is_real else 1.0
        promises[f"{name}: the loss fell enough"] = task["loss_after"] < share * task["loss_before"]
        if is_real:
            promises[f"{name}: 100 rows were scored"] = task["examples"] >= 100
            promises[f"{name}: the loss over the choices fell"] = (
                task["choice_loss_before"] is None
                or task["choice_loss_after"] < task["choice_loss_before"]
            )
    for name in FILES:
        promises[f"{name} was written"] = (folder / name).is_file()
    for adapter in adapters:
        for name in ADAPTER:
            promises[f"{adapter.name}/{name} was written"] = (adapter / name).is_file()
    return [promise for promise, kept in promises.items() if not kept]


if __name__ == "__main__":
    broken = broken_promises(Path(sys.argv[1]))
    for promise in broken:
        print(f"not so: {promise}", file=sys.stderr)
    sys.exit(1 if broken else 0)
