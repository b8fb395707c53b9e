"""Inputs without targets that all peers have, to compare what their models say."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.seeds import choose

if TYPE_CHECKING:
    from clients.tasks.dataset import Dataset


def public_inputs(data: "Dataset", count: int) -> Tensor:
    """Return the first ``count`` public inputs of ``data``, (count, ...).

    A data set that names none gives inputs of its training rows, the same draw
    everywhere, as if their owners had given them away; held-out rows stay unseen.

    Raises:
        ConfigError: there are not as many.
    """
    whole = data.train[0] if data.public is None else data.public
    if not 1 <= count <= len(whole):
        raise ConfigError(
            f"task {data.name!r} has {len(whole)} public inputs, not {count}: ask for "
            f"1 to {len(whole)}, or give its Dataset more in `public`"
        )
    if data.public is not None:
        return data.public[:count]
    rows = choose(len(whole), count, "public", data.name)
    return whole.index_select(0, torch.tensor(rows))
