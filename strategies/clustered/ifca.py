"""IFCA: several models at once, and every peer picks the one that fits it best.

Source:
    Ghosh et al., "An Efficient Framework for Clustered Federated Learning", NeurIPS
    2020, Algorithm 1, option II. https://arxiv.org/abs/2006.04088

Notation, paper -> here:
    k             clusters                ``clusters``
    θ_j           model j                 ``state.models[j]``
    ĵ             choice of a peer        ``update.metrics["choice"]``
    τ             local steps             ``steps``

A peer gets all models, takes its loss with each over its own examples, and trains the
best (the trainers' duty ``choose``).

Departures:
    The models must differ at the start, and a strategy is given one. Model j > 0 is
    that one with the entries of every tensor shuffled by a seed: as good as another
    draw where entries were drawn alike, and the same on all machines. A start that
    was trained before is lost that way; and of a start of equal numbers, such as
    zeros, all models are equal, everybody picks number 0, and IFCA is FedAvg.

    A peer is sent the model that it picked last as the work's own, and the others
    beside it, so that it is also the one that its personal figures are about.

    A model that nobody picked stays. The mean over those who picked is weighted by
    examples. A choice that is no model's number is a vote for none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch

from fedcore.params import Params, add, scaled
from fedcore.partial import mean_of
from fedcore.seeds import permutation
from fedcore.strategy import PeerId, Update, Work
from strategies.buffers import weights_of
from strategies.clustered.clusters import mean_model
from strategies.limits import counts, local_work, positive


@dataclass(frozen=True, slots=True)
class Choices:
    """The models, and who picked which.

    Attributes:
        version: rounds folded.
        params: the mean of the models, weighted by the examples of those who picked
            them last: one model to publish.
        models: by number.
        member: the number that each peer picked last.
        examples: weight of each peer heard.
    """

    version: int
    params: Params
    models: tuple[Params, ...]
    member: Mapping[PeerId, int]
    examples: Mapping[PeerId, int]


def shuffled(params: Params, *path: str | int) -> Params:
    """Return ``params`` with the entries of each weight in an order named by ``path``.

    Running statistics stay: they belong together.
    """
    mixed = {
        name: t.reshape(-1)[
            torch.from_numpy(permutation(prod(t.shape), "shuffled", name, *path))
        ].view(t.shape)
        for name, t in weights_of(params).items()
    }
    return {**params, **mixed}


@dataclass(frozen=True, slots=True)
class IFCA:
    """Several models, each trained by the peers that it fits best.

    Attributes:
        clusters: models, >= 1; every peer is sent all of them.
        seed: of the differences between the first models.
        server_lr: step along a model's mean difference, > 0.
        steps: local batches per peer and round; 0 counts ``epochs`` instead.
        epochs: passes over the peer's examples per round, >= 1.
    """

    clusters: int = 3
    seed: int = 0
    server_lr: float = 1.0
    steps: int = 0
    epochs: int = 1
    needs: ClassVar[Literal["each"]] = "each"
    told: ClassVar[tuple[str, ...]] = ("choice",)

    def __post_init__(self) -> None:
        counts(1, clusters=self.clusters)
        positive(server_lr=self.server_lr)
        local_work(self.steps, self.epochs)

    def init(self, params: Params) -> Choices:
        others = (shuffled(params, self.seed, j) for j in range(1, self.clusters))
        return Choices(0, params, (params, *others), {}, {})

    def work(self, state: Choices, peer: PeerId) -> Work:
        own = state.member.get(peer, 0)
        aux = {
            f"{j}/{name}": t
            for j, model in enumerate(state.models)
            if j != own
            for name, t in model.items()
        }
        return Work(
            state.version,
            state.models[own],
            self.steps,
            self.epochs,
            aux,
            hints={"do": "choose", "choices": self.clusters, "own": own},
        )

    def expects(self, work: Work) -> Params:
        return work.params

    def apply(self, state: Choices, updates: Sequence[Update]) -> Choices:
        models, member = list(state.models), dict(state.member)
        for j in range(self.clusters):
            voters = [u for u in updates if u.metrics.get("choice") == j]
            member.update((u.peer, j) for u in voters)
            if voters:
                models[j] = add(models[j], scaled(mean_of(voters), self.server_lr))
        examples = {**state.examples, **{u.peer: u.examples for u in updates}}
        params = _published(models, member, examples) or state.params
        version = state.version + 1
        return Choices(version, params, tuple(models), member, examples)


def _published(
    models: Sequence[Params],
    member: Mapping[PeerId, int],
    examples: Mapping[PeerId, int],
) -> Params | None:
    """Return the mean of the models that somebody picked, or None."""
    weights = dict.fromkeys(range(len(models)), 0)
    for peer, choice in member.items():
        weights[choice] += examples[peer]
    picked = [(models[j], n) for j, n in weights.items() if n]
    return mean_model(picked) if picked else None
