"""An edge answers for its peers, and the model has the bits that it has without it."""

from dataclasses import dataclass, replace

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator, Rules
from fedcore.errors import ConfigError, PeerLostError
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.flower.edge import edge_app, relay_app
from fedcore.gate import Gate
from fedcore.hierarchy.aggregate import InTurn
from fedcore.hierarchy.edge import Branch, Edge, LinkEdge
from fedcore.hierarchy.edge import branches as branches_of
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work, peer_name
from fedcore.task import params_of
from sims.flower.grid import InProcessGrid
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg
from strategies.fedopt import FedAdam
from tests.e2e.normed import Normed

TRAINER = SGD(lr=0.05)
SUMS = Gate(ring=True)
TASKS = {peer_name(i): Normed(seed=i, examples=16 + 8 * i) for i in range(5)}
START = params_of(Normed(seed=0).model()) | {
    "0.weight": torch.linspace(-1, 1, 15).view(5, 3)
}


def branches(count):
    """Return the edges' tasks, about as many examples each."""
    fair = sum(task.examples for task in TASKS.values()) / count
    return branches_of(TASKS, {f"edge-{i}": fair for i in range(count)})


def flat(strategy, rounds=3):
    return digest(run_rounds(strategy, TRAINER, TASKS, START, rounds).params)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("strategy", [FedAvg(steps=2), FedAdam(epochs=1)])
def test_edges_change_no_bit(strategy, count):
    tasks = branches(count)
    assert len(tasks) == count
    got = run_rounds(strategy, Edge(TRAINER), tasks, START, 3)
    assert digest(got.params) == flat(strategy)


def test_edges_of_edges_change_no_bit():
    a, b, c = (branch for _, branch in sorted(branches(3).items()))
    tasks = {"left": Branch({"a": a, "b": b}), "right": Branch({"c": c})}
    two_deep = Edge(Edge(TRAINER), SUMS)
    strategy = FedAvg(steps=2)
    assert digest(run_rounds(strategy, two_deep, tasks, START, 3).params) == flat(
        strategy
    )


def test_the_gate_above_takes_the_sum_of_a_coordinator_that_sums_as_well():
    tasks, strategy = branches(2), FedAvg(steps=2)
    for gate, aggregator in [(SUMS, None), (SUMS, InTurn(2))]:
        link = VirtualLink(Edge(TRAINER), tasks)
        rules = Rules(strategy, Synchronous(cohort=2, quorum=2), gate, aggregator)
        state = Coordinator(rules, link).run(START, 3)
        assert digest(state.params) == flat(strategy)


def test_an_edge_counts_its_peers_and_tells_their_mean_loss():
    work = FedAvg(steps=2).work(FedAvg().init(START), "edge")
    got = Edge(TRAINER)(Branch(TASKS), work, "edge")
    each = [TRAINER(task, work, peer) for peer, task in TASKS.items()]
    assert (got.peer, got.examples) == ("edge", sum(u.examples for u in each))
    assert got.metrics["steps"] == 2.0
    loss = sum(u.metrics["loss"] * u.examples for u in each) / got.examples
    assert got.metrics["loss"] == pytest.approx(loss)
    uneven = Branch({"a": Normed(1, 8, 1), "b": Normed(2, 24, 3)})
    whole = Edge(TRAINER)(uneven, replace(work, steps=0), "edge")
    assert "steps" not in whole.metrics  # they differ


@dataclass(frozen=True)
class Lying:
    """A trainer of which some peers answer with nonsense."""

    liars: frozenset[str]

    def __call__(self, task, work, peer):
        update = TRAINER(task, work, peer)
        if peer not in self.liars:
            return update
        return replace(update, payload={n: t / 0 for n, t in update.payload.items()})


def test_a_bad_answer_is_left_out_as_if_that_peer_were_not_there(caplog):
    liar = peer_name(1)
    work = FedAvg(steps=2).work(FedAvg().init(START), "edge")
    got = Edge(Lying(frozenset({liar})))(Branch(TASKS), work, "edge")
    others = Branch({p: t for p, t in TASKS.items() if p != liar})
    assert digest(got.payload) == digest(Edge(TRAINER)(others, work, "edge").payload)
    assert f"refused {liar}" in caplog.text
    with pytest.raises(PeerLostError, match="edge: 0 of 1 good answers"):
        Edge(Lying(frozenset(TASKS)))(Branch(TASKS), work, "edge")


def remembering(task, work, peer):
    """Answer with how often this peer was asked, and keep the count."""
    count = work.kept.get("count", torch.zeros(1)) + 1
    payload = {n: torch.full_like(t, float(count)) for n, t in work.params.items()}
    keep = {"count": count} if int(peer[-1]) % 2 else {}  # the others forget
    return Update(peer, work.version, payload, 1, {}, keep)


def test_what_peers_keep_the_edge_keeps_for_each_of_them():
    strategy = FedAvg()
    one = run_rounds(strategy, remembering, TASKS, START, 3)
    two = run_rounds(strategy, Edge(remembering), branches(2), START, 3)
    assert digest(one.params) == digest(two.params)


def test_a_branch_is_a_task_of_its_own():
    branch = Branch({"a": Normed(1, 8, 1), "b": Normed(2, 24, 3)})
    assert (branch.examples, branch.epoch_steps) == (32, 3)
    model, batches = branch.model().eval(), branch.batches(7)
    assert [peer for peer, _ in (next(batches) for _ in range(4))] == ["a", "b"] * 2
    assert branch.loss(model, next(batches)).shape == ()
    figures = branch.evaluate(model)
    losses = [t.evaluate(model)["loss"] for t in branch.tasks.values()]
    assert figures["loss"] == pytest.approx((8 * losses[0] + 24 * losses[1]) / 32)
    assert figures["examples"] == 32


def test_what_cannot_be_an_edge_is_refused():
    work = Work(0, START)
    with pytest.raises(ConfigError, match="must be a Branch"):
        Edge(TRAINER)(Normed(seed=0), work, "edge")
    with pytest.raises(ConfigError, match="at least one peer"):
        Branch({})
    with pytest.raises(ConfigError, match=r"'a\|b'"):
        Branch({"a|b": Normed(seed=0)})


# Through Flower.


def through_flower(app, count, strategy, rounds=3):
    with InProcessGrid(app, count) as grid:
        link = FlowerLink(grid, LinkLimits(wait_for=count, poll_s=0.01))
        rules = Rules(strategy, Synchronous(cohort=count, quorum=count), SUMS)
        return digest(Coordinator(rules, link).run(START, rounds).params)


def test_edges_as_flower_clients_change_no_bit():
    edges = list(branches(2).values())
    app = edge_app(lambda c: edges[int(c.node_config["partition-id"])], TRAINER)
    assert through_flower(app, 2, FedAvg(steps=2)) == flat(FedAvg(steps=2))


def test_a_federation_below_a_flower_client_changes_no_bit():
    each = list(TASKS.values())
    below = client_app(lambda c: each[int(c.node_config["partition-id"])], TRAINER)
    with InProcessGrid(below, len(TASKS)) as grid:
        link = FlowerLink(grid, LinkLimits(wait_for=len(TASKS), poll_s=0.01))
        app = relay_app(lambda c: Normed(seed=0), link, quorum=len(TASKS))
        assert through_flower(app, 1, FedAvg(steps=2)) == flat(FedAvg(steps=2))


def test_peers_behind_a_link_that_do_not_answer_in_time_are_left_out():
    work = FedAvg(steps=2).work(FedAvg().init(START), "edge")
    speeds = {peer: 1.0 if i else 1000.0 for i, peer in enumerate(TASKS)}
    quick = Branch({p: TASKS[p] for p in TASKS if speeds[p] == 1.0})
    wanted = digest(Edge(TRAINER)(quick, work, "edge").payload)
    edge = LinkEdge(VirtualLink(TRAINER, TASKS, speeds), quorum=4, patience_s=60.0)
    assert digest(edge(None, work, "edge").payload) == wanted
    edge = LinkEdge(VirtualLink(TRAINER, TASKS, speeds), quorum=5, patience_s=60.0)
    with pytest.raises(PeerLostError, match="edge: 4 of 5 good answers"):
        edge(None, work, "edge")


def test_an_answer_that_comes_too_late_is_not_taken_for_a_later_one(caplog):
    """It is due after 61 s: the edge waits 60 s, and its next round lasts 2 s."""
    strategy = FedAvg(steps=2)
    speeds = {peer: 1.0 if i else 30.5 for i, peer in enumerate(TASKS)}
    quick = Branch({p: TASKS[p] for p in TASKS if speeds[p] == 1.0})
    edge = LinkEdge(VirtualLink(TRAINER, TASKS, speeds), patience_s=60.0)
    state = strategy.init(START)
    for _ in range(2):
        work = strategy.work(state, "edge")
        update = edge(None, work, "edge")
        wanted = Edge(TRAINER)(quick, work, "edge")
        assert digest(update.payload) == digest(wanted.payload)
        state = strategy.apply(state, [update])
    assert f"refused {peer_name(0)}: {peer_name(0)} was not asked" in caplog.text


def test_peers_go_where_there_is_room_and_no_edge_stands_for_nobody():
    found = branches_of(TASKS, {"small": 50.0, "large": 1000.0})
    assert {edge: sorted(b.tasks) for edge, b in found.items()} == {
        "large": [peer_name(i) for i in (0, 1, 2, 3)],
        "small": [peer_name(4)],
    }
    assert branches_of(TASKS, {"a": 1000.0, "b": 1000.0}).keys() == {"a"}


@pytest.mark.parametrize(
    "wrong", [{"quorum": 0}, {"gather_s": 0.0}, {"patience_s": float("nan")}]
)
def test_an_edge_with_impossible_numbers_is_refused(wrong):
    with pytest.raises(ConfigError, match="quorum >= 1"):
        LinkEdge(VirtualLink(TRAINER, TASKS), **wrong)
