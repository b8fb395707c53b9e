"""Which tensors of a model are running statistics, and not weights.

Batch normalisation keeps a running mean and variance. They travel with the model
and are averaged like everything else, but no gradient moves them: an adaptive
step could make a variance negative, and a distance between them says nothing
about learning. Algorithms that do more than average leave them out.
"""

from fedcore.params import Params

RUNNING = frozenset({"running_mean", "running_var"})  # torch's names in every norm


def weights_of(tree: Params) -> Params:
    """Return ``tree`` without running statistics."""
    return {k: t for k, t in tree.items() if k.rpartition(".")[2] not in RUNNING}
