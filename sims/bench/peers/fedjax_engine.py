"""Google's FedJAX (tested: 0.0.17 on jax 0.10): its own ``federated_averaging``.

XLA takes more than one core whatever it is told, so compare it with two workers.
"""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

if not hasattr(jax, "tree_map"):  # gone from jax since FedJAX was last released
    jax.tree_map = jax.tree_util.tree_map

import fedjax
import jax.numpy as jnp
from fedjax.algorithms.fed_avg import federated_averaging

from sims.bench.case import INPUT, Case, Weights, first_weights, read_data
from sims.bench.peers.wire import Engine, serve

Tree = Mapping[str, Any]


def scores(weights: Tree, x: Any) -> Any:
    """Return the class scores of a batch, for the model the weights belong to."""
    if "7.weight" not in weights:
        hidden = jax.nn.relu(x @ weights["1.weight"].T + weights["1.bias"])
        return hidden @ weights["3.weight"].T + weights["3.bias"]
    for layer in ("0", "3"):
        x = jax.lax.conv(x, weights[f"{layer}.weight"], (1, 1), "VALID")
        x = jax.nn.relu(x + weights[f"{layer}.bias"][:, None, None])
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"
        )
    flat = x.reshape(len(x), -1)
    return flat @ weights["7.weight"].T + weights["7.bias"]


def loss(weights: Tree, batch: Tree, rng: Any) -> Any:
    """Return the mean cross-entropy of a batch."""
    logs = jax.nn.log_softmax(scores(weights, batch["x"]))
    return -jnp.take_along_axis(logs, batch["y"][:, None], 1).mean()


class Jax:
    """One case."""

    def __init__(self, case: Case) -> None:
        self.case, data = case, read_data(case)
        self.x = data.x.reshape(len(data.x), *INPUT[case.model])
        self.y = data.y
        self.algorithm = federated_averaging(
            jax.grad(loss),
            fedjax.optimizers.sgd(case.lr),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(
                batch_size=case.batch, num_epochs=case.epochs
            ),
        )
        start = {n: jnp.asarray(w) for n, w in first_weights(case.model).items()}
        self.state = self.algorithm.init(start)
        self.draw = np.random.Generator(np.random.Philox(key=0))
        self.key = jax.random.PRNGKey(0)

    def client(self, client: int) -> tuple[bytes, Any, Any]:
        """Return the client's name, rows and key, as FedJAX wants them."""
        rows = self.case.rows_of(client, len(self.x))
        self.key, key = jax.random.split(self.key)
        examples = fedjax.ClientDataset({"x": self.x[rows], "y": self.y[rows]})
        return b"%d" % client, examples, key

    def round(self) -> float:
        """Train one round and return its seconds."""
        began = time.perf_counter()
        drawn = self.draw.choice(self.case.clients, self.case.cohort, replace=False)
        clients = [self.client(int(c)) for c in drawn]
        self.state, _ = self.algorithm.apply(self.state, clients)
        jax.block_until_ready(self.state.params)
        return time.perf_counter() - began

    def rounds(self, count: int) -> list[float]:
        return [self.round() for _ in range(count)]

    def weights(self) -> Weights:
        return {n: np.asarray(w) for n, w in self.state.params.items()}


def make(case: Case) -> Engine:
    """Return FedJAX for ``case``."""
    return Jax(case)


if __name__ == "__main__":
    serve(make, "fedjax", "jax")
