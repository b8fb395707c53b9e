"""Ordinary training, told along shared directions: what gradients add to a model.

A model of few integers (``strategies.seeded``) may be added to by whoever knows the
directions, however the additions were found: by probes (the duty ``zeroth``), or, for
who has the memory for gradients, by training as ever and telling what the change of
the weights is along each direction. One run takes both.

Notation: Δ the change, d its numbers, K directions z_k of ±1, c_k = <z_k, Δ>:

    amount_k * scale = c_k / max(sqrt(K d), K)

Where K < d directions hold but a part of Δ, about K / d of its square; what is added is
then about as long as Δ was (as "length" of ``strategies.ferret_blocks``), so that one
step size serves pools and models of all sizes. Where K >= d it is about Δ itself.

Source: the projection of local changes on shared random directions as in Shu et al.,
"Ferret: Federated Full-Parameter Tuning at Scale for Large Language Models", ICML 2025,
https://arxiv.org/abs/2409.06277; that a model learns in a fixed small subspace as in
Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", ICLR 2018,
https://arxiv.org/abs/1804.08838. Departures: Hadamard directions in place of normal
ones, integers, and one pool for the whole run, so that additions need no order.
"""

import math

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.pool import Pool, project

LARGEST = 2.0**62  # amounts are int64, and sums of them must be


def along(pool: Pool, change: Params, scale: float, share: float = 1.0) -> Tensor:
    """Return what to add to the coefficients of ``pool``, int64 (K,), unit 2^-32.

    Args:
        pool: the directions.
        change: how far each weight moved; all tensors that directions move.
        scale: real size of a coefficient of 1, not 0.
        share: of the change, in (0, 1]; 1 / n where n peers add at the same time.

    Raises:
        ConfigError: an amount would leave int64: ``scale`` is too small.
        ProtocolError: the change is not finite.
    """
    numel = sum(t.numel() for t in change.values())
    whole = max(math.sqrt(pool.size * numel), pool.size)
    amounts = project(pool, change).double() * (share / (whole * scale))
    if not bool((amounts.abs() < LARGEST).all()):
        raise ConfigError(f"a step of {scale:g} is too small for what was learnt")
    return amounts.round().to(torch.int64)
