"""What a training step of a split model costs in time, beside the plain step of the unsplit one.

    python benchmarks/learning.py              # measures (3 minutes), writes results/learning.json
    python benchmarks/learning.py --table      # prints what was measured
    python benchmarks/learning.py --preload /usr/lib/x86_64-linux-gnu/libjemalloc.so.2

Computation only, nothing crosses a network: SmolLM2 with LoRA on all seven projections and AdamW,
on one thread, the same batch for all. The ways to do a step take turns, so that whatever else the
machine does strikes all of them, and medians are compared, of a process's own seconds on the
processor:

    plain      PEFT and torch as one writes it: logits at every position
    labeled    the same with logits at the positions that have a label
    split      a client with two layers and both ends, and two hosts; exact
    fused      the same with LoRA as one function (`lora.fused`)
    fitted     the same in a process whose allocator keeps its memory, in large pages: glibc tuned,
               or what `--preload` names

Where the processor does not compute in bfloat16, only fp32 is measured.

Then how long a host takes to change from one client to another, and what it gains by running the
small batches of several clients as one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from atlas import assets
from atlas.experiment import computes_bfloat16
from atlas.models import LoraSettings, ModelSpec, Range, Session, Stage, initial_adapter
from atlas.models.grouping import Group
from atlas.models.skeleton import peft_config
from atlas.models.stage import NOTHING

RESULTS = Path(__file__).with_name("results") / "learning.json"
JEMALLOC = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"
TUNABLES = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_max=0", "trim_threshold=17179869184", "top_pad=67108864")
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LORA = LoraSettings(
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
)
FUSED = LORA.model_copy(update={"fused": True})
ROWS, LENGTH, LABELS = 4, 32, 4
CUTS = (2, 16, 30)
REPEATS = 20
GROUPED = 4
RATE = 2e-3
Step = Callable[[], tuple[float, dict[str, Tensor]]]


def batch(spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """Token ids, and targets at the last positions of each row, as where answers are short."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, spec.vocabulary, (ROWS, LENGTH), generator=generator)
    targets = torch.full_like(tokens, -100)
    targets[:, -LABELS - 1 : -1] = tokens[:, -LABELS:]
    return tokens, targets


def plain(spec: ModelSpec, lora: LoraSettings, *, everywhere: bool) -> Step:
    """A step of the unsplit model as PEFT and torch do it."""
    base = AutoModelForCausalLM.from_pretrained(spec.folder, dtype=spec.dtype)
    config = peft_config(lora, spec)
    config.inference_mode = False
    model = get_peft_model(base, config)
    named = {
        name.replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    with torch.no_grad():
        for name, tensor in initial_adapter(spec, lora, seed=0).items():
            named[name].copy_(tensor)
    optimizer = torch.optim.AdamW(named.values(), lr=RATE, weight_decay=0.0)
    tokens, targets = batch(spec)
    expected = targets.reshape(-1)
    labeled = expected >= 0

    def step() -> tuple[float, dict[str, Tensor]]:
        if everywhere:
            logits = model(input_ids=tokens, use_cache=False).logits
            loss = cross_entropy(logits.float().reshape(-1, spec.vocabulary), expected)
        else:
            hidden = base.model(input_ids=tokens, use_cache=False).last_hidden_state
            logits = base.lm_head(hidden.reshape(-1, spec.hidden)[labeled])
            loss = cross_entropy(logits.float(), expected[labeled])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        optimizer.step()
        return loss.item(), gradients

    return step


def split(spec: ModelSpec, lora: LoraSettings) -> Step:
    """A step of the same model, a client and its hosts, in one process."""
    state = initial_adapter(spec, lora, seed=0)
    stages = [Stage.load(spec, Range(0, CUTS[0]), ends=True, lora=lora)]
    stages += [Stage.load(spec, Range(*ends), lora=lora) for ends in pairwise(CUTS)]
    client, *hosts = [Session(stage, state, learning_rate=RATE) for stage in stages]
    tokens, targets = batch(spec)

    def step() -> tuple[float, dict[str, Tensor]]:
        hidden = client.embed(tokens)
        for host in hosts:
            hidden = host.forward(hidden)
        loss, gradient = client.loss(hidden, targets)
        for host in reversed(hosts):
            back = host.backward(gradient)
            assert back is not None
            gradient = back
        client.backward(gradient)
        gradients: dict[str, Tensor] = {}
        for session in (client, *hosts):
            gradients |= session.gradients()
            session.commit()
        return loss, gradients

    return step


def products(spec: ModelSpec) -> Step:
    """The matrix products of a step with the frozen weights, and nothing else of it."""
    generator = torch.Generator().manual_seed(0)
    tokens, labels = ROWS * LENGTH, ROWS * LABELS
    layers = [list(spec.projections.values()) for _ in range(spec.layers)]

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(spec.dtype)

    weights = [draw(width, received) for layer in layers for received, width in layer]
    head = draw(spec.vocabulary, spec.hidden)
    rows = {width: draw(tokens, width) for layer in layers for ends in layer for width in ends}
    last, back = draw(labels, spec.hidden), draw(labels, spec.vocabulary)

    def step() -> tuple[float, dict[str, Tensor]]:
        for weight in weights:
            torch.mm(rows[weight.shape[1]], weight.T)
        torch.mm(last, head.T)
        torch.mm(back, head)
        for weight in reversed(weights):
            torch.mm(rows[weight.shape[0]], weight)
        return 0.0, {}

    return step


class Elsewhere:
    """A step in a process of its own: this script with `--serve`, in another environment."""

    def __init__(self, dtype: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", dtype],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> tuple[float, float]:
        """The loss of one step, and the seconds that it took there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("step", file=self._process.stdin, flush=True)
        loss, seconds = self._process.stdout.readline().split()
        return float(loss), float(seconds)

    def end(self) -> None:
        self._process.communicate()


def serve(dtype: str) -> None:
    """Do a fused step for each line that comes in; print its loss and its seconds."""
    step = split(ModelSpec.read(prepared_folder(), DTYPES[dtype]), FUSED)
    for _ in sys.stdin:
        started = time.process_time()
        loss, _ = step()
        print(repr(loss), time.process_time() - started, flush=True)


def prepared_folder() -> Path:
    """The model, on one thread."""
    torch.set_num_threads(1)
    assets.forbid_hub()
    return assets.model("smollm2-135m-instruct")


def steps(dtype: str, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """All ways to do a step, in turns."""
    spec = ModelSpec.read(folder, DTYPES[dtype])
    fitted = Elsewhere(dtype, environment)
    ways: dict[str, Step] = {
        "plain": plain(spec, LORA, everywhere=True),
        "labeled": plain(spec, LORA, everywhere=False),
        "split": split(spec, LORA),
        "fused": split(spec, FUSED),
        "products": products(spec),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "fitted")}
    apart: dict[str, dict[str, float]] = {}
    equal = fitted_equal = True
    for repeat in range(REPEATS + 1):
        done = {}
        names = list(seconds)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            started = time.process_time()
            if name == "fitted":
                fitted_loss, took = fitted.step()
            else:
                done[name] = ways[name]()
                took = time.process_time() - started
            if repeat:
                seconds[name].append(took)
        equal = equal and _same(done["labeled"], done["split"])
        fitted_equal = fitted_equal and fitted_loss == done["fused"][0]
        if repeat == 1:  # B is zero in the first step, and A's gradients with it
            apart = {
                name: _apart(done["plain"][1], done[name][1]) for name in ways if name != "products"
            }
    fitted.end()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "tokens_per_second": {
            name: round(ROWS * LENGTH / median, 1) for name, median in medians.items()
        },
        "split_over_labeled": round(medians["labeled"] / medians["split"], 3),
        "split_over_plain": round(medians["plain"] / medians["split"], 3),
        "fused_over_plain": round(medians["plain"] / medians["fused"], 3),
        "fitted_over_plain": round(medians["plain"] / medians["fitted"], 3),
        "products_over_plain": round(medians["plain"] / medians["products"], 3),
        "split_equals_labeled_bit_for_bit": equal,
        "fitted_losses_equal_fused_bit_for_bit": fitted_equal,
        "gradients_against_plain": apart,
        "seconds": {name: [round(value, 4) for value in times] for name, times in seconds.items()},
    }


def switching(folder: Path) -> dict[str, float]:
    """How long a host takes to put one client's parameters in the place of another's."""
    spec = ModelSpec.read(folder)
    stage = Stage.load(spec, Range(4, 17), lora=LORA)
    state = initial_adapter(spec, LORA, seed=0)
    sessions = [Session(stage, state, learning_rate=RATE) for _ in range(2)]
    times = []
    for repeat in range(2000):
        session = sessions[repeat % 2]
        started = time.process_time()
        with stage._pool.lend() as modules, modules.given(session.parameters, None, NOTHING):
            pass
        times.append(time.process_time() - started)
    return {"layers": 13, "milliseconds": round(1e3 * statistics.median(times), 4)}


def grouping(dtype: str, folder: Path) -> dict[str, Any]:
    """Steps of several clients with one short row each: one after the other, and as one batch."""
    spec = ModelSpec.read(folder, DTYPES[dtype])
    stage = Stage.load(spec, Range(4, 17), lora=FUSED)
    state = initial_adapter(spec, FUSED, seed=0)
    generator = torch.Generator().manual_seed(0)
    shape = (1, LENGTH, spec.hidden)
    hidden = [torch.randn(shape, generator=generator).to(spec.dtype) for _ in range(GROUPED)]
    alone = [Session(stage, state, learning_rate=RATE) for _ in range(GROUPED)]
    together = [Session(stage, state, learning_rate=RATE) for _ in range(GROUPED)]
    group = Group(together)
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    equal = True
    for repeat in range(REPEATS // 2 + 1):
        started = time.process_time()
        outputs = [session.forward(given) for session, given in zip(alone, hidden, strict=True)]
        backs = [session.backward(given) for session, given in zip(alone, hidden, strict=True)]
        between = time.process_time()
        grouped = group.forward(hidden) + group.backward(hidden)
        ended = time.process_time()
        if repeat:
            seconds["alone"].append(between - started)
            seconds["together"].append(ended - between)
        for one, other in zip(outputs + backs, grouped, strict=True):
            equal = equal and one is not None and torch.equal(one, other)
        for single, member in zip(alone, together, strict=True):
            equal = equal and _same((0.0, single.gradients()), (0.0, member.gradients()))
            single.commit()
            member.commit()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "clients": GROUPED,
        "speedup": round(medians["alone"] / medians["together"], 2),
        "bits_equal_to_alone": equal,
    }


def _same(
    one: tuple[float, Mapping[str, Tensor]], other: tuple[float, Mapping[str, Tensor]]
) -> bool:
    return one[0] == other[0] and all(
        torch.equal(tensor, other[1][name]) for name, tensor in one[1].items()
    )


def _apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """How far gradients are from the plain step's: length of the difference, and the cosine."""
    left = torch.cat([one[name].reshape(-1).double() for name in one])
    right = torch.cat([other[name].reshape(-1).double() for name in one])
    return {
        "relative": float((left - right).norm() / left.norm()),
        "cosine": float(left @ right / (left.norm() * right.norm())),
    }


def measure(preload: Path | None) -> dict[str, Any]:
    """All figures."""
    folder = prepared_folder()
    dtypes = list(DTYPES) if computes_bfloat16() else ["float32"]
    environment = {"GLIBC_TUNABLES": TUNABLES}
    if preload is not None:
        environment = {"LD_PRELOAD": str(preload), "MALLOC_CONF": JEMALLOC}
    return {
        "machine": {
            "processor": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
        },
        "batch": {"rows": ROWS, "tokens": LENGTH, "labels": LABELS * ROWS},
        "lora": LORA.model_dump(),
        "cuts": CUTS,
        "repeats": REPEATS,
        "fitted": {name: value for name, value in environment.items() if name != "LD_PRELOAD"},
        "steps": {dtype: steps(dtype, folder, environment) for dtype in dtypes},
        "switching": switching(folder),
        "grouping": {dtype: grouping(dtype, folder) for dtype in dtypes},
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a page shows them."""
    lines = [
        "| tokens/s | plain | labeled | split | fused | products | fitted | split ÷ labeled "
        "| split ÷ plain | fitted ÷ plain | products ÷ plain | gradients off by: split, fused |",
        "|" + "---|" * 12,
    ]
    for dtype, figures in found["steps"].items():
        speed = " | ".join(f"{value:.0f}" for value in figures["tokens_per_second"].values())
        ratios = " | ".join(
            f"{figures[name]:.2f}"
            for name in (
                "split_over_labeled",
                "split_over_plain",
                "fitted_over_plain",
                "products_over_plain",
            )
        )
        apart = ", ".join(
            f"{figures['gradients_against_plain'][name]['relative']:.0e}"
            for name in ("split", "fused")
        )
        lines.append(f"| {dtype} | {speed} | {ratios} | {apart} |")
    lines += ["", "| on 13 layers | |", "|---|---|"]
    lines.append(f"| another client | {found['switching']['milliseconds']:.3f} ms |")
    for dtype, group in found["grouping"].items():
        bits = "the same bits" if group["bits_equal_to_alone"] else "other bits"
        what = f"{group['clients']} clients of {LENGTH} tokens as one batch, {dtype}"
        lines.append(f"| {what} | {group['speedup']:.2f} times as fast, {bits} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--table", action="store_true")
    arguments.add_argument("--preload", type=Path)
    arguments.add_argument("--serve", choices=DTYPES)
    chosen = arguments.parse_args()
    if chosen.serve:
        serve(chosen.serve)
        return
    if not chosen.table:
        found = measure(chosen.preload)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
