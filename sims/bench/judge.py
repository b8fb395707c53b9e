"""One judge for all engines: the accuracy of the weights they hand in."""

from pathlib import Path

import numpy as np
import torch

from sims.bench.case import Case
from sims.bench.peers.nets import net, shaped


def accuracy(case: Case, path: Path) -> float:
    """Return the share of held-out rows that the weights at ``path`` get right."""
    with np.load(path) as weights:
        model = net(case.model)
        model.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    data = shaped(case)
    with torch.no_grad():
        guesses = model(torch.from_numpy(data.test_x)).argmax(1)
    return float((guesses.numpy() == data.test_y).mean())
