"""Held-out rows for each peer alone: what its own future examples look like."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clients.tasks.dataset import Dataset, Rows, Shard
from fedcore.errors import ConfigError
from fedcore.seeds import choose
from fedcore.strategy import PeerId
from sims.data.deal import classes_of
from sims.data.federate import owners_test_rows

MOST = 200  # held-out rows of one peer; more tell little


def own_tests(
    dataset: Dataset, shards: Mapping[PeerId, Shard], seed: int, most: int = MOST
) -> dict[PeerId, Shard]:
    """Return ``shards`` evaluated on held-out rows that are like their training rows.

    Those of the same owner if rows have owners; else rows drawn so that the shares of
    the classes are those of the peer, as far as there are enough; all held-out rows if
    rows have neither owners nor classes. A peer with no such row is left out, and so
    are all where rows without classes are held out of other owners than the peers.

    Args:
        dataset: of the shards.
        shards: by peer.
        seed: of the draw.
        most: about as many rows for one peer, >= 1.
    """
    owned = owners_test_rows(dataset, [s.rows for s in shards.values()])
    rows = owned or _alike(dataset, shards, seed, most)
    if rows is None:
        return {} if _of_strangers(dataset) else dict(shards)
    named = zip(shards.items(), rows, strict=True)
    return {p: replace(s, held_out=mine) for (p, s), mine in named if len(mine)}


def _of_strangers(dataset: Dataset) -> bool:
    """Whether the owners of the held-out rows own no training row."""
    owners, others = dataset.groups, dataset.test_groups
    return not (owners is None or others is None or np.isin(others, owners).any())


def _alike(
    dataset: Dataset, shards: Mapping[PeerId, Shard], seed: int, most: int
) -> list[Rows] | None:
    try:
        codes = classes_of(dataset.labels)
    except ConfigError:
        return None
    names = np.unique(dataset.labels)
    held = [np.flatnonzero(dataset.test[1].numpy() == name) for name in names]
    return [
        _drawn(np.bincount(codes[s.rows], minlength=len(names)), held, most, seed, peer)
        for peer, s in shards.items()
    ]


def _drawn(
    counts: Rows, held: Sequence[Rows], most: int, seed: int, peer: PeerId
) -> Rows:
    """Return about ``most`` held-out rows with the shares of ``counts``, sorted."""
    shares = counts / counts.sum()
    enough = [len(h) / s for h, s in zip(held, shares, strict=True) if s and len(h)]
    total = min(float(most), *enough) if enough else 0.0
    drawn = [np.arange(0)]
    for code, (rows, share) in enumerate(zip(held, shares, strict=True)):
        count = min(len(rows), int(np.ceil(share * total - 1e-9)))
        drawn.append(rows[choose(len(rows), count, "own test", seed, peer, code)])
    return np.sort(np.concatenate(drawn))
