"""Sketches, cosines and the temperature, by hand and against their bounds."""

from fractions import Fraction
from math import cos, pi, sin, sqrt

import numpy as np
import pytest
import torch

from fedcore.seeds import words
from strategies.clustered.angles import GRAIN, Angles, nearest, unit
from strategies.clustered.sketch import BLOCK, sketches


def tree(seed, d, other=None, cosine=0.0):
    """Return {"w": (d,)} of length 1, at an angle to ``other`` if that is given."""
    w = torch.from_numpy(np.random.default_rng(seed).standard_normal(d))
    if other is not None:
        o = other["w"]
        w = w - (w @ o) * o
        w = cosine * o + sqrt(1 - cosine**2) * w / w.norm()
    return {"w": w / w.norm()}


def slowly(w, size, seed):
    """The sketch by its definition: block by block, one number after the other."""
    total = [0.0] * size
    for start in range(0, len(w), BLOCK):
        block, part = w[start : start + BLOCK], [0.0] * size
        drawn = words(len(block), "sketch", seed, "w", start)
        for x, word in zip(block, drawn.tolist(), strict=True):
            part[(word >> 1) % size] += -x if word & 1 else x
        total = [a + b for a, b in zip(total, part, strict=True)]
    return total


def test_a_sketch_is_its_definition():
    w = torch.from_numpy(np.random.default_rng(0).standard_normal(BLOCK + 100))
    [got] = sketches([{"w": w}], 16, seed=3)
    assert got.tolist() == slowly(w.tolist(), 16, 3)


def test_all_who_share_the_seed_make_the_same_one_alone_or_together():
    a, b = tree(1, 1000), tree(2, 1000)
    together = sketches([a, b], 64, seed=5)
    for t, whole in zip((a, b), together, strict=True):
        assert torch.equal(sketches([t], 64, seed=5)[0], whole)
        assert not torch.equal(sketches([t], 64, seed=6)[0], whole)


def test_what_fits_is_kept_whole_and_size_0_keeps_all():
    t = {"b": torch.tensor([3.0]), "a": torch.tensor([[1.0, 2.0]])}
    for size in (0, 3, 256):
        assert sketches([t], size, seed=0)[0].tolist() == [1.0, 2.0, 3.0]
    assert sketches([t], 2, seed=0)[0].shape == (2,)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9, -0.7])
def test_inner_products_are_kept_as_well_as_promised(cosine):
    """Mean x·y, variance at most (1 + (x·y)²) / size over the seeds."""
    size, seeds = 64, range(400)
    x = tree(1, 400)
    pair = [x, tree(2, 400, x, cosine)]
    found = np.array(
        [float(a @ b) for a, b in (sketches(pair, size, s) for s in seeds)]
    )
    bound = (1 + cosine**2) / size
    assert abs(found.mean() - cosine) < 4 * sqrt(bound / len(seeds))
    assert 0.5 * (1 - cosine**2) ** 2 / size < found.var() < 1.25 * bound


def test_256_numbers_know_a_cosine_to_a_sixteenth():
    x = tree(1, 2000)
    for cosine in (0.0, 0.8):
        pair = [x, tree(2, 2000, x, cosine)]
        errors = [
            float(Angles.of(sketches(pair, 256, s)).similarity[0, 1]) - cosine
            for s in range(50)
        ]
        assert np.sqrt(np.mean(np.square(errors))) < 1.5 * (1 - cosine**2) / 16


def test_running_statistics_have_no_direction():
    def update(weight):
        return {
            "w": torch.tensor([weight, weight]),
            "norm.running_var": torch.full((3,), 100.0),
        }

    angles = Angles.of(sketches([update(1.0), update(-1.0)], 256, seed=0))
    assert float(angles.similarity[0, 1]) == pytest.approx(-1.0, abs=1e-7)


def at(degrees):
    return torch.tensor([cos(pi * degrees / 180), sin(pi * degrees / 180)])


def test_temperature_of_two_is_half_their_distance():
    """|Γ| = sqrt(2) Γ_12, over sqrt(2 * 1 * 4)."""
    for degrees, heat in ((0, 0.0), (60, 0.25), (90, 0.5), (180, 1.0)):
        pair = Angles.of([at(0), 5 * at(degrees)])
        assert pair.temperature() == pytest.approx(heat, abs=1e-7)
    assert Angles.of([at(0)]).temperature() == 0.0


def test_temperature_of_three_by_hand():
    """Γ = 1, 2, 1 between 0°, 90°, 180°: sqrt(2 (1 + 4 + 1) / (3 * 2 * 4))."""
    angles = Angles.of([at(0), at(90), at(180)])
    assert angles.temperature() == pytest.approx(sqrt(0.5), abs=1e-7)


def test_no_direction_is_at_right_angles_to_all():
    angles = Angles.of([torch.zeros(2), at(0), at(180)])
    assert angles.similarity[0].tolist() == [1.0, 0.0, 0.0]
    assert nearest(torch.zeros(2), [at(0), at(180)]) == 0


def test_the_matrix_of_cosines_is_exact_whatever_the_order_of_sums():
    rows = [tree(seed, 256)["w"] for seed in range(4)]
    angles = Angles.of(rows)
    for i in range(4):
        for j in range(i):
            a, b = ([Fraction(x) for x in angles.units[k].tolist()] for k in (i, j))
            exact = sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))
            assert Fraction(float(angles.similarity[i, j])) == exact
    assert torch.equal(angles.units * GRAIN, (angles.units * GRAIN).round())


def test_a_direction_has_no_length():
    far = unit(1e100 * at(30).double())
    assert torch.allclose(far, at(30).double(), atol=1e-7)
