"""Plain local SGD: the inner loop of FedAvg and its kin."""

from dataclasses import dataclass
from itertools import islice

import torch

from fedcore.params import sub
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, load, params_of, steps_of


@dataclass(frozen=True, slots=True)
class SGD:
    """Take the steps that the work asks for and return how far the model moved.

    Attributes:
        lr: step size, > 0.
    """

    lr: float = 0.1

    def __call__(self, task: Task, work: Work, peer: PeerId) -> Update:
        model = load(task.model(), work.params).train()
        weights = list(model.parameters())
        steps, total = steps_of(task, work), 0.0
        batches = task.batches(seed_of("batches", peer, work.version))
        for batch in islice(batches, steps):
            loss = task.loss(model, batch)
            grads = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, grads, alpha=-self.lr)
            total += loss.item()
        moved = sub(params_of(model), work.params)
        metrics = {"loss": total / steps, "steps": float(steps)}
        return Update(peer, work.version, moved, task.examples, metrics)
