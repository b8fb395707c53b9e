import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("histogram")
def histogram(message: Message, context: Context) -> Message:
    draw = np.random.default_rng(context.node_config["partition-id"])
    edges = message.content["edges"]["edges"]
    counts, _ = np.histogram(draw.normal(size=200), bins=edges)
    content = RecordDict({"counts": ArrayRecord([counts.astype(np.int64)])})
    return Message(content, reply_to=message)


@app.query()
def hello(message: Message, context: Context) -> Message:
    parts = context.node_config["num-partitions"]
    words = ConfigRecord({"hello": True, "parts": parts, "key": b"\x00\xff"})
    return Message(RecordDict({"words": words}), reply_to=message)
