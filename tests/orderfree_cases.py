"""A small order-free model, and peers that add to it."""

import torch

from fedcore.orderfree import Model, Origin, apply, begin, fact_of
from fedcore.params import digest
from fedcore.pool import Pool

POOL = Pool(size=8, seed=3)
BASE = {"b": torch.arange(6.0).reshape(2, 3) / 7, "a": torch.ones(5) / 3}
ORIGIN = Origin(POOL, digest(BASE), -0.5)
PEERS = ("anna", "ben", "cleo")


def line(*numbers):
    """Return coefficients that begin with ``numbers``, in units of 2^-32."""
    whole = torch.zeros(POOL.size, dtype=torch.int64)
    whole[: len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    return whole


def told(model: Model, peer, *lines):
    """Return the facts by which ``peer`` adds ``lines``, and the model with them."""
    facts = []
    for amounts in lines:
        facts.append(fact_of(model, peer, amounts))
        model = apply(model, facts[-1])
    return facts, model


def grown(**lines):
    """Return the model to which each peer added its lines."""
    model = begin(ORIGIN)
    for peer, added in lines.items():
        _, model = told(model, peer, *added)
    return model
