"""Few units for many: those of all adapters are clustered, and each cluster is one.

Source:
    Zhao et al., "Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to
    Extremes Through Rank-Wise Clustering", ICLR 2025. https://arxiv.org/abs/2409.16167

Notation, paper -> here:
    MSU          column of B and row of A      a unit
    k            clusters                      ``count``
    centroid     what stands for a cluster     mean of its units, by mass

Departures:
    A unit (b, a) does what (2 b, a / 2) and (-b, -a) do. So b and a get one length
    before units are compared, and of a unit and its opposite the closer one counts.

    k-means starts from the unit of greatest norm, then always the one farthest from all
    before: nothing is drawn, and the order of adapters does not matter.

    The two reweightings, of parameters and of outputs, are one formula here: the size
    of a cluster's unit is the sum of what its members' sizes count. It follows from
    what must hold: merging copies of one adapter gives its product back; as many
    clusters as units give the exact mean of the products.
"""

import torch
from torch import Tensor

from strategies.merging.stack import Halves, Stack

SAME = 1e-12  # square distance, relative to a square norm, that is rounding


def clustered(stack: Stack, count: int, passes: int, *, reweight: bool) -> Halves:
    """Return at most ``count`` units for all in ``stack``, the largest first.

    Rows of A have length 1, and B the rest. Masses must not be below 0.

    Args:
        stack: units of all adapters.
        count: most units, >= 1.
        passes: most rounds of k-means, >= 1.
        reweight: keep the size of what is merged; otherwise members that disagree make
            a cluster's unit smaller, as any mean.
    """
    sizes = stack.ups.norm(dim=0) * stack.downs.norm(dim=1)  # (n,)
    real = (sizes > 0) & (stack.mass > 0)
    if not real.any():
        return stack.ups[:, :0], stack.downs[:0]
    sizes, mass = sizes[real], stack.mass[real]
    points = balanced(stack.ups[:, real], stack.downs[real])  # (n, out + in)
    groups, signs = grouped(points, mass, count, passes)
    used = sorted(set(groups.tolist()))
    share = torch.stack([mass * (groups == g) for g in used])  # (clusters, n)
    means = share @ (points * signs[:, None]) / share.sum(1, keepdim=True)
    ups, downs = means[:, : len(stack.ups)], means[:, len(stack.ups) :]
    own = share.sum(1) * ups.norm(dim=1) * downs.norm(dim=1)
    wanted = share @ sizes if reweight else own
    alive = own > 0
    order = torch.argsort(wanted[alive], descending=True, stable=True)
    ups, downs, wanted = (t[alive][order] for t in (ups, downs, wanted))
    ups = ups / ups.norm(dim=1, keepdim=True) * wanted[:, None]
    return ups.T, downs / downs.norm(dim=1, keepdim=True)


def balanced(ups: Tensor, downs: Tensor) -> Tensor:
    """Return each unit as one vector whose two parts are equally long, (n, out + in).

    Its largest entry is positive: where a unit is as close to a centre as its opposite
    is, what comes out must not depend on which of the two it was called.

    Args:
        ups: columns, none zero, (out, n).
        downs: rows, none zero, (n, in).
    """
    ratio = (downs.norm(dim=1) / ups.norm(dim=0)).sqrt()
    points = torch.cat([ups.T * ratio[:, None], downs / ratio[:, None]], 1)
    largest = points.abs().argmax(1, keepdim=True)
    return points * points.gather(1, largest).sign()


def grouped(
    points: Tensor, mass: Tensor, count: int, passes: int
) -> tuple[Tensor, Tensor]:
    """Return the cluster and the sign of each point, both (n,); k-means up to sign."""
    centres = _spread(points, count)
    groups = torch.full((len(points),), -1)
    signs = torch.ones(len(points), dtype=points.dtype)
    for _ in range(passes):
        dots = points @ centres.T  # (n, count)
        near = (centres.square().sum(1) - 2 * dots.abs()).argmin(1)
        if torch.equal(near, groups):
            break
        groups = near
        own = dots.gather(1, near[:, None])[:, 0]
        signs = torch.where(own < 0, -1.0, 1.0).to(points)
        centres = _means(points * signs[:, None], mass, groups, centres)
    return groups, signs


def _spread(points: Tensor, count: int) -> Tensor:
    """Return up to ``count`` different points, each far from those before it."""
    norms = points.square().sum(1)  # (n,)
    chosen: list[int] = []
    far = norms.clone()
    while len(chosen) < min(count, len(points)) and float(far.max()) > 0:
        best = int(far.argmax())
        chosen.append(best)
        dots = (points @ points[best]).abs()
        apart = norms + norms[best] - 2 * dots
        far = far.minimum(torch.where(apart > SAME * norms, apart, 0.0))
    return points[chosen]


def _means(points: Tensor, mass: Tensor, groups: Tensor, centres: Tensor) -> Tensor:
    """Return the mean of each cluster; one without points stays where it was."""
    new = centres.clone()
    for g in set(groups.tolist()):
        own = groups == g
        new[g] = (mass[own, None] * points[own]).sum(0) / mass[own].sum()
    return new
