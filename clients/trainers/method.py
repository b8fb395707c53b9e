"""What all gradient trainers have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import torch

from clients.trainers.schedule import Schedule
from clients.trainers.terms import lr_asked
from fedcore.errors import ConfigError
from fedcore.strategy import Work

DEVICES = ("cpu", "cuda", "auto")


@dataclass(frozen=True, slots=True)
class Method:
    """What all gradient trainers have in common; see ``SGD`` for the meanings.

    Raises:
        ConfigError: a number is out of its range, or there is no such device.
    """

    lr: float
    weight_decay: float
    clip_norm: float
    schedule: Schedule
    device: str

    def __post_init__(self) -> None:
        if not (self.lr > 0.0 and isfinite(self.lr)):
            raise ConfigError(f"lr must be > 0 and finite: {self.lr}")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            if not (value >= 0.0 and isfinite(value)):
                raise ConfigError(f"{name} must be >= 0 and finite: {value}")
        if self.device not in DEVICES:
            raise ConfigError(f"device must be one of {DEVICES}: {self.device!r}")

    def rate(self, work: Work) -> float:
        """Return the step size for ``work``: what it asks for, or our own."""
        asked = lr_asked(work)
        return self.lr * self.schedule.factor(work.version) if asked is None else asked


def device_of(name: str) -> torch.device:
    """Return the device called ``name``; ``"auto"`` prefers a GPU.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "cpu":
        return torch.device("cpu")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError('device is "cuda" but torch sees no GPU: use "cpu" or "auto"')
    return torch.device("cuda" if found else "cpu")


def seed_draws(device: torch.device, seed: int) -> None:
    """Seed what layers on ``device`` draw from, for dropout and the like.

    ``torch.manual_seed`` seeds every kind of device there may be, and for each that is
    missing formats a stack trace: a tenth of the training of a small model.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def reproducible() -> Iterator[None]:
    """Use one thread inside the block, and put global draws back after it.

    Both belong to the process, so two threads must not train at the same time.
    """
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)  # a sum cut among threads rounds otherwise
    try:
        yield
    finally:
        torch.set_rng_state(drawn)
        torch.set_num_threads(threads)
