"""Structured directions that peers share by seed: the model as K integers.

``expand`` turns coefficients into weights, ``project`` a change of weights into
coefficients; both in one pass over the weights, exact in integers.
"""

from fedcore.pool.expand import direction, expand
from fedcore.pool.pool import Pool
from fedcore.pool.project import fold, project, unfold
from fedcore.pool.stream import key_of
from fedcore.pool.walk import Walk, walk

__all__ = [
    "Pool",
    "Walk",
    "direction",
    "expand",
    "fold",
    "key_of",
    "project",
    "unfold",
    "walk",
]
