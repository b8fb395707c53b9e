"""A task inside another, which changes a part of it and leaves the rest as it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedcore.task import Batch, Task


@dataclass(frozen=True, slots=True)
class Around:
    """The same as ``task`` in all that a subclass does not say otherwise."""

    task: Task

    @property
    def examples(self) -> int:
        return self.task.examples

    @property
    def epoch_steps(self) -> int:
        return self.task.epoch_steps

    def model(self) -> nn.Module:
        return self.task.model()

    def batches(self, seed: int) -> Iterator[Batch]:
        return self.task.batches(seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return self.task.evaluate(model)
