"""What a site does in a round: trains on its own images, and sends the weights back."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits import model

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round's training."""
    site, sites = int(context.node_config["site"]), int(context.run_config["sites"])
    pixels, digits = model.images(site, sites)
    weights = message.content["arrays"].to_numpy_ndarrays()
    trained = model.train(weights, pixels, digits, int(context.run_config["epochs"]))
    metrics = MetricRecord({"num-examples": len(digits)})
    content = RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics})
    return Message(content=content, reply_to=message)
