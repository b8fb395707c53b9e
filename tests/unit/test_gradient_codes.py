"""Codes decode exactly, by count or by group, and say so when they cannot."""

from itertools import combinations

import numpy as np
import pytest

from fedcore.errors import ConfigError, QuorumError
from strategies.coding.codes import bits, code_of, weights
from strategies.coding.machine import mask_of

KINDS = ("grouped", "cyclic", "random")


def without(workers, away):
    return (1 << workers) - 1 & ~mask_of(away)


@pytest.mark.parametrize(
    ("kind", "n"),
    [(kind, n) for kind in KINDS for n in range(1, 6 if kind == "random" else 9)],
)
def test_every_pattern_of_at_most_s_stragglers_decodes_to_the_sum(kind, n):
    g = np.linspace(-1.0, 2.0, 3 * n).reshape(n, 3) ** 3  # any gradients of n chunks
    for s in range(n):
        code = code_of(n, s, kind)
        assert (np.count_nonzero(code.matrix, axis=1) <= s + 1).all()
        for away in (a for k in range(s + 1) for a in combinations(range(n), k)):
            a = weights(code, without(n, away))
            assert all(a[i] == 0 for i in away)
            assert np.abs(a @ (code.matrix @ g) - g.sum(0)).max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_is_refused_with_what_to_do(kind):
    code = code_of(7, 2, kind)
    with pytest.raises(QuorumError, match=r"4 of 7 workers .* raise strategy.stragg"):
        weights(code, without(7, (0, 1, 2)))


def test_where_groups_divide_it_is_repetition():
    assert code_of(6, 2).matrix.tolist() == np.kron(np.eye(2), np.ones((3, 3))).tolist()


def test_cyclic_rows_by_hand():
    """n = 4, s = 1: zeros of x^4 = 1 around -1 give g = x + 1; rows three apart."""
    g = [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]]
    assert code_of(4, 1, "cyclic").matrix.tolist() == g


def test_groups_forgive_more_than_s_if_they_fall_apart():
    code = code_of(6, 1)
    lucky, unlucky = without(6, (0, 2, 4)), without(6, (0, 1))
    assert code.covers(lucky)
    assert weights(code, lucky).tolist() == [0, 1, 0, 1, 0, 1]
    assert not code.covers(unlucky)
    assert not code_of(6, 1, "cyclic").covers(lucky)


@pytest.mark.parametrize(("n", "s"), [(7, 2), (6, 1), (8, 5), (5, 0)])
def test_what_is_wanting_is_least_and_enough(n, s):
    code = code_of(n, s)
    for present in range(1 << n):
        more = code.wanting(present)
        assert more & present == 0
        assert code.covers(present | more)
        for i in bits(more):
            assert not code.covers((present | more) & ~(1 << i))


@pytest.mark.parametrize(("n", "s"), [(64, 7), (64, 16), (100, 13)])
def test_groups_lose_no_digits_where_others_do(n, s):
    """How far the weights of a random code blow up rounding errors of answers."""
    burst = without(n, range(s))

    def growth(kind):
        code = code_of(n, s, kind)
        return np.abs(weights(code, burst)[:, None] * code.matrix).sum(0).max()

    assert growth("grouped") < 10
    assert growth("random") > 100 * growth("grouped")


def test_where_n_minus_s_is_even_signs_turn_and_columns_are_scaled():
    """n = 3, s = 1: zeros of x^3 = -1 give x + 1; half a wave is (1, 2, 1) / 2."""
    rows = [[1, 0.5, 0], [0, 0.5, 1], [-1, 0, 1]]
    assert code_of(3, 1, "cyclic").matrix == pytest.approx(np.array(rows), abs=1e-12)


def test_long_generators_come_from_division():
    """n = 7, s = 4: (x^7 - 1) over (x - 1)(x^2 - 2 cos(2 pi / 7) x + 1)."""
    row = code_of(7, 4, "cyclic").matrix[0]
    c = 1 + 2 * np.cos(2 * np.pi / 7)
    g = np.array([1, c, c * c - c, c, 1])
    assert row[:5] == pytest.approx(g / g.max(), abs=1e-12)


@pytest.mark.parametrize(("n", "s"), [(4, 4), (3, -1), (2, 5)])
def test_impossible_codes_are_refused(n, s):
    with pytest.raises(ConfigError, match="so that somebody answers"):
        code_of(n, s)
