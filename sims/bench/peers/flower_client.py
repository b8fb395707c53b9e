"""The client of Flower's simulation; Ray's actors import it by name."""

import json
from functools import cache

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from sims.bench.case import Case
from sims.bench.peers.torch_loops import Trainer

app = ClientApp()


@cache
def trainer(case: str) -> Trainer:
    """Return the tuned loop's trainer; every actor loads the data once."""
    torch.set_num_threads(1)
    return Trainer(Case(**json.loads(case)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the tuned loop does; the message says which case it is."""
    case = str(message.content.config_records["config"]["case"])
    if json.loads(case)["model"] == "none":
        return Message(RecordDict(), reply_to=message)
    arrays = message.content.array_records["arrays"].to_torch_state_dict()
    worker, client = trainer(case), int(context.node_config["partition-id"])
    names = [n for n, _ in worker.model.named_parameters()]
    start = [arrays[n] for n in names]
    total = [torch.zeros_like(w) for w in start]
    worker.sum(np.array([client]), start, total)
    figures = MetricRecord({"num-examples": worker.case.rows})
    new = ArrayRecord(dict(zip(names, total, strict=True)))
    content = RecordDict({"arrays": new, "metrics": figures})
    return Message(content, reply_to=message)
