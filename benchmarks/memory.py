"""How much memory the parts of a model take, as predicted and as the kernel counts it.

    python benchmarks/memory.py              # measures, and writes results/memory.json
    python benchmarks/memory.py --table      # prints what was measured

Each case is a process of its own: it loads a part of SmolLM2-135M, trains two steps, and reads
from `/proc` by how much its resident memory at worst exceeded what it was after the imports (and a
first step of a tiny model, which makes the libraries' buffers). Predicted is what `atlas.models`
says beforehand and what hosts reserve. It is measured with the C library as it comes, and with
`MALLOC_MMAP_THRESHOLD_=131072`, with which it gives large blocks back at once.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
from ctypes import CDLL
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "memory.json"
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALLOCATORS = {"plain": {}, "large blocks mapped": {"MALLOC_MMAP_THRESHOLD_": "131072"}}
STEPS = 2


@dataclass(frozen=True)
class Case:
    """A part of the model, its LoRA, its dtype, a batch, and how many clients share it."""

    part: str
    dtype: str
    targets: str
    batch: int
    tokens: int
    clients: int = 1


CASES = (
    Case("host of 13 layers", "float32", "qv", 8, 40),
    Case("host of 13 layers", "float32", "qv", 8, 40, clients=4),
    Case("host of 13 layers", "float32", "all", 8, 64),
    Case("host of 13 layers", "bfloat16", "qv", 4, 32, clients=2),
    Case("host of 13 layers", "bfloat16", "all", 4, 32),
    Case("host of 28 layers", "float32", "qv", 8, 40, clients=2),
    Case("client", "float32", "qv", 8, 40),
    Case("client", "float32", "all", 8, 64),
    Case("client", "bfloat16", "qv", 4, 32),
    Case("whole", "float32", "qv", 8, 40),
    Case("whole", "float32", "all", 8, 64),
)


def take(case: Case) -> dict[str, int]:
    """Runs the case in this process: bytes predicted, and resident bytes at worst."""
    import torch

    from atlas import assets
    from atlas.models import LoraSettings, ModelSpec, Range, Session, Stage, costs, initial_adapter

    torch.set_num_threads(1)
    assets.forbid_hub()
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[case.dtype]
    lora = LoraSettings(targets=ALL if case.targets == "all" else ("q_proj", "v_proj"))
    generator = torch.Generator().manual_seed(0)

    def hidden(spec: ModelSpec) -> torch.Tensor:
        shape = (case.batch, case.tokens, spec.hidden)
        return torch.randn(shape, generator=generator).to(dtype)

    tiny = ModelSpec.read(assets.model("tiny-llama"), dtype)
    first = Session(
        Stage.load(tiny, Range(1, 2)), initial_adapter(tiny, LoraSettings(), 0), learning_rate=1.0
    )
    first.backward(first.forward(hidden(tiny)))
    first.commit()

    spec = ModelSpec.read(assets.model("smollm2-135m-instruct"), dtype)
    adapter = initial_adapter(spec, lora, 0)
    layers, ends = {
        "host of 13 layers": (Range(4, 17), False),
        "host of 28 layers": (Range(2, 30), False),
        "client": (Range(0, 2), True),
        "whole": (spec.whole, True),
    }[case.part]
    shape = (case.batch, case.tokens)
    if ends:
        predicted = costs.ends_bytes(spec, lora, layers, *shape)
    else:
        session_bytes = costs.span_session_bytes(spec, layers, lora, *shape)
        predicted = costs.span_base_bytes(spec, layers) + case.clients * session_bytes

    gc.collect()
    CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak from here on
    before = _status("VmRSS")
    stage = Stage.load(spec, layers, ends=ends, lora=lora)
    sessions = [Session(stage, adapter, learning_rate=1e-3) for _ in range(case.clients)]
    for _ in range(STEPS):
        tokens = torch.randint(0, spec.vocabulary, shape, generator=generator)
        if ends:
            for session in sessions:
                _, gradient = session.loss(session.embed(tokens), tokens)
                session.backward(gradient)
        else:  # all steps are in flight at once
            outputs = [session.forward(hidden(spec)) for session in sessions]
            for session, output in zip(sessions, outputs, strict=True):
                session.backward(output)
            del outputs, output
        for session in sessions:
            session.commit()
    return {"predicted_bytes": predicted, "measured_bytes": _status("VmHWM") - before}


def _status(key: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def measure(case: Case, allocator: str) -> dict[str, Any]:
    """Runs the case in a process of its own."""
    environment = os.environ | ALLOCATORS[allocator] | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=600
    )
    found = json.loads(done.stdout.splitlines()[-1])
    ratio = found["measured_bytes"] / found["predicted_bytes"]
    result = asdict(case) | {"allocator": allocator} | found | {"measured_over_predicted": ratio}
    print(_row(result), flush=True)
    return result


def _row(result: dict[str, Any]) -> str:
    shape = f"{result['batch']}x{result['tokens']}"
    return (
        f"| {result['part']} | {result['dtype']} | {result['targets']} | {shape} "
        f"| {result['clients']} | {result['allocator']} | {result['predicted_bytes'] / 2**20:.0f} "
        f"| {result['measured_bytes'] / 2**20:.0f} | {result['measured_over_predicted']:.2f} |"
    )


def main(arguments: list[str]) -> None:
    """Measures all cases, or prints what was measured."""
    if arguments[:1] == ["--case"]:
        print(json.dumps(take(Case(**json.loads(arguments[1])))))
        return
    print(
        "| part | dtype | LoRA | batch | clients | allocator | predicted MiB | measured MiB "
        "| ratio |\n|---|---|---|---|---|---|---|---|---|"
    )
    if "--table" in arguments:
        print("\n".join(map(_row, json.loads(RESULTS.read_text(encoding="utf-8"))["cases"])))
        return
    cases = [measure(case, allocator) for allocator in ALLOCATORS for case in CASES]
    machine = {"processor": platform.machine(), "libc": " ".join(platform.libc_ver())}
    text = json.dumps({"machine": machine, "cases": cases}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
