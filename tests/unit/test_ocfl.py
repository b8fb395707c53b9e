"""One division at the first rise, and everybody in the right place before and after."""

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator, Rules, coordinate
from fedcore.errors import ConfigError
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.strategy import Update, peer_name
from sims.line import Line
from sims.runs.checks import check_votes
from sims.world.virtual import VirtualLink
from strategies.clustered.adaptive import Adaptive
from strategies.clustered.briggs import BriggsHC
from strategies.clustered.clusterers import Agglomerative, KMeans
from strategies.clustered.clusters import mean_model
from strategies.clustered.ocfl import OCFL
from strategies.clustered.trigger import round_of

START = {"w": torch.zeros(2)}
EAST, NORTH, BETWEEN = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)
TWO = KMeans(clusters=2)
APART = {"a": EAST, "b": EAST, "c": NORTH, "d": NORTH}
CLOSER = {"a": EAST, "b": EAST, "c": BETWEEN, "d": BETWEEN}
LINES = {peer_name(i): Line(seed=i, sign=(-1.0) ** (i // 3)) for i in range(6)}
LINE = {"weight": torch.zeros(1, 4)}


def told(rules, state, moves, examples=1):
    """Return the state after a round in which each peer moves as ``moves`` says."""
    updates = [
        Update(p, state.version, {"w": torch.tensor(m)}, examples)
        for p, m in sorted(moves.items())
    ]
    return rules.apply(state, updates)


def rounds(rules, *each):
    state = rules.init(START)
    for moves in each:
        state = told(rules, state, moves)
    return state


def model(state, rules, peer):
    return rules.work(state, peer).params["w"].tolist()


def split():
    """Return rules and the state right after a and b parted from c and d."""
    rules = OCFL(clusterer=TWO)
    return rules, rounds(rules, APART, CLOSER, APART)


def test_divides_at_the_first_rise_and_not_in_the_first_round():
    """Cross distances 1, then 1 - sqrt(1/2), then 1; 8 of them over 4 * 3 * 4."""
    rules = OCFL(clusterer=TWO)
    state = rounds(rules, APART, CLOSER)
    assert state.divided == -1
    assert len(state.clusters) == 1
    assert state.temperatures[0] == pytest.approx((8 / 48) ** 0.5)
    assert state.temperatures[1] == pytest.approx((8 / 48) ** 0.5 * (1 - 0.5**0.5))
    state = told(rules, state, APART)
    assert state.divided == 2
    assert {p: state.cluster_of(p) for p in "abcd"} == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_each_cluster_starts_from_the_common_model_and_moves_by_its_own_mean():
    rules, state = split()
    common = [1.0 / 2 + 1.0, 1.0 / 2 + 1.0 / 2]  # after rounds 0 and 1
    assert state.clusters[0].model["w"].tolist() == common
    assert model(state, rules, "a") == [common[0] + 1, common[1]]
    assert model(state, rules, "d") == [common[0], common[1] + 1]
    assert rules.work(state, "d").hints == {"cluster": 2}


def test_it_divides_once():
    rules, state = split()
    later = rounds_from(rules, state, CLOSER, {"a": EAST, "b": NORTH}, APART)
    assert len(later.clusters) == 3
    assert later.divided == 2
    assert later.temperatures == state.temperatures
    assert later.version == 6


def rounds_from(rules, state, *each):
    for moves in each:
        state = told(rules, state, moves)
    return state


def test_a_cluster_with_no_answer_keeps_its_model():
    rules, state = split()
    later = told(rules, state, {"a": NORTH})
    assert later.clusters[2] == state.clusters[2]
    assert model(later, rules, "b") != model(state, rules, "b")


def test_the_published_model_is_the_mean_by_examples():
    rules = OCFL(clusterer=TWO, trigger="round:1")
    updates = [
        Update("a", 0, {"w": torch.tensor(EAST)}, 1),
        Update("b", 0, {"w": torch.tensor(NORTH)}, 3),
    ]
    assert rules.apply(rules.init(START), updates).params["w"].tolist() == [0.25, 0.75]
    one = mean_model([({"w": torch.tensor([0.1])}, 7)])
    assert one["w"].tolist() == torch.tensor([0.1]).tolist()


# Those who come late, or never come back.


def test_a_late_joiner_is_placed_by_one_probe_that_moves_no_model():
    rules, state = split()
    work = rules.work(state, "late")
    assert work.hints == {"cluster": 0, "probe": 1}
    assert work.params is state.clusters[0].model
    probed = told(rules, state, {"late": (0.1, 2.0)})
    assert probed.cluster_of("late") == 2
    assert [c.model for c in probed.clusters] == [c.model for c in state.clusters]
    assert rules.work(probed, "late").hints == {"cluster": 2}
    moved = told(rules, probed, {"late": NORTH})
    assert model(moved, rules, "c") == [1.5, 3.0]


def test_an_answer_sent_before_the_probe_was_read_is_not_folded():
    rules, state = split()
    late = Update("late", 1, {"w": torch.tensor(NORTH)}, 1)
    probed = rules.apply(state, [late])
    again = Update("late", state.version, {"w": torch.tensor(NORTH)}, 1)
    after = rules.apply(probed, [again])
    assert [c.model for c in after.clusters] == [c.model for c in state.clusters]
    assert after.version == probed.version + 1


def test_a_newcomer_is_no_rise():
    rules = OCFL(clusterer=TWO)
    state = rounds(rules, {"a": EAST, "b": EAST}, {"a": EAST, "b": EAST, "c": NORTH})
    assert state.temperatures[1] > state.temperatures[0] == 0
    assert state.divided == -1


def test_where_all_are_alike_there_is_one_cluster_and_newcomers_join_it():
    rules = OCFL(clusterer=Agglomerative(threshold=0.9), trigger="round:1")
    state = rounds(rules, {"a": EAST, "b": BETWEEN})
    assert (state.divided, len(state.clusters)) == (0, 1)
    later = told(rules, state, {"new": NORTH})
    assert later.params["w"].tolist() == [1.0, 1.5]
    assert rules.work(later, "new").hints == {"cluster": 0}


def test_nothing_is_divided_before_all_clients_are_known():
    rules = OCFL(clusterer=TWO, trigger="round:1", clients=4)
    state = rounds(rules, {"a": EAST, "c": NORTH}, {"b": EAST})
    assert state.divided == -1
    state = told(rules, state, {"d": NORTH})
    assert [state.cluster_of(p) for p in "abcd"] == [1, 1, 2, 2]


def test_the_last_known_direction_counts_until_it_is_too_old():
    some = [{"a": EAST, "c": NORTH}, {"b": EAST}, {"d": NORTH}]
    state = rounds(OCFL(clusterer=TWO, trigger="round:3"), *some)
    assert [state.cluster_of(p) for p in "abcd"] == [1, 1, 2, 2]
    assert [state.heard[p].version for p in "abcd"] == [0, 1, 0, 2]
    rules = OCFL(clusterer=TWO, trigger="round:3", max_age=1)
    state = rounds(rules, *some)
    assert sorted(state.member) == ["b", "d"]  # a and c were heard two rounds ago
    assert rules.work(state, "a").hints["probe"] == 1
    assert told(rules, state, {"a": EAST}).cluster_of("a") == state.cluster_of("b")


def test_directions_that_are_all_too_old_divide_nobody():
    rules = OCFL(clusterer=TWO, trigger="round:1", max_age=1)
    state = rounds(rules, {"a": EAST}, {"a": EAST}, {"a": EAST})
    old = [Update(p, 0, {"w": torch.tensor(m)}, 1) for p, m in APART.items()]
    after = rules.apply(state, old)
    assert (after.version, after.divided) == (4, -1)
    assert after.params["w"].tolist() != state.params["w"].tolist()


# Bad peers, through the coordinator.


def training(task, work, peer):
    """Descend on a line; one peer's answers change their shape after two rounds."""
    update = SGD(lr=0.05)(task, work, peer)
    if peer == peer_name(5) and work.version >= 2:
        return Update(peer, work.version, {"weight": torch.ones(2, 2)}, 1)
    return update


class Lone:
    """Puts the last peer alone, and the others together."""

    def labels(self, angles, seed):
        return [0] * (len(angles.units) - 1) + [1]


LONELY = OCFL(clusterer=Lone(), trigger="round:1", clients=6, steps=1)
PACER = Synchronous(cohort=6, quorum=5, retries=0)


def test_a_peer_that_changes_shape_is_refused_and_its_cluster_stays():
    """Peer 5 is the only one of its cluster, and never gives a good answer again."""
    seen = []
    link = VirtualLink(training, LINES)
    coordinator = Coordinator(Rules(LONELY, PACER), link, watch=seen.append)
    state = coordinator.run(LINE, 6)
    refused = [(r.peer, r.kind) for fold in seen for r in fold.refused]
    assert refused == [(peer_name(5), "shape")] * 4
    early = next(fold.state for fold in seen if fold.state.version == 2)
    assert state.clusters[2] == early.clusters[2]
    assert digest(state.clusters[1].model) != digest(early.clusters[1].model)


class Leaving:
    """Peer 5 is offline from 3.5 s to 7.5 s; a round takes a second."""

    def spans(self, site):
        yield from [(0.0, 3.5), (7.5, 1e9)] if site.index == 5 else [(0.0, 1e9)]

    def gives_up(self, site, now_s):
        return None


def stepping(task, work, peer):
    """Move by +1 as peer 5, and by -1 as any other."""
    step = 1.0 if peer == peer_name(5) else -1.0
    return Update(peer, work.version, {"weight": torch.full((1, 4), step)}, 1)


def test_the_only_member_leaves_and_finds_its_cluster_as_it_was():
    seen = []
    pacer = Synchronous(cohort=6, quorum=5, gather_s=0.0)
    link = VirtualLink(stepping, LINES, availability=Leaving())
    coordinator = Coordinator(Rules(LONELY, pacer), link, watch=seen.append)
    state = coordinator.run(LINE, 10)
    folds = [fold for fold in seen if fold.folded]
    there = [any(u.peer == peer_name(5) for u in fold.folded) for fold in folds]
    assert there == [True] * 3 + [False] * 5 + [True] * 2
    for i, fold in enumerate(folds):
        assert fold.state.clusters[2].model["weight"][0, 0] == sum(there[: i + 1])
        assert fold.state.clusters[1].model["weight"][0, 0] == -(i + 1)
    assert {p: why for f in seen for p, why in f.lost.items()} == {
        peer_name(5): "went offline"
    }
    assert state.version == 10


def test_quick_and_slow_peers_of_a_buffer_divide_once_too():
    rules = OCFL(clusterer=TWO, clients=6, steps=1)
    speeds = {peer: 1.0 + i for i, peer in enumerate(LINES)}
    link = VirtualLink(SGD(lr=0.02), LINES, speeds)
    check_votes(rules, Buffered(size=3))
    state = coordinate(rules, Buffered(size=3), link, LINE, 30)
    assert len(state.living()) == 2
    groups = [state.cluster_of(p) for p in LINES]
    assert groups in ([1, 1, 1, 2, 2, 2], [2, 2, 2, 1, 1, 1])


# Others that divide once.


def test_briggs_divides_after_so_many_rounds():
    rules = BriggsHC(rounds=2, threshold=0.9)
    state = rounds(rules, APART)
    assert state.divided == -1
    state = told(rules, state, APART)
    assert [state.cluster_of(p) for p in "abcd"] == [1, 1, 2, 2]
    assert len(rounds(BriggsHC(rounds=1, threshold=1.1), APART).clusters) == 1


def test_adaptive_asks_for_meta_learning_once_peers_are_divided():
    rules = Adaptive(
        inner="fomaml",
        inner_lr=0.3,
        inner_steps=2,
        clusterer=Agglomerative(threshold=0.9),
        trigger="round:2",
    )
    state = rounds(rules, APART)
    assert rules.work(state, "a").hints == {"cluster": 0}
    state = told(rules, state, APART)
    asked = {"do": "fomaml", "inner_lr": 0.3, "inner_steps": 2}
    assert rules.work(state, "a").hints == {"cluster": 1, **asked}
    assert "do" not in rules.work(state, "late").hints  # a probe is plain


def test_reptile_takes_whole_steps_until_then():
    rules = Adaptive(inner="reptile", server_lr=0.5, clusterer=TWO, trigger="round:2")
    state = rounds(rules, APART)
    assert state.params["w"].tolist() == [0.5, 0.5]
    state = rounds_from(rules, state, APART, APART)
    assert model(state, rules, "a") == [0.5 + 1.0 + 0.5, 0.5]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("round:0", 10), ("rounds:3", 3), ("heat", 10), ("round:", 10), ("round:-1", 10)],
)
def test_a_trigger_that_is_none_is_refused_with_a_near_one(wrong, near):
    with pytest.raises(ConfigError, match=f"did you mean 'round:{near}'"):
        OCFL(trigger=wrong)
    assert round_of("round:12") == 12
    assert round_of("temperature") is None
