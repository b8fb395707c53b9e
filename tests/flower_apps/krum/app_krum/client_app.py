from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from app_krum.task import fit

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    weights = message.content["arrays"].to_numpy_ndarrays()
    weights, examples, accuracy = fit(weights, partition)
    if partition == 1:
        weights = [1e3 + a for a in weights]  # this one lies
    metrics = MetricRecord({"accuracy": accuracy, "num-examples": examples})
    content = RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics})
    return Message(content, reply_to=message)
