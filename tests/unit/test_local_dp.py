from dataclasses import replace
from math import inf, isnan, log, sqrt

import numpy as np
import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.params import norm, sub
from fedcore.seeds import words
from fedcore.strategy import Update, Work
from fedcore.task import params_of
from privacy.local import LocalGaussian, normals, round_epsilon
from sims.line import Line
from strategies.coding.gradient_coding import GradientCoding
from strategies.coding.sequential import MSGC, SRSGC
from tests.cases import Copied

WORK = Work(3, {"weight": torch.zeros(1, 4)}, steps=5)


def gives(value, metrics=None):
    """Return a trainer that always answers ``value``."""

    def trainer(task, work, peer):
        payload = {"w": torch.tensor(value)}
        return Update(peer, work.version, payload, 7, metrics or {})

    return trainer


def ask(trainer, peer="peer0"):
    return trainer(Line(seed=0), WORK, peer)


def test_a_long_difference_is_scaled_to_the_bound():
    got = ask(LocalGaussian(gives([3.0, 4.0]), bound=1.0, noise_multiplier=0.0))
    torch.testing.assert_close(got.payload["w"], torch.tensor([0.6, 0.8]))


def test_a_short_difference_is_left_alone():
    got = ask(LocalGaussian(gives([0.3, 0.4]), bound=1.0, noise_multiplier=0.0))
    assert torch.equal(got.payload["w"], torch.tensor([0.3, 0.4]))
    still = ask(LocalGaussian(gives([0.0]), bound=1.0, noise_multiplier=0.0))
    assert still.payload["w"].item() == 0.0


@pytest.mark.parametrize("bad", [float("nan"), inf])
def test_a_training_that_blew_up_does_not_show(bad):
    got = ask(LocalGaussian(gives([bad, 1.0]), bound=1.0, noise_multiplier=0.0))
    assert got.payload["w"].tolist() == [0.0, 0.0]


def test_figures_without_noise_stay_at_home():
    trainer = gives([0.0], {"loss": 0.5, "accuracy": 0.9, "steps": 5.0})
    got = ask(LocalGaussian(trainer, bound=1.0, noise_multiplier=1.0))
    assert dict(got.metrics) == {"steps": 5.0}
    assert got.examples == 7


def test_noise_has_the_stated_size_and_does_not_follow_the_value():
    trainer = LocalGaussian(gives([0.0] * 40_000), 2.0, noise_multiplier=1.5, seed=1)
    noise = ask(trainer).payload["w"].double()
    assert noise.mean().abs() < 4 * 3.0 / sqrt(40_000)
    assert noise.std().item() == pytest.approx(3.0, rel=0.02)


def test_a_seed_repeats_and_names_make_the_noise_differ():
    def noise(seed, peer="peer0"):
        return ask(LocalGaussian(gives([0.0] * 8), 1.0, 1.0, seed), peer).payload["w"]

    assert torch.equal(noise(1), noise(1))
    assert not torch.equal(noise(1), noise(2))
    assert not torch.equal(noise(1), noise(1, "peer1"))


def test_a_second_answer_to_one_version_has_noise_of_its_own():
    """The same noise twice would not average out, and the difference would be bare."""
    trainer = LocalGaussian(gives([0.0] * 8), 1.0, 1.0, seed=1)
    works = [WORK, *(replace(WORK, hints={"turn": turn}) for turn in (1, 2))]
    first, second, third = (
        trainer(Line(seed=0), work, "a").payload["w"] for work in works
    )
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_without_a_seed_noise_never_repeats():
    trainer = LocalGaussian(gives([0.0] * 8), 1.0, 1.0)
    assert not torch.equal(ask(trainer).payload["w"], ask(trainer).payload["w"])


def test_wraps_a_real_trainer_and_keeps_shapes_and_types():
    plain, bound = ask(SGD(lr=0.1)), 0.25
    got = ask(LocalGaussian(SGD(lr=0.1), bound, noise_multiplier=0.01, seed=0))
    assert got.payload["weight"].shape == (1, 4)
    assert got.payload["weight"].dtype == torch.float32
    clipped = {"weight": plain.payload["weight"] * bound / norm(plain.payload)}
    assert 0 < norm(sub(got.payload, clipped)) < 0.01 * bound * 10


def test_normals_by_hand():
    """Box and Muller of u = (2^52 + 0.5) / 2^53 (radius) and the same (angle)."""
    raw = np.array([1 << 63, 1 << 63], dtype=np.uint64)
    radius = sqrt(2 * log(2))
    np.testing.assert_allclose(normals(raw), [-radius, 0.0], atol=1e-12)


def test_normals_are_bounded_at_the_edges_of_the_words():
    raw = np.array([0, 2**64 - 1, 0, 2**64 - 1], dtype=np.uint64)
    got = normals(raw)
    assert np.isfinite(got).all()
    assert np.abs(got).max() < 8.7


def test_normals_follow_the_normal_distribution():
    z = np.sort(normals(words(20_000, "normals", 0)))
    for bound, share in ((-1.0, 0.158655), (0.0, 0.5), (1.96, 0.975002)):
        assert np.mean(z < bound) == pytest.approx(share, abs=4 * 0.5 / sqrt(20_000))


@pytest.mark.parametrize(
    ("noise_multiplier", "delta", "epsilon"),
    # independent: theorem 8 in 50-digit arithmetic by mpmath
    [(2.0, 1e-5, 4.377178), (10.0, 1e-5, 0.7255218), (20.0, 1e-6, 0.3968574)],
)
def test_epsilon_of_one_round(noise_multiplier, delta, epsilon):
    assert round_epsilon(noise_multiplier, delta) == pytest.approx(epsilon, rel=1e-6)


def test_epsilon_at_the_edges():
    assert round_epsilon(0.0, 1e-5) == inf
    assert round_epsilon(1e6, 1e-5) == 0.0  # so much noise that delta alone covers it
    tiny = round_epsilon(0.01, 1e-5)  # exponentials overflow here
    assert 200**2 / 2 < tiny < 200**2
    assert not isnan(tiny)


@pytest.mark.parametrize(
    "settings",
    [
        {"bound": 0.0, "noise_multiplier": 1.0},
        {"bound": float("nan"), "noise_multiplier": 1.0},
        {"bound": 1.0, "noise_multiplier": -1.0},
        {"bound": 1.0, "noise_multiplier": inf},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=r"bound|noise_multiplier"):
        LocalGaussian(SGD(), **settings)


def test_impossible_delta_is_refused():
    with pytest.raises(ConfigError, match="delta"):
        round_epsilon(1.0, 0.0)


@pytest.mark.parametrize("noise_multiplier", [-1.0, float("nan")])
def test_noise_that_is_none_never_looks_private(noise_multiplier):
    with pytest.raises(ConfigError, match="noise_multiplier"):
        round_epsilon(noise_multiplier, 1e-5)


def test_answers_that_are_not_real_numbers_are_refused():
    trainer = gives([1, 2])
    with pytest.raises(ConfigError, match="real numbers"):
        ask(LocalGaussian(trainer, 1.0, 1.0))


@pytest.mark.parametrize("rules", [GradientCoding(), SRSGC(), MSGC()])
def test_work_on_copies_of_others_examples_is_refused(rules):
    """Wherever the wrapper is: on a real peer nobody has seen both configurations."""
    task = Copied(0)
    work = rules.work(rules.init(params_of(task.model())), "a")
    with pytest.raises(ConfigError, match=r"a is to compute on copies .* trusted"):
        LocalGaussian(SGD(), bound=1.0, noise_multiplier=1.0)(task, work, "a")
