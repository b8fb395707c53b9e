"""The models of the cases as torch modules, for every engine that uses torch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sims.bench.case import INPUT, Case, Data, Weights, first_weights, read_data


def net(model: str) -> nn.Sequential:
    """Return the module; its weights are to be overwritten."""
    if model == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(800, 10),
        )
    if model == "none":
        return nn.Sequential(nn.Linear(1, 1, bias=False))
    inputs, hidden = (64, 32) if model == "tiny" else (784, 128)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )


def first(model: str) -> dict[str, Tensor]:
    """Return the weights every engine starts from."""
    return {n: torch.from_numpy(w.copy()) for n, w in first_weights(model).items()}


def plain(weights: Mapping[str, Tensor]) -> Weights:
    """Return ``weights`` as arrays."""
    return {n: w.detach().numpy().astype(np.float32) for n, w in weights.items()}


def shaped(case: Case) -> Data:
    """Return the data of ``case``, inputs in the shape its model takes."""
    if case.model == "none":
        x, y = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
        return Data(x, y, x, y)
    data, shape = read_data(case), INPUT[case.model]
    x, test_x = (a.reshape(len(a), *shape) for a in (data.x, data.test_x))
    return Data(x, data.y, test_x, data.test_y)
