"""Laws of one-shot clustering, for any moves of any peers."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.params import digest
from fedcore.strategy import Update
from fedcore.tree import flatten
from strategies.clustered.clusterers import Agglomerative
from strategies.clustered.noise import settled
from strategies.clustered.ocfl import OCFL

START = {"w": torch.zeros(3)}
QUICK = settings(deadline=None, max_examples=12)
PEERS = [f"p{i}" for i in range(5)]

move = st.tuples(*[st.floats(-5, 5, width=32)] * 3)
a_round = st.dictionaries(st.sampled_from(PEERS), move, min_size=1)
all_rounds = st.lists(a_round, min_size=1, max_size=8)


@dataclass(frozen=True)
class Renumbered:
    """``inner`` with other names for the same clusters."""

    inner: Any
    names: tuple[int, ...]

    def labels(self, angles, seed):
        return [self.names[k] for k in self.inner.labels(angles, seed)]


def states(rules, rounds):
    """Return the state before the first round, and after each."""
    found = [rules.init(START)]
    for moves in rounds:
        updates = [
            Update(p, found[-1].version, {"w": torch.tensor(m)}, 1)
            for p, m in sorted(moves.items())
        ]
        found.append(rules.apply(found[-1], updates))
    return found


def bits(state):
    structure, tensors = flatten(state)
    return structure, digest(tensors)


CLUSTERER = Agglomerative(threshold=0.6)


@given(all_rounds)
@QUICK
def test_fires_once_and_never_in_the_first_round(rounds):
    seen = states(OCFL(clusterer=CLUSTERER), rounds)
    fired = [s.divided for s in seen]
    assert fired[0] == fired[1] == -1
    assert len({f for f in fired if f >= 0}) <= 1
    when = next((i for i, f in enumerate(fired) if f >= 0), len(fired))
    assert all(len(s.clusters) == 1 for s in seen[:when])
    assert len({len(s.clusters) for s in seen[when:]}) <= 1


@given(all_rounds, st.permutations(range(5)))
@QUICK
def test_how_clusters_are_numbered_makes_no_difference(rounds, names):
    renamed = OCFL(clusterer=Renumbered(CLUSTERER, tuple(10 * n for n in names)))
    plain = OCFL(clusterer=CLUSTERER)
    assert bits(states(renamed, rounds)[-1]) == bits(states(plain, rounds)[-1])


@given(all_rounds)
@QUICK
def test_a_model_moves_only_by_answers_of_its_own_members(rounds):
    seen = states(OCFL(clusterer=CLUSTERER), rounds)
    for before, after, moves in zip(seen, seen[1:], rounds, strict=False):
        active = {after.cluster_of(p) for p in moves if not before.probing(p)}
        for c, cluster in enumerate(before.clusters):
            if c not in active and not after.clusters[c].parts:
                assert after.clusters[c] == cluster


@given(all_rounds)
@QUICK
def test_everybody_heard_after_the_division_is_in_a_living_cluster(rounds):
    seen = states(OCFL(clusterer=CLUSTERER), rounds)
    last = seen[-1]
    for peer in rounds[-1]:
        assert not last.probing(peer)
    parts = [part.cluster for c in last.clusters for part in c.parts]
    assert sorted([*parts, 0]) == list(range(len(last.clusters)))


labels = st.lists(st.integers(-1, 3), min_size=2, max_size=8)


@given(labels, st.sampled_from(["nearest", "single", "together"]), st.data())
@QUICK
def test_settled_labels_have_no_gaps_and_split_nobody(labels, noise, data):
    from strategies.clustered.angles import Angles

    rows = [torch.tensor(data.draw(move), dtype=torch.float64) for _ in labels]
    done = settled(labels, Angles.of(rows), noise)
    assert list(dict.fromkeys(done)) == list(range(max(done) + 1))
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            if a >= 0 and b >= 0:
                assert (a == b) == (done[i] == done[j])
