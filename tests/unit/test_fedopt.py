"""FedAvgM, FedAdagrad, FedAdam, FedYogi against numbers worked out by hand."""

from math import sqrt

import pytest
import torch

from fedcore.errors import ConfigError
from fedcore.strategy import Update
from strategies.fedavgm import FedAvgM
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi


def after(rules, deltas, start=1.0, name="w"):
    """Return the state after one round per number in ``deltas``."""
    state = rules.init({name: torch.tensor([start])})
    for version, delta in enumerate(deltas):
        state = rules.apply(
            state, [Update("a", version, {name: torch.tensor([delta])}, 1)]
        )
    return state


def close(got, want):
    torch.testing.assert_close(got, torch.tensor([want]), rtol=1e-5, atol=1e-7)


def test_fedavgm_keeps_a_velocity():
    state = after(FedAvgM(server_lr=0.5, beta=0.9), [1.0, 2.0])
    close(state.m["w"], 2.9)  # 0.9 * 1 + 2
    close(state.params["w"], 1 + 0.5 * 1 + 0.5 * 2.9)


def test_fedavgm_without_memory_is_fedavg():
    close(after(FedAvgM(beta=0.0), [1.0, 2.0]).params["w"], 4.0)


def test_fedadagrad():
    state = after(FedAdagrad(server_lr=0.1, tau=0.5), [1.0, 2.0])
    close(state.v["w"], 5.25)  # 0.25 + 1 + 4
    first, second = 0.1 * 1 / (sqrt(1.25) + 0.5), 0.1 * 2 / (sqrt(5.25) + 0.5)
    close(state.params["w"], 1 + first + second)


def test_fedadam():
    state = after(FedAdam(server_lr=0.1, tau=0.5), [1.0, 2.0])
    close(state.m["w"], 0.29)  # 0.9 * 0.1 + 0.1 * 2
    close(state.v["w"], 0.294925)  # 0.99 * (0.99 * 0.25 + 0.01) + 0.04
    first, second = 0.01 / (sqrt(0.2575) + 0.5), 0.029 / (sqrt(0.294925) + 0.5)
    close(state.params["w"], 1 + first + second)


def test_fedyogi_moves_v_by_a_share_of_each_square_only():
    rules = FedYogi(server_lr=0.1, tau=0.5)
    close(after(rules, [1.0]).v["w"], 0.26)  # below the square: + 0.01 * 1
    close(after(rules, [1.0, 0.0]).v["w"], 0.26)  # no square, no move; Adam: 0.2574
    close(after(rules, [0.4]).v["w"], 0.2484)  # above the square: - 0.01 * 0.16
    close(after(rules, [1.0]).params["w"], 1 + 0.00990099)  # 0.01 / (sqrt(0.26) + 0.5)


@pytest.mark.parametrize("rules", [FedAvgM(), FedAdagrad(), FedAdam(), FedYogi()])
def test_running_statistics_are_averaged_and_not_adapted(rules):
    state = after(rules, [-0.5, 0.25], name="norm.running_var")
    close(state.params["norm.running_var"], 0.75)


@pytest.mark.parametrize("rules", [FedAvgM(), FedAdagrad(), FedAdam(), FedYogi()])
def test_half_precision_models_keep_their_type_and_full_moments(rules):
    state = rules.init({"w": torch.ones(2, dtype=torch.bfloat16)})
    update = Update("a", 0, {"w": torch.ones(2, dtype=torch.bfloat16)}, 1)
    state = rules.apply(state, [update])
    assert state.params["w"].dtype == torch.bfloat16
    assert state.m["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "settings", "named"),
    [
        (FedAvgM, {"beta": 1.0}, "beta"),
        (FedAdam, {"beta1": -0.1}, "beta1"),
        (FedYogi, {"beta2": 1.0}, "beta2"),
        (FedAdagrad, {"tau": 0.0}, "tau"),
        (FedAdam, {"server_lr": -1.0}, "server_lr"),
        (FedYogi, {"epochs": 0}, "epochs"),
    ],
)
def test_impossible_settings_are_refused_by_name(make, settings, named):
    with pytest.raises(ConfigError, match=named):
        make(**settings)
