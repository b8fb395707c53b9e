"""The state of clustered strategies: a tree of clusters, and who is where.

Everybody begins in cluster 0. A cluster that is divided keeps the model that it had
then and never learns again; its parts go on from that model. So there is one answer
to every question about membership:

- A peer in a living cluster trains that cluster's model.
- A peer in a divided cluster (a late joiner; one whose direction had grown too old)
  trains the model of the division once, as a probe. Its direction is comparable with
  those that made the parts, and it joins the part with the nearest centroid. The
  probe moves no model: it starts from one that nobody has any more.
- A cluster none of whose members answered keeps its model, be it because they were not
  asked, because they were refused or because its only member left. Who comes back
  finds it as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedcore.params import Params, add, scaled
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update, Work
from strategies.clustered.angles import Angles, mean_direction, nearest
from strategies.clustered.sketch import sketches


@dataclass(frozen=True, slots=True)
class Heard:
    """What a peer's last answer told about it.

    Attributes:
        sketch: of its direction (``strategies.clustered.sketch``), float64, (m,).
        version: of the model that it trained; its age is counted from there.
        since: rounds folded when its first answer came.
        examples: its weight.
        joined: answers to older versions than this are no answers of its cluster.
    """

    sketch: Tensor
    version: int
    since: int
    examples: int
    joined: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a divided cluster.

    Attributes:
        cluster: its number.
        centroid: mean direction of those who made it, float64, (m,).
    """

    cluster: int
    centroid: Tensor


@dataclass(frozen=True, slots=True)
class Cluster:
    """One model, and those who learn it.

    Attributes:
        model: what its members train; of a divided one, what it was then.
        born: rounds folded when it was made.
        parts: what it was divided into; none while it lives.
    """

    model: Params
    born: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Clusters:
    """All clusters.

    Attributes:
        version: rounds folded.
        params: the mean of the living models, weighted by their members' examples:
            one model to publish, which is nobody's own once there are two.
        clusters: by number; divided ones stay, for those who come late.
        member: cluster of each peer that was placed; all others are in number 0.
        heard: of each peer.
        temperatures: how much peers disagreed, a round each; see ``OCFL``.
        divided: rounds folded at the last division; -1 before the first.
    """

    version: int
    params: Params
    clusters: tuple[Cluster, ...]
    member: Mapping[PeerId, int]
    heard: Mapping[PeerId, Heard]
    temperatures: tuple[float, ...] = ()
    divided: int = -1

    def cluster_of(self, peer: PeerId) -> int:
        """Return the number of the cluster where ``peer`` is."""
        return self.member.get(peer, 0)

    def probing(self, peer: PeerId) -> bool:
        """Tell whether ``peer`` has yet to be placed in a part of its cluster."""
        return bool(self.clusters[self.cluster_of(peer)].parts)

    def unplaced(self, peer: PeerId) -> bool:
        """Tell whether the direction of ``peer`` is needed to know where it belongs."""
        return peer not in self.heard or self.probing(peer)

    def living(self) -> list[int]:
        """Return the numbers of the clusters that learn."""
        return [c for c, cluster in enumerate(self.clusters) if not cluster.parts]

    def known(self, cluster: int, max_age: int = 0) -> list[PeerId]:
        """Return, sorted, the members of ``cluster`` whose directions may count.

        Those are from its own models and, unless ``max_age`` is 0, at most
        ``max_age`` rounds old.
        """
        born = self.clusters[cluster].born
        first = max(born, self.version - max_age if max_age else 0)
        return sorted(
            peer
            for peer, heard in self.heard.items()
            if self.cluster_of(peer) == cluster
            and heard.version >= max(first, heard.joined)
        )

    def angles(self, peers: Sequence[PeerId]) -> Angles:
        """Return the angles between the last directions of ``peers``, at least one."""
        return Angles.of([self.heard[peer].sketch for peer in peers])


def beginning(params: Params) -> Clusters:
    """Return the state before the first round: everybody together."""
    return Clusters(0, params, (Cluster(params, 0),), {}, {})


def work_for(state: Clusters, peer: PeerId, steps: int, epochs: int) -> Work:
    """Return the work of ``peer``: on its cluster's model, or a probe."""
    number = state.cluster_of(peer)
    hints = {"cluster": number, **({"probe": 1} if state.probing(peer) else {})}
    model = state.clusters[number].model
    return Work(state.version, model, steps, epochs, hints=hints)


def listened(
    state: Clusters, updates: Sequence[Update], size: int, seed: int
) -> Clusters:
    """Return ``state`` with the directions of ``updates`` noted; the last one counts.

    Args:
        state: before.
        updates: model differences, sorted by peer; there may be none.
        size: numbers of a sketch; 0 for whole directions.
        seed: of the sketch.
    """
    if not updates:
        return state
    heard = dict(state.heard)
    drawn = sketches([u.payload for u in updates], size, seed)
    for update, sketch in zip(updates, drawn, strict=True):
        before = heard.get(update.peer)
        heard[update.peer] = Heard(
            sketch,
            update.version,
            before.since if before else state.version,
            update.examples,
            before.joined if before else 0,
        )
    return replace(state, heard=heard)


def divided(
    state: Clusters, cluster: int, peers: Sequence[PeerId], labels: Sequence[int]
) -> Clusters:
    """Return ``state`` with ``cluster`` cut into one part for each label.

    Args:
        state: before.
        cluster: a living one.
        peers: members with known directions; others of its members will be probed.
        labels: of ``peers``: 0, 1, ... without gaps. One label alone divides nothing.
    """
    state = replace(state, divided=state.version)
    if len(set(labels)) < 2:
        return state
    first, units = len(state.clusters), state.angles(peers).units
    own = torch.tensor(labels)
    parts = tuple(
        Part(first + label, mean_direction(units[own == label]))
        for label in range(max(labels) + 1)
    )
    whole = state.clusters[cluster]
    fresh = [Cluster(whole.model, state.version) for _ in parts]
    clusters = [*state.clusters, *fresh]
    clusters[cluster] = replace(whole, parts=parts)
    placed = {p: first + label for p, label in zip(peers, labels, strict=True)}
    return replace(state, clusters=tuple(clusters), member={**state.member, **placed})


def folded(state: Clusters, updates: Sequence[Update], server_lr: float) -> Clusters:
    """Return the state after a round: each cluster moves by its members' mean.

    The senders of ``updates`` have been listened to, probes among them.
    """
    probes = [u.peer for u in updates if state.probing(u.peer)]
    answers: dict[int, list[Update]] = {}
    for update in updates:
        on_time = update.version >= state.heard[update.peer].joined
        if on_time and not state.probing(update.peer):
            answers.setdefault(state.cluster_of(update.peer), []).append(update)
    clusters = list(state.clusters)
    for number, some in answers.items():
        step = scaled(mean_of(some), server_lr)
        model = add(clusters[number].model, step)
        clusters[number] = replace(clusters[number], model=model)
    state = _placed(replace(state, clusters=tuple(clusters)), probes)
    return replace(state, version=state.version + 1, params=_published(state))


def _placed(state: Clusters, probes: Sequence[PeerId]) -> Clusters:
    """Return ``state`` with the senders of ``probes`` in the nearest parts."""
    member, heard = dict(state.member), dict(state.heard)
    for peer in probes:
        parts = state.clusters[state.cluster_of(peer)].parts
        part = nearest(heard[peer].sketch, [p.centroid for p in parts])
        member[peer] = parts[part].cluster
        heard[peer] = replace(heard[peer], joined=state.version + 1)
    return replace(state, member=member, heard=heard)


def _published(state: Clusters) -> Params:
    """Return the mean of the living models, weighted by their members' examples."""
    weights = dict.fromkeys(state.living(), 0)
    for peer, heard in state.heard.items():
        if state.cluster_of(peer) in weights:
            weights[state.cluster_of(peer)] += heard.examples
    whole = sum(weights.values())
    models = {c: state.clusters[c].model for c, n in weights.items() if n}
    if len(models) < 2 or not whole:
        return next(iter(models.values()), state.params)
    return mean_model([(m, weights[c]) for c, m in models.items()])


def mean_model(models: Sequence[tuple[Params, int]]) -> Params:
    """Return the mean of (model, weight >= 1), added in order in float64."""
    whole = sum(weight for _, weight in models)
    total: dict[str, Tensor] = {}
    for model, weight in models:
        for name, t in model.items():
            term = t.double() * (weight / whole)
            total[name] = total[name] + term if name in total else term
    like = models[0][0]
    return {name: t.to(like[name].dtype) for name, t in total.items()}
