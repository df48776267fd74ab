"""How well neighborhoods are found on real text, beside controls.

    python benchmarks/clustering.py --gather easy hard     # gradients of these pools, kept
    python benchmarks/clustering.py                        # all studies, from what is kept

Gradients are those of SmolLM2-135M in fp32, of each example by itself (about 25 minutes of one core
for all pools); they are kept under ATLAS_HOME and no text with them. The studies take a minute.
`benchmarks/results/clustering.json` has every figure.
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402

from atlas import assets  # noqa: E402
from atlas.models import Stage  # noqa: E402
from benchmarks.clustering import gradients, text, warming  # noqa: E402

MODEL = "smollm2-135m-instruct"
RESULT = REPOSITORY / "benchmarks" / "results" / "clustering.json"


def main() -> None:
    """Gathers what is asked for, or studies what is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gather", nargs="+", default=[], metavar="DEAL")
    arguments = parser.parse_args()
    arguments.gather += ["drift"] * ("labels" in arguments.gather)  # TEMPORARY
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


if __name__ == "__main__":
    main()
