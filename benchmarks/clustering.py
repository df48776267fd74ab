"""How well neighborhoods are found on real text, beside controls.

    python benchmarks/clustering.py --gather easy hard     # gradients of these pools, kept
    python benchmarks/clustering.py                        # all studies, from what is kept

Gradients are those of SmolLM2-135M in fp32, of each example by itself (about 25 minutes of one core
for all pools); they are kept under ATLAS_HOME and no text with them. The studies take a minute.
`benchmarks/results/clustering.json` has every figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from atlas import assets  # noqa: E402
from atlas.models import Stage  # noqa: E402
from benchmarks.clustering import gradients, ranks, studies, text, warming  # noqa: E402

MODEL = "smollm2-135m-instruct"
RESULT = REPOSITORY / "benchmarks" / "results" / "clustering.json"


def main() -> None:
    """Gathers what is asked for, or studies what is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gather", nargs="+", default=[], metavar="DEAL")
    parser.add_argument("--only", nargs="+", default=[], metavar="STUDY", help="by name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = assets.home() / "benchmarks" / "clustering"
    probe = lru_cache(maxsize=1)(lambda: gradients.Probe(MODEL))
    tokenizer = assets.tokenizer(assets.model(MODEL))
    for name, examples in text.pools(tokenizer).items():
        if name.split("-", 1)[0] in arguments.gather:
            gradients.pool(folder / f"{name}.npz", probe, examples)
    if "warm" in arguments.gather or "drift" in arguments.gather:
        stage = Stage.load(probe().spec, probe().spec.whole, ends=True, lora=gradients.LORA)
        for name, examples in text.pools(tokenizer).items():
            if "warm" in arguments.gather and name.startswith("hard"):
                warming.units(folder / f"warm-{name}.npy", probe(), stage, examples())
        for number in range(len(warming.COURSES) if "drift" in arguments.gather else 0):
            warming.course(folder, probe(), stage, number)
    if not arguments.gather:
        study(folder, arguments.only)


def study(folder: Path, only: Sequence[str]) -> None:
    """Every study of which the pools are there; each is kept in the result when it is done."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    result |= {"model": MODEL, "dtype": "float32", "machine": platform.machine()}

    def pools(names: Sequence[str]) -> list[gradients.Pool] | None:
        found = [studies.load(folder, name) for name in names]
        whole = [pool for pool in found if pool is not None]
        return whole if len(whole) == len(names) else None

    def keep(what: str, make: Callable[[], Any]) -> None:
        if not only or what.split(",", maxsplit=1)[0] in only or what in only:
            result[what] = make()
            RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(what, json.dumps(result[what]), flush=True)

    for name, kinds in studies.DEALS.items():
        dealt = pools(kinds)
        if dealt is None:
            print(f"{name}: not gathered")
            continue
        keep(name, partial(studies.controls, dealt))
        if name in {"easy", "hard"}:
            keep(f"settings, {name}", partial(studies.settings, dealt))
            keep(f"drift, {name}", partial(studies.drift, dealt))
        if name == "labels":
            keep("labels, twice the text", partial(studies.controls, dealt, each=2, batch=16))
        files = [folder / f"warm-{kind}.npy" for kind in kinds]
        if all(file.is_file() for file in files):
            weights = [np.load(file) for file in files]
            keep(f"FedLEASE, {name}", partial(studies.fedlease, weights))
    easy = pools(studies.DEALS["easy"])
    if easy is not None:
        chosen = {name: easy[text.EASY.index(name)] for name in text.ONE_TASK}
        keep("false splits in 100 deals of one task", partial(studies.false_splits, chosen))
        keep("joining", partial(studies.joining, easy))
        keep("privacy, easy", partial(studies.privacy, easy))
    courses = [f"drift-{name}-{warming.STOPS[-1]}" for name in warming.COURSES]
    trained = pools(courses)
    if trained is not None:
        pooled = dict(zip(courses, trained, strict=True))
        keep("drift by training's gradients", partial(ranks.training, pooled))


if __name__ == "__main__":
    main()
