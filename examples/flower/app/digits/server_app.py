"""Federated averaging over the sites, and how well the average reads images that nobody has."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits import model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The whole run; writes what each round gave to the file that `result` names."""
    pixels, digits = model.images(None, 1)
    rounds: list[dict[str, float]] = []
    begun = time.monotonic()

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        right = model.accuracy(arrays.to_numpy_ndarrays(), pixels, digits)
        rounds.append({"round": number, "at_s": time.monotonic() - begun, "accuracy": right})
        return MetricRecord({"accuracy": right})

    sites = int(context.run_config["sites"])
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites
    )  # every site in every round
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.start()),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=evaluate,
    )
    if context.run_config["result"]:
        Path(str(context.run_config["result"])).write_text(json.dumps(rounds), encoding="utf-8")
