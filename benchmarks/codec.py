"""What it saves to encode what crosses between stages, and what that costs.

    python benchmarks/codec.py                   # all of it: some ten minutes on one core
    python benchmarks/codec.py --parts training --most 1   # one more of the training runs
    python benchmarks/codec.py --table           # the result as Markdown

The model is SmolLM2-135M in fp32, cut as the quickstart cuts it: the client keeps two layers and
the head, so four tensors cross in a step. They go through `pack` and `unpack`, as in a run.

- bytes: of the quickstart's own steps, by the sizes of what its clients' batches would send.
- speed: of packing and of unpacking a hidden state of 8 x 64 tokens.
- gradients: of all LoRA parameters on the first step of each task, against those of fp32.
- training: the loss on held-out rows after 40 steps, by task and seed.

All goes into `benchmarks/results/codec.json`; a training run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

RESULT = REPOSITORY / "benchmarks" / "results" / "codec.json"
TASKS = ("news-topic", "maths-word-problems")
SEEDS = (0, 1)
STEPS = 40
BATCH = 4
CODECS = ("fp32", "bf16", "int8")
VARIANTS = {"int8, kept channels in bf16": "int8", "int8, none kept": "int8"}


class Cut:
    """The quickstart's model between a client and one host, and its tasks."""

    def __init__(self, seed: int) -> None:
        from atlas import assets, config, tasks
        from atlas.models import ModelSpec, Range, Stage

        assets.forbid_hub()
        self.config = config.load("quickstart")
        folder = assets.model(self.config.model)
        self.seed, self.lora, self.training = seed, self.config.lora, self.config.training
        self.spec = ModelSpec.read(folder)
        self.tokenizer = assets.tokenizer(folder)
        kept = self.config.split.client_layers
        self.ends = Stage.load(self.spec, Range(0, kept), ends=True, lora=self.lora)
        self.span = Stage.load(self.spec, Range(kept, self.spec.layers), lora=self.lora)
        self.tasks = {
            str(name): tasks.load(
                name,
                tokenizer=self.tokenizer,
                max_tokens=self.training.tokens,
                held_out=self.config.held_out,
            )
            for name in self.config.tasks
        }

    def deal(self, clients: tuple[str, ...]) -> dict[str, Any]:
        """The tasks' rows, dealt to so many clients as the quickstart deals them."""
        from atlas import tasks

        rows = self.config.examples_per_client
        chosen = list(self.tasks.values())
        return tasks.deal(chosen, clients, examples_per_client=rows, seed=self.seed)

    def batch(self, client: str, data: Any, size: int, round_: int, step: int, steps: int) -> Any:
        """The batch of one step, as a client of the run makes it."""
        from atlas import tasks

        return tasks.step_batch(
            data,
            tokenizer=self.tokenizer,
            size=size,
            max_tokens=self.training.tokens,
            seed=self.seed,
            client=client,
            round=round_,
            step=step,
            steps_per_round=steps,
        )

    def sessions(self) -> tuple[Any, Any]:
        """The client's and the host's, from the adapter that all start from."""
        from atlas.models import Session, initial_adapter

        start = initial_adapter(self.spec, self.lora, self.seed)
        rate = {"learning_rate": self.training.learning_rate}
        return Session(self.ends, start, **rate), Session(self.span, start, **rate)


def forward_and_back(sessions: tuple[Any, Any], batch: Any, cross: Callable[..., Any]) -> float:
    """One step up to its commit; `cross` is what becomes of a tensor on its way. The loss."""
    from atlas.models.tensors import touched

    client, host = sessions
    hidden = cross(client.embed(batch.tokens), batch.needed)
    hidden = cross(host.forward(hidden), batch.needed)
    loss, gradient = client.loss(hidden, batch.targets)
    gradient = host.backward(cross(gradient, touched(gradient)))
    client.backward(cross(gradient, touched(gradient)))
    return float(loss)


def crossing(codec: str, variant: str = "") -> Callable[..., Any]:
    """A way that a tensor takes in this codec, or in a variant of it that no run offers."""
    import torch

    from atlas.models import codec as codecs
    from atlas.models.tensors import pack, unpack

    def cross(tensor: Any, rows: Any) -> Any:
        kept, codecs.KEPT = codecs.KEPT, 0 if variant.endswith("none kept") else codecs.KEPT
        try:
            arrived = unpack(*pack({"x": tensor}, codec, rows))["x"].clone()
        finally:
            codecs.KEPT = kept
        if variant.endswith("kept channels in bf16"):
            largest = tensor[rows].abs().amax(0).argsort(descending=True, stable=True)[:kept]
            arrived[..., largest] = arrived[..., largest].to(torch.bfloat16).float()
        return arrived

    return cross


def measure_bytes() -> dict[str, Any]:
    """Bytes of a step of the quickstart by codec, whole and with padding left out."""
    from atlas.models.codec import encoded_bytes

    cut = Cut(seed=1)
    training, width = cut.training, cut.spec.hidden
    clients = tuple(f"client-{number}" for number in range(12))
    batches = [
        cut.batch(client, data, training.batch, round_, step, training.steps)
        for client, data in cut.deal(clients).items()
        for round_ in range(training.rounds)
        for step in range(training.steps)
    ]
    positions = sum(batch.tokens.numel() for batch in batches) / len(batches)
    needed = sum(int(batch.needed.sum()) for batch in batches) / len(batches)
    labels = sum(int((batch.targets >= 0).sum()) for batch in batches) / len(batches)
    by_codec = {}
    for codec in CODECS:
        token = (encoded_bytes(codec, 1000, width, 4) - encoded_bytes(codec, 0, width, 4)) / 1000
        whole, packed = 4 * positions * token, (3 * needed + labels) * token
        by_codec[codec] = {"whole": round(whole), "packed": round(packed)}
    return {
        "positions": round(positions, 1),
        "needed": round(needed, 1),
        "labels": round(labels, 1),
        "saved_by_packing": round(1 - (3 * needed + labels) / (4 * positions), 4),
        "bytes_a_step": by_codec,
    }


def measure_speed() -> dict[str, Any]:
    """Milliseconds of packing and of unpacking, medians of 200."""
    import torch

    from atlas.models.tensors import pack, unpack

    hidden = torch.randn(8, 64, 576, generator=torch.Generator().manual_seed(0))
    hidden[..., 3] *= 300
    rows = torch.arange(64)[None] < torch.arange(36, 68, 4)[:, None]

    def median_ms(work: Callable[[], object]) -> float:
        times = []
        for _ in range(200):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return round(1e3 * statistics.median(times), 3)

    found: dict[str, Any] = {}
    for codec in CODECS:
        for name, marked in (("whole", None), ("packed", rows)):
            packed = pack({"x": hidden}, codec, marked)
            found.setdefault(codec, {})[name] = {
                "encode_ms": median_ms(lambda: pack({"x": hidden}, codec, marked)),  # noqa: B023
                "decode_ms": median_ms(lambda: unpack(*packed)),  # noqa: B023
            }
    return found


def measure_gradients() -> dict[str, Any]:
    """Cosine and relative error of all LoRA gradients on the first step of each task."""
    import torch

    cut = Cut(seed=0)
    dealt = cut.deal(tuple(f"client-{number}" for number in range(len(cut.tasks))))
    ways = {codec: crossing(codec) for codec in CODECS}
    ways |= {name: crossing(codec, name) for name, codec in VARIANTS.items()}
    found: dict[str, Any] = {name: {} for name in ways}
    for client, data in dealt.items():
        batch = cut.batch(client, data, cut.training.batch, 0, 0, cut.training.steps)
        exact: Any = None
        for name, cross in {"unpacked": lambda tensor, _: tensor, **ways}.items():
            sessions = cut.sessions()
            loss = forward_and_back(sessions, batch, cross)
            gradients = {**sessions[0].gradients(), **sessions[1].gradients()}
            flat = torch.cat([value.reshape(-1) for value in gradients.values()]).double()
            if exact is None:
                exact, exact_loss = flat, loss
                continue
            found[name][data.task] = {
                "cosine": float(flat @ exact / (flat.norm() * exact.norm())),
                "relative_error": float((flat - exact).norm() / exact.norm()),
                "equal": bool(torch.equal(flat, exact)) and loss == exact_loss,
            }
    return found


def train(cut: Cut, codec: str, task: str) -> dict[str, Any]:
    """Training on one task with what crosses encoded, and its score on held-out rows."""
    from atlas import tasks
    from atlas.models import whole_model

    dealt = cut.deal(tuple(f"client-{number}" for number in range(len(cut.tasks))))
    name, data = next((name, data) for name, data in dealt.items() if data.task == task)
    client, host = sessions = cut.sessions()
    cross = crossing(codec)
    losses = []
    for step in range(STEPS):
        batch = cut.batch(name, data, BATCH, 0, step, STEPS)
        losses.append(forward_and_back(sessions, batch, cross))
        client.commit()
        host.commit()
    score = tasks.score(
        whole_model(cut.spec, cut.lora, {**client.adapter(), **host.adapter()}),
        cut.tokenizer,
        cut.tasks[task].held_out,
        max_tokens=cut.training.tokens,
        batch_size=16,
    )
    return {
        "loss": score.loss,
        "accuracy": score.accuracy,
        "rows": score.rows,
        "last_training_losses": losses[-5:],
    }


def measure_training(result: dict[str, Any], most: int | None) -> None:
    """The runs that are not there yet, or `most` of them; each is written when it is done."""
    done = result.setdefault("training", {})
    for seed in SEEDS:
        cut = None
        for task in TASKS:
            for codec in CODECS:
                name = f"{task}/{seed}/{codec}"
                if name in done or most == 0:
                    continue
                cut = cut or Cut(seed)
                started = time.perf_counter()
                done[name] = train(cut, codec, task)
                seconds = time.perf_counter() - started
                print(f"{name}: {done[name]['loss']:.4f}, {seconds:.0f} s", flush=True)
                write(result)
                most = None if most is None else most - 1


def table(result: dict[str, Any]) -> str:
    """The result as Markdown; what was not measured yet is a dash."""
    lines = [
        "| codec | bytes a step | without padding | pack + unpack | gradient: cosine, error | "
        + "".join(f"{task}, held-out loss | " for task in TASKS),
        "|---" * (5 + len(TASKS)) + "|",
    ]
    sizes, whole = result["bytes"]["bytes_a_step"], result["bytes"]["bytes_a_step"]["fp32"]["whole"]
    for codec in CODECS:
        speed = result["speed"][codec]["packed"]
        cells = [f"{size:,} ({size / whole:.0%})" for size in sizes[codec].values()]
        cells.append(f"{speed['encode_ms'] + speed['decode_ms']:.2f} ms")
        cells.append(_errors(result["gradients"][codec]))
        for task in TASKS:
            runs = [result.get("training", {}).get(f"{task}/{seed}/{codec}") for seed in SEEDS]
            cells.append(", ".join(f"{run['loss']:.3f}" if run else "-" for run in runs))
        lines.append(f"| `{codec}` | {' | '.join(cells)} |")
    unmeasured = " - |" * len(TASKS)
    lines += [
        f"| {variant} | - | - | - | {_errors(result['gradients'][variant])} |{unmeasured}"
        for variant in VARIANTS
    ]
    return "\n".join(line.rstrip() for line in lines)


def _errors(by_task: dict[str, dict[str, Any]]) -> str:
    """The worst of the tasks."""
    if all(error["equal"] for error in by_task.values()):
        return "equal"
    cosine = min(error["cosine"] for error in by_task.values())
    return f"{cosine:.5f}, {max(error['relative_error'] for error in by_task.values()):.3f}"


def write(result: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Measures what is asked for, keeps the rest, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("bytes", "speed", "gradients", "training")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--most", type=int, help="so many training runs, not all that are missing")
    parser.add_argument("--table", action="store_true", help="print the result, measure nothing")
    arguments = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if arguments.table:
        print(table(result))
        return
    import torch

    torch.set_num_threads(1)
    result["machine"] = {"system": platform.platform(), "torch": torch.__version__}
    result["settings"] = {"steps": STEPS, "batch": BATCH, "seeds": SEEDS, "tasks": TASKS}
    measures = {"bytes": measure_bytes, "speed": measure_speed, "gradients": measure_gradients}
    for part in arguments.parts:
        if part in measures:
            result[part] = measures[part]()
            write(result)
        else:
            measure_training(result, arguments.most)


if __name__ == "__main__":
    main()
