"""What becomes of peers that a clusterer puts into no cluster, and plain numbering."""

from collections.abc import Sequence
from typing import Literal

from strategies.clustered.angles import Angles, mean_direction, nearest

Noise = Literal["nearest", "single", "together"]
NOBODY = -1  # the label of noise


def settled(labels: Sequence[int], angles: Angles, noise: Noise) -> list[int]:
    """Return labels 0, 1, ... in order of first use, with no noise among them.

    How the clusterer numbers its clusters makes no difference. Where all are noise
    there is nothing to be near to, and ``"nearest"`` leaves all together.

    Args:
        labels: of n directions; -1 is noise.
        angles: of the same directions.
        noise: ``"nearest"`` centroid, one ``"single"`` cluster each, or one
            ``"together"``.
    """
    if noise == "nearest":
        return _numbered(_nearest(labels, angles))
    alone = [-2 - i if noise == "single" else NOBODY for i in range(len(labels))]
    paired = zip(labels, alone, strict=True)
    return _numbered([own if k == NOBODY else k for k, own in paired])


def _nearest(labels: Sequence[int], angles: Angles) -> list[int]:
    names = sorted({k for k in labels if k != NOBODY})
    if not names:
        return [0] * len(labels)
    members = [[i for i, k in enumerate(labels) if k == name] for name in names]
    centroids = [mean_direction(angles.units[rows]) for rows in members]
    return [
        names[nearest(angles.units[i], centroids)] if k == NOBODY else k
        for i, k in enumerate(labels)
    ]


def _numbered(labels: Sequence[int]) -> list[int]:
    order = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]
