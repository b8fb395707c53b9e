"""A strategy of the user's own: the median of the clients, with half a step back."""

from collections.abc import Iterable

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class HalfMedian(Strategy):
    def __init__(self):
        self.arrays = []

    def configure_train(self, server_round, arrays, config, grid: Grid):
        self.arrays = arrays.to_numpy_ndarrays()
        while len(nodes := sorted(grid.get_node_ids())) < 4:
            pass
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        return [Message(content, node, MessageType.TRAIN) for node in nodes]

    def aggregate_train(self, server_round, replies: Iterable[Message]):
        good = [r.content for r in replies if not r.has_error()]
        trees = [c["arrays"].to_numpy_ndarrays() for c in good]
        middle = [np.median(np.stack(a), axis=0) for a in zip(*trees, strict=True)]
        mixed = [
            (0.5 * old + 0.5 * new).astype(np.float32)
            for old, new in zip(self.arrays, middle, strict=True)
        ]
        mean = sum(c["metrics"]["accuracy"] for c in good) / len(good)
        return ArrayRecord(mixed), MetricRecord({"accuracy": mean})

    def configure_evaluate(
        self, server_round, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ):
        return []

    def aggregate_evaluate(self, server_round, replies):
        return None

    def summary(self):
        return None
