"""FedLD: the short form of its projection equals the released one; its term by hand."""

from dataclasses import dataclass
from math import log

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from clients.tasks import load_task
from clients.trainers.margin import Margined
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work
from fedcore.task import load, params_of
from sims.data.federate import federate
from sims.data.partition import IID
from sims.line import Line
from strategies.fedavg import FedAvg, Model
from strategies.fedld import FedLD
from tests.cases import Classed


def rows(m, d, seed=0, shared=0.0):
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(1, d, generator=g)
    return torch.randn(m, d, generator=g) + shared * common


def folded(rules, grads, version=1):
    """Return how far ``grads`` (m, d) move a weight, after the first round."""
    state = Model(version, {"w": torch.zeros(grads.shape[1])})
    updates = [Update(f"p{i}", version, {"w": g}, i + 1) for i, g in enumerate(grads)]
    return rules.apply(state, updates).params["w"]


def released(grads, share, calibrated):
    """The projection as the authors' program does it, one peer and direction a time."""
    g = grads.double()
    m = len(g)
    _, sigma, e = torch.linalg.svd(g @ g.T / m)
    w = (g.T @ e.T).T[: int(share * m)]
    if calibrated:
        against = (g @ w.T < 0).sum(0) > m / 2
        w = torch.where(against[:, None], -w, w)
    total = torch.zeros(g.shape[1], dtype=torch.float64)
    for g_i in g:
        for s_j, w_j in zip(sigma, w, strict=False):
            part = (g_i @ w_j) / (w_j @ w_j) * w_j
            total += part * s_j / sigma.sum() * g_i.norm() / part.norm()
    return (total / m).float()


@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "calibrated"])
@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize(("m", "share"), [(2, 1.0), (5, 0.8), (10, 0.8), (10, 0.3)])
def test_equals_the_released_projection_calibrated_or_not(m, share, shared, calibrated):
    grads = rows(m, 40, seed=m, shared=shared)
    want = released(grads, share, calibrated)
    got = folded(FedLD(directions=share), grads)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_two_peers_by_hand():
    """Rows (3, 0) and (1, 0): one direction, so each keeps its length and sign."""
    grads = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    # e_1 is (3, -1) / √10 and w_1 points along +x; the signs are those of the rows.
    got = folded(FedLD(directions=1.0), grads)
    torch.testing.assert_close(got, torch.tensor([1.0, 0.0]))


def test_one_peer_moves_the_model_by_its_own_difference():
    """The program takes int(0.8 * 1) = 0 directions, and stands still."""
    grads = rows(1, 7)
    torch.testing.assert_close(folded(FedLD(), grads), grads[0])


def test_peers_that_agree_move_it_by_their_mean():
    grads = rows(1, 7).repeat(4, 1)
    torch.testing.assert_close(folded(FedLD(), grads), grads[0])


def test_nothing_moves_nothing():
    assert folded(FedLD(rescale=True), torch.zeros(3, 4)).tolist() == [0.0] * 4


def test_shorter_than_the_mean_where_peers_differ_unless_rescaled():
    grads = rows(10, 400)
    length = grads.mean(0).norm()
    assert folded(FedLD(), grads).norm() < 0.6 * length
    again = folded(FedLD(rescale=True), grads)
    torch.testing.assert_close(again.norm(), length, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("rules", "version"), [(FedLD(), 0), (FedLD(directions=0.0), 5)]
)
def test_plain_mean_in_the_first_round_and_without_directions(rules, version):
    """Of all peers alike, whatever their examples."""
    grads = rows(5, 7)
    got = folded(rules, grads, version)
    torch.testing.assert_close(got, grads.mean(0), atol=1e-6, rtol=1e-5)


def test_single_numbers_and_running_statistics_are_averaged():
    names = {"one": 1, "norm.running_var": 4}
    state = Model(3, {name: torch.zeros(n) for name, n in names.items()})
    trees = [{name: v * torch.ones(n) for name, n in names.items()} for v in (1.0, 4.0)]
    updates = [Update(f"p{i}", 3, tree, 1) for i, tree in enumerate(trees)]
    got = FedLD().apply(state, updates).params
    assert got["one"].tolist() == [2.5]
    assert got["norm.running_var"].tolist() == [2.5] * 4


def test_the_term_by_hand():
    """Scores 0, 0 for n = 3 rows: shares of 1/2, so |shares|² = 3 / 2."""
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    class Pair(Classed):
        def loss(self, model, batch):
            return cross_entropy(model(batch[0]), batch[1])

    batch = torch.ones(3, 2), torch.tensor([0, 1, 1])
    loss = Margined(Pair(0), 0.5).loss(model, batch)
    assert loss.item() == pytest.approx(log(2) + 0.5 * log(1 + 3 / 2))
    assert not model._forward_hooks


def test_the_term_holds_confidence_down():
    task = Classed(0)
    x, _ = next(task.batches(0))
    start = {k: torch.ones_like(t) for k, t in params_of(task.model()).items()}
    start["3.weight"] = start["0.weight"] = torch.linspace(-1, 1, 15).view(3, 5)
    start["0.weight"] = start["0.weight"].T

    def confidence(weight):
        rules = FedLD(margin=weight)
        state = run_rounds(rules, SGD(lr=0.3), {"a": task}, start, rounds=10)
        scores = load(task.model().eval(), state.params)(x)
        return scores.softmax(1).square().sum().item()

    assert confidence(2.0) < 0.9 * confidence(0.0)


def test_without_term_and_directions_it_is_fedavg():
    tasks = {f"p{i}": Classed(i) for i in range(3)}
    start = params_of(Classed(0).model())
    got = run_rounds(FedLD(0.0, 0.0), SGD(), tasks, start, rounds=3).params
    want = run_rounds(FedAvg(), SGD(), tasks, start, rounds=3).params
    for name, t in want.items():
        torch.testing.assert_close(got[name], t, atol=1e-6, rtol=1e-5)


@dataclass(frozen=True)
class Smoothed(Classed):
    """Classification, but with labels smoothed."""

    def loss(self, model, batch):
        return cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)


@pytest.mark.parametrize("task", [Line(seed=0), Smoothed(0)], ids=["squares", "smooth"])
def test_other_losses_are_refused(task):
    work = FedLD(steps=1).work(Model(0, params_of(task.model())), "a")
    with pytest.raises(ConfigError, match=r"cross_entropy\(model\(x\), y\)"):
        SGD()(task, work, "a")


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much"])
def test_a_peer_refuses_an_impossible_weight(weight):
    task = Classed(0)
    hints = {"do": "margin", "margin": weight}
    work = Work(0, params_of(task.model()), 1, hints=hints)
    with pytest.raises(ProtocolError, match="hint margin"):
        SGD()(task, work, "a")


@pytest.mark.parametrize("wrong", [{"margin": -0.1}, {"directions": 1.1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FedLD(**wrong)


@pytest.mark.slow
def test_learns_digits():
    dataset = load_task("digits")
    tasks = federate(dataset, IID(), clients=4, seed=0)
    rules = FedLD(rescale=True)
    state = run_rounds(rules, SGD(lr=0.3), tasks, dataset.start(0), rounds=8)
    model = load(dataset.new_model(), state.params)
    assert dataset.whole().evaluate(model)["accuracy"] > 0.8
