"""FedLD: a margin term for the peers, principal directions for the server.

Source:
    Zeng et al., "Tackling Data Heterogeneity in Federated Learning via Loss
    Decomposition", MICCAI 2024. https://arxiv.org/abs/2408.12300
    Where the text leaves room, the authors' released program decides.

Notation, paper -> here:
    λ            weight of the margin       ``margin``
    G            the m differences of one tensor, as rows (m, d)
    H = GGᵀ/m    = E diag(σ) Eᵀ             ``_combination``
    w_j = Gᵀe_j  principal directions       the first k = ``directions`` * m of them

Peers add λ log(1 + |softmax(z)|²) to cross entropy, one Frobenius norm over all
scores z of a batch (``clients.trainers.margin``), which holds confidence down. The
server replaces each difference g_i, tensor by tensor, by

    g_i' = Σ_j σ_j / Σσ · |g_i| · sign(g_i · w_j) · w_j / |w_j|

and moves by the mean of the g_i'. The first round, and tensors of one number, are
plain means. All peers count alike.

What it comes to:
    g_i · w_j = m σ_j e_ji and |w_j|² = m σ_j, so that the mean of the g_i' is Gᵀa with
    a = Σ_j √(σ_j / m) / Σσ · mean_i(|g_i| sign(e_ji)) · e_j. It costs one product of G
    with itself and one weighted sum; no direction is ever written down, and nothing
    is divided by what may be 0.

    The paper's calibration turns w_j round where most g_i point against it. The
    formula is even in w_j, so this changes nothing, and it is left out.

    The result is shorter than the mean, the more so the less peers agree.
    ``rescale`` gives each tensor the length of the mean; it is not in the paper.

Departures:
    Running statistics are averaged apart; the program projects them too, and the
    counters among them. The program takes k = int(0.8 m), so that one peer alone has
    no direction and the model stays as it is; here k is at least 1. The program's
    history of gradients, which it never reads, is not kept. The last bits of an
    eigenvector may differ between machines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.fedavg import Model, moved
from strategies.limits import local_work, positive

BLOCK = 1 << 15  # columns at a time: what is held in float64 stays small


@dataclass(frozen=True, slots=True)
class FedLD:
    """Margin loss at the peers, principal gradients at the server.

    Attributes:
        margin: λ, >= 0; 0 leaves the peers' loss alone.
        directions: share of the principal directions that are used, in [0, 1]; at
            least one direction. 0 averages plainly instead.
        rescale: give the result the length of the mean, tensor by tensor.
        server_lr: step along the result, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    margin: float = 0.1
    directions: float = 0.8
    rescale: bool = False
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    research: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)
        if not 0 <= self.margin < inf:
            raise ConfigError(f"margin must be >= 0 and finite: {self.margin}")
        if not 0 <= self.directions <= 1:
            raise ConfigError(f"directions must be in [0, 1]: {self.directions}")

    def init(self, params: Params) -> Model:
        return Model(0, params)

    def work(self, state: Model, peer: PeerId) -> Work:
        asked: Any = {"do": "margin", "margin": self.margin} if self.margin else {}
        return Work(state.version, state.params, self.steps, self.epochs, hints=asked)

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Model, updates: Sequence[Update]) -> Model:
        mean = mean_of([replace(u, examples=1) for u in updates])
        if state.version == 0 or not self.directions:
            return moved(state, mean, self.server_lr)
        found = {
            name: self._projected([u.payload[name] for u in updates])
            for name, t in weights_of(state.params).items()
            if t.numel() > 1
        }
        return moved(state, {**mean, **found}, self.server_lr)

    def _projected(self, rows: Sequence[Tensor]) -> Tensor:
        flat = torch.stack([t.detach().reshape(-1) for t in rows])  # (m, d)
        blocks = torch.split(flat, BLOCK, dim=1)
        products = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for block in map(Tensor.double, blocks):
            products += block @ block.T
        count = max(1, int(self.directions * len(rows)))
        share = _combination(products, count)
        if self.rescale:
            share = _as_long_as_the_mean(share, products)
        move = [(share[:, None] * block).sum(0).float() for block in blocks]
        return torch.cat(move).view(rows[0].shape)


def _combination(products: Tensor, count: int) -> Tensor:
    """Return a, the share of each peer in the result, float64 (m,).

    Args:
        products: G Gᵀ, float64 (m, m).
        count: k, directions used, in [1, m].
    """
    m = len(products)
    sigma, vectors = torch.linalg.eigh(products / m)  # ascending; columns e_j
    sigma = sigma.clamp_min(0).flip(0)
    vectors = vectors.flip(1)
    if not sigma[0] > 0:
        return torch.zeros(m, dtype=torch.float64)
    lengths = products.diagonal().clamp_min(0).sqrt()  # |g_i|
    votes = (lengths[:, None] * vectors.sign()).mean(0)
    share = (sigma / m).sqrt() / sigma.sum() * votes
    combined: Tensor = (vectors * share)[:, :count].sum(1)
    return combined


def _as_long_as_the_mean(share: Tensor, products: Tensor) -> Tensor:
    """Return ``share`` times what makes |Gᵀ share| the length of the mean row."""
    now = float(share @ products @ share)
    mean = float(products.sum()) / len(share) ** 2
    return share * sqrt(max(mean, 0.0) / now) if now > 0 else share
