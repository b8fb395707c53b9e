import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.params import digest, norm
from fedcore.rounds import run_rounds
from sims.line import Line
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx


def test_without_pull_it_is_fedavg_bit_for_bit(start, tasks):
    prox = run_rounds(FedProx(mu=0.0, steps=4), SGD(lr=0.05), tasks, start, 3)
    plain = run_rounds(FedAvg(steps=4), SGD(lr=0.05), tasks, start, 3)
    assert digest(prox.params) == digest(plain.params)


def test_two_steps_with_pull_by_hand(start):
    """w1 = -lr g(0); w2 = w1 - lr (g(w1) + mu w1), since the round began at 0."""
    task, lr, mu = Line(seed=1), 0.1, 0.5
    got = run_rounds(FedProx(mu=mu, steps=2), SGD(lr=lr), {"a": task}, start, 1)

    x, y = next(task.batches(0))

    def gradient(w):
        return 2 / len(x) * (x @ w.T - y).T @ x

    w1 = -lr * gradient(start["weight"])
    w2 = w1 - lr * (gradient(w1) + mu * w1)
    torch.testing.assert_close(got.params["weight"], w2, rtol=1e-5, atol=1e-6)


def test_a_stronger_pull_keeps_peers_nearer(start):
    moves = [
        norm(run_rounds(FedProx(mu=mu, steps=20), SGD(lr=0.05), TASK, start, 1).params)
        for mu in (0.0, 1.0, 10.0)
    ]
    assert moves[0] > moves[1] > moves[2] > 0


TASK = {"a": Line(seed=3)}


@pytest.mark.parametrize("mu", [-1.0, float("nan"), float("inf")])
def test_impossible_pull_is_refused(mu):
    with pytest.raises(ConfigError, match="mu"):
        FedProx(mu=mu)
