"""Apple's pfl (tested: 0.6.0): ``SimulatedBackend`` and ``FederatedAveraging``."""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sims.bench.case import Case, Weights
from sims.bench.peers.nets import first, net, plain, shaped
from sims.bench.peers.wire import Engine, serve


class Net(nn.Module):
    """The case's model in the form pfl wants."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.net = net(case.model)
        self.net.load_state_dict(first(case.model))

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        """Return the mean loss of a batch."""
        return cross_entropy(self.net(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = False) -> dict[str, Any]:
        """Return nothing: evaluation is off in every engine."""
        return {}


class Stamps(TrainingProcessCallback):  # type: ignore[misc]
    """Notes the end of each round."""

    def __init__(self) -> None:
        self.at = [time.perf_counter()]

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note the time."""
        self.at.append(time.perf_counter())
        return False, Metrics()


class Pfl:
    """One case."""

    def __init__(self, case: Case) -> None:
        self.case, data = case, shaped(case)
        self.x, self.y = torch.from_numpy(data.x), torch.from_numpy(data.y)
        self.net = Net(case)
        central = torch.optim.SGD(self.net.parameters(), 1.0)
        self.model = PyTorchModel(self.net, torch.optim.SGD, central)
        self.draw = np.random.Generator(np.random.Philox(key=0))
        self.waiting: list[int] = []
        users = FederatedDataset(self.user, self.next_user)
        self.backend = SimulatedBackend(users, users)

    def next_user(self) -> int:
        """Return the next client: cohorts are drawn without replacement."""
        if not self.waiting:
            size = self.case.cohort
            drawn = self.draw.choice(self.case.clients, size, replace=False)
            self.waiting = [int(c) for c in drawn]
        return self.waiting.pop()

    def user(self, client: int) -> Dataset:
        """Return the client's rows in a new random order."""
        rows = self.case.rows_of(client, len(self.x))
        order = np.concatenate(
            [self.draw.permutation(rows) for _ in range(self.case.epochs)]
        )
        index = torch.from_numpy(order)
        return Dataset((self.x[index], self.y[index]), user_id=str(client))

    def rounds(self, count: int) -> list[float]:
        stamps = Stamps()
        local = NNTrainHyperParams(
            local_batch_size=self.case.batch,
            local_num_epochs=1,
            local_learning_rate=self.case.lr,
        )
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=count,
                evaluation_frequency=10**9,
                train_cohort_size=self.case.cohort,
                val_cohort_size=0,
            ),
            self.backend,
            self.model,
            local,
            callbacks=[stamps],
            send_metrics_to_platform=False,
        )
        return [b - a for a, b in pairwise(stamps.at)]

    def weights(self) -> Weights:
        return plain(dict(self.net.net.named_parameters()))


def make(case: Case) -> Engine:
    """Return pfl for ``case``."""
    return Pfl(case)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(make, "pfl", "torch")
