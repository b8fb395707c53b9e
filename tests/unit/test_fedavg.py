import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.rounds import run_rounds
from fedcore.strategy import Update
from strategies.fedavg import FedAvg


def update(peer: str, value: list[float], examples: int) -> Update:
    return Update(peer, 0, {"w": torch.tensor(value)}, examples)


def test_mean_is_weighted_by_examples():
    rules = FedAvg(server_lr=0.5)
    state = rules.init({"w": torch.tensor([1.0, 1.0])})
    updates = [update("a", [1.0, 0.0], 3), update("b", [-1.0, 4.0], 1)]
    after = rules.apply(state, updates)
    assert after.version == 1
    assert after.params["w"].tolist() == [1.25, 1.5]  # 1 + 0.5 * (2 / 4), 1 + 0.5 * 1


def test_one_peer_one_step_is_gradient_descent(start, tasks):
    task = tasks["peer0"]
    state = run_rounds(FedAvg(steps=1), SGD(lr=0.1), {"peer0": task}, start, rounds=1)

    w = torch.zeros(1, 4, requires_grad=True)
    x, y = next(task.batches(0))
    (x @ w.T - y).square().mean().backward()
    torch.testing.assert_close(state.params["weight"], -0.1 * w.grad)


def test_learns_the_line(start, tasks):
    state = run_rounds(FedAvg(steps=5), SGD(lr=0.1), tasks, start, rounds=30)
    torch.testing.assert_close(
        state.params["weight"], torch.tensor([[1.0, -2.0, 3.0, 0.5]]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"server_lr": 0.0}, "server_lr"),
        ({"server_lr": float("nan")}, "server_lr"),
        ({"server_lr": float("inf")}, "server_lr"),
        ({"steps": -1}, "steps"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, named):
    with pytest.raises(ConfigError, match=named):
        FedAvg(**settings)
