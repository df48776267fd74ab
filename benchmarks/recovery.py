"""What it costs to be ready for the loss of a host, and what it saves when one is lost.

    python benchmarks/recovery.py [--scenario NAME]

Trains the tiny config with replay alone, with a snapshot every 1, 2 and 4 steps, with all
parameters at the client (as Petals has it), and with hedging, on a calm network, with hosts that
come and go, and with a host that becomes slow. Adapters have to be the same bytes in all of them.
Writes `benchmarks/results/recovery.json`: bytes, virtual time of the run, and from the moment a
host is given up to the one at which another has taken over; one run of each, for they have no
noise. What SmolLM2 would take is reckoned from shapes, by the formulas below.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import faults
from atlas import assets, config, experiment
from atlas.experiment import Prepared
from atlas.models import LoraSettings, ModelSpec, Range, costs
from broker import Note

RESULT = Path(__file__).with_name("results") / "recovery.json"
SETTINGS = (
    "faults=none",
    "training.rounds=1",
    "training.steps=8",
    "examples_per_client=24",
    "held_out=8",
)
MODES = {
    "replay": {},
    "snapshot every 4": {"snapshot_every": 4},
    "snapshot every 2": {"snapshot_every": 2},
    "snapshot every step": {"snapshot_every": 1},
    "at the client": {"keep": "client"},
    "replay, hedged": {"hedge": True},
}
SCENARIOS = {
    "calm": None,
    "hosts come and go": """
        name: churn
        processes:
          - churn: {nodes: role=host, mean_up: 3 s, mean_down: 1 s, until: 60 s}
        """,
    "a host becomes slow": """
        name: slow
        timeline: [{at: 1.5 s, slow: {nodes: host of client-0, compute: 1000x}, for: 20 s}]
        """,
}


def main() -> None:
    """Runs, compares, writes; one scenario alone takes its place among the results of before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    chosen = parser.parse_args().scenario or list(SCENARIOS)
    torch.set_num_threads(1)
    assets.forbid_hub()
    before = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    runs = {name: modes for name, modes in before.items() if name not in chosen}
    for scenario in chosen:
        runs[scenario] = {}
        for mode, changes in MODES.items():
            runs[scenario][mode] = figures = _measure(SCENARIOS[scenario], changes)
            print(scenario, mode, figures, flush=True)
    digests = {figures["adapters"] for modes in runs.values() for figures in modes.values()}
    result = {
        "settings": list(SETTINGS),
        "runs": {name: runs[name] for name in SCENARIOS if name in runs},
        "same_adapters": len(digests) == 1,
        "reckoned": _reckoned(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    if len(digests) > 1:
        sys.exit("recovery has changed an adapter")


def _measure(scenario: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    prepared = _prepared(scenario, changes)
    notes: list[Note] = []
    trained = experiment.train(prepared, observe=notes.append)
    digest = hashlib.sha256()
    for adapter in trained.adapters.values():
        for tensor in adapter.values():
            digest.update(tensor.numpy().tobytes())
    by_purpose = trained.run.ledger.bytes_by_purpose()
    seconds = _seconds_to_recover(notes)
    return {
        "virtual_seconds": round(trained.run.virtual_seconds, 2),
        "megabytes": round(sum(by_purpose.values()) / 1e6, 2),
        "megabytes_for_recovery": round(by_purpose.get("recovery", 0) / 1e6, 2),
        "repairs": len(seconds),
        "steps_replayed": sum(
            int(str(note.fields["replayed"])) for note in notes if note.event == "repaired"
        ),
        "median_seconds_to_recover": round(statistics.median(seconds), 3) if seconds else None,
        "hedges": sum(note.event == "hedged" for note in notes),
        "adapters": digest.hexdigest()[:16],
    }


def _prepared(scenario: str | None, changes: dict[str, Any]) -> Prepared:
    class Silent:
        def say(self, text: str) -> None: ...

    lines = [f"recovery.{key}={json.dumps(value)}" for key, value in changes.items()]
    prepared = experiment.prepare(config.load("tiny", [*SETTINGS, *lines]), Silent())  # type: ignore[arg-type]
    if scenario is None:
        return prepared
    return dataclasses.replace(prepared, scenario=faults.parse(scenario, "scenario"))


def _seconds_to_recover(notes: list[Note]) -> list[float]:
    """From the first host that a client gave up for a span to the one that has taken it on."""
    given_up: dict[tuple[object, object], float] = {}
    seconds = []
    for note in notes:
        fields = note.fields
        if note.event in ("suspected", "refused"):
            given_up.setdefault((fields["client"], fields["host"]), note.time_s)
        elif note.event == "repaired":
            seconds.append(note.time_s - given_up[fields["client"], fields["lost"]])
            given_up = {key: at for key, at in given_up.items() if key[0] != fields["client"]}
    return seconds


def _reckoned() -> dict[str, Any]:
    """Bytes of one client's round on SmolLM2-135M, by shapes.

    With a the bytes of the hosted layers' adapter, h those of a hidden state, n steps in a round
    and p the chance that a host is lost in a step, a round takes 4 n h, and beside that

        replay alone          p n (a + n h)              2h for each of n/2 steps, on average
        snapshot every k      3a (n - 1) // k + p n (3a + k h)
        at the client         2a n                       parameters out, gradients back
    """
    spec = ModelSpec.read(assets.model("smollm2-135m-instruct"), torch.bfloat16)
    lora, table = LoraSettings(), []
    adapter = costs.adapter_bytes(spec, lora, Range(2, spec.layers))
    for batch, tokens, steps in ((8, 32, 5), (8, 32, 50), (8, 512, 5), (8, 512, 50)):
        hidden = costs.hidden_bytes(spec, batch, tokens)
        for chance in (0.0, 0.01, 0.1):
            extra = {"replay": chance * steps * (adapter + steps * hidden)}
            for every in (1, 2, 4):
                kept = 3 * adapter * ((steps - 1) // every)
                lost = chance * steps * (3 * adapter + every * hidden)
                extra[f"snapshot every {every}"] = kept + lost
            extra["at the client"] = 2 * adapter * steps
            table.append(
                {
                    "batch": batch,
                    "tokens": tokens,
                    "steps": steps,
                    "chance_of_loss_per_step": chance,
                    "megabytes_of_training": round(4 * steps * hidden / 1e6, 1),
                    "megabytes_beside": {
                        key: round(value / 1e6, 1) for key, value in extra.items()
                    },
                }
            )
    return {"adapter_megabytes": round(adapter / 1e6, 2), "rounds": table}


if __name__ == "__main__":
    main()
