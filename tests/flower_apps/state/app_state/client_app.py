from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from app_state.task import fit

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    weights = message.content["arrays"].to_numpy_ndarrays()
    weights, examples, accuracy = fit(weights, partition)

    # every node keeps a moving mean of its own models, and counts its calls
    own = context.state
    calls = own["notes"]["calls"] if "notes" in own else 0
    if calls:
        kept = own["kept"].to_numpy_ndarrays()
        weights = [0.5 * k + 0.5 * w for k, w in zip(kept, weights, strict=True)]
    own["notes"] = ConfigRecord({"calls": calls + 1})
    own["kept"] = ArrayRecord(weights)
    examples = examples * (calls + 1)
    metrics = MetricRecord({"accuracy": accuracy, "num-examples": examples})
    content = RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics})
    return Message(content, reply_to=message)
