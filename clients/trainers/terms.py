"""What comes with the work and changes every step.

``work.hints["lr"]`` takes the place of the trainer's own step size,
``work.hints["mu"]`` pulls the weights towards where they started (FedProx, Li et al.
2020), and a tensor in ``work.aux`` with the name of a weight is added to its gradient
(SCAFFOLD's c - c_i, Karimireddy et al. 2020).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from clients.trainers.rules import Tensors
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.strategy import Work


@dataclass(frozen=True, slots=True)
class Terms:
    """What changes a gradient before the rule uses it, in this order.

    Attributes:
        mu: weight of FedProx's pull towards ``anchor``; 0 for none.
        anchor: the weights at the start; may be empty when ``mu`` is 0.
        clip_norm: largest L2 norm of a whole gradient; 0 for no limit.
        correction: SCAFFOLD's c - c_i for every weight; empty for none.
    """

    mu: float = 0.0
    anchor: Tensors = ()
    clip_norm: float = 0.0
    correction: Tensors = ()

    @property
    def none(self) -> bool:
        """Whether gradients stay as they are."""
        return not (self.mu or self.clip_norm or self.correction)

    def apply(self, weights: Tensors, grads: Tensors) -> None:
        """Change ``grads`` in place."""
        if self.mu:
            torch._foreach_add_(grads, weights, alpha=self.mu)
            torch._foreach_add_(grads, self.anchor, alpha=-self.mu)
        if self.clip_norm:
            clip(grads, self.clip_norm)
        if self.correction:
            torch._foreach_add_(grads, self.correction)


def clip(grads: Tensors, limit: float) -> None:
    """Scale ``grads`` in place so that their common L2 norm is at most ``limit``."""
    norms = torch.stack(torch._foreach_norm(grads))
    factor = limit / (torch.linalg.vector_norm(norms) + 1e-6)
    torch._foreach_mul_(grads, factor.clamp(max=1.0))


def terms_of(weights: Mapping[str, Tensor], work: Work, clip_norm: float) -> Terms:
    """Return what ``work`` and the trainer change in the gradients of ``weights``.

    Raises:
        ProtocolError: mu is negative or not finite, or a correction has a wrong shape.
    """
    mu = _asked(work, "mu") or 0.0
    if mu < 0.0:
        raise ProtocolError(f"hint mu must be >= 0: {mu}")
    anchor = [w.detach().clone() for w in weights.values()] if mu else []
    return Terms(mu, anchor, clip_norm, _correction(weights, work.aux))


def lr_asked(work: Work) -> float | None:
    """Return the step size that ``work`` asks for, or None if it asks for none.

    Raises:
        ProtocolError: it is not a finite number above 0.
    """
    lr = _asked(work, "lr")
    if lr is not None and lr <= 0.0:
        raise ProtocolError(f"hint lr must be > 0: {lr}")
    return lr


def _asked(work: Work, name: str) -> float | None:
    value = work.hints.get(name)
    if value is None:
        return None
    if isinstance(value, str) or not isfinite(value):
        raise ProtocolError(f"hint {name} must be a finite number: {value!r}")
    return float(value)


def _correction(weights: Mapping[str, Tensor], aux: Params) -> Tensors:
    if aux.keys().isdisjoint(weights):
        return ()
    parts = []
    for name, w in weights.items():
        part = aux[name].to(w) if name in aux else torch.zeros_like(w)
        if part.numel() != w.numel():
            raise ProtocolError(
                f"aux {name!r} has shape {tuple(part.shape)}, not {tuple(w.shape)}"
            )
        parts.append(part.reshape(w.shape))
    return parts
