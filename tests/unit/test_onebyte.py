import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError, ProtocolError
from fedcore.onebyte import TABLE, decode, draws, encode, sigma_near
from fedcore.ring import ONE

SIGMAS = st.integers(-16, 19).map(lambda power: 2.0**power)
EVERY = torch.arange(256).to(torch.uint8)
ZERO = torch.zeros(1, dtype=torch.float64)


def test_sizes_computed_by_hand():
    codes = torch.tensor([0, 64, 128 + 64, 70, 58, 127, 128], dtype=torch.uint8)
    real = decode(codes, 1.0).double() / ONE
    want = [0, 1, -1, 2, 0.5, 2**10.5, 0]
    assert torch.allclose(
        real, torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=0
    )


def test_the_table_is_the_formula_rounded():
    for m, size in enumerate(TABLE[1:], 1):
        low, high = Fraction(2 * size - 1, 2), Fraction(2 * size + 1, 2)
        assert low**6 < Fraction(2) ** (192 + m - 64) < high**6  # size^6, exactly


def test_between_two_sizes_the_draw_decides():
    one, next_one = TABLE[64] / ONE, TABLE[65] / ONE
    value = torch.tensor([one + 0.25 * (next_one - one)], dtype=torch.float64)
    below, above = (torch.tensor([d], dtype=torch.float64) for d in (0.249, 0.251))
    assert encode(value, 1.0, below).codes.tolist() == [65]
    assert encode(value, 1.0, above).codes.tolist() == [64]
    assert encode(-value, 1.0, below).codes.tolist() == [128 + 65]


def test_what_is_too_large_is_cut_and_counted():
    values = torch.tensor([1400.0, 1448.2, -1e30, 3.4e38])
    coded = encode(values, 1.0, torch.full((4,), 0.999, dtype=torch.float64))
    assert coded.codes.tolist() == [126, 127, 255, 127]
    assert coded.saturated == 3


def test_zeros_of_both_signs_are_one_byte():
    values = torch.tensor([0.0, -0.0, -1e-30])
    high = torch.full((3,), 0.999, dtype=torch.float64)
    assert encode(values, 1.0, high).codes.tolist() == [0, 0, 0]


def test_nothing_becomes_no_bytes():
    coded = encode(torch.empty(0), 1.0, torch.empty(0, dtype=torch.float64))
    assert (coded.codes.shape, coded.saturated) == ((0,), 0)
    assert decode(coded.codes, 1.0).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ProtocolError, match="NaN or infinite"):
        encode(torch.tensor([bad]), 1.0, ZERO)


@pytest.mark.parametrize("sigma", [0.0, -1.0, 3.0, math.nan, math.inf, 2.0**20, 2e-6])
def test_a_sigma_that_is_no_power_of_two_in_range_is_refused(sigma):
    with pytest.raises(ConfigError, match="power of two"):
        decode(EVERY, sigma)


def test_codes_of_another_type_are_refused():
    with pytest.raises(ProtocolError, match="not bytes"):
        decode(torch.tensor([1]), 1.0)


@pytest.mark.parametrize(
    ("size", "near"),
    [(1.0, 1.0), (1.4, 1.0), (1.42, 2.0), (0.3, 0.25), (1e9, 2.0**19), (1e-9, 2**-16)],
)
def test_the_nearest_sigma(size, near):
    assert sigma_near(size) == near


@settings(deadline=None, max_examples=20)
@given(SIGMAS)
def test_every_byte_decodes_and_comes_back(sigma):
    sizes = decode(EVERY, sigma)
    assert bool((sizes[1:128] > sizes[:127]).all())  # distinct, growing
    assert torch.equal(sizes[128:], -sizes[:128])
    draw = draws(256, "again", str(sigma))
    coded = encode(sizes.double() / ONE, sigma, draw)
    assert coded.codes.tolist() == [b if b != 128 else 0 for b in range(256)]
    assert coded.saturated == 0


@settings(deadline=None, max_examples=30)
@given(st.floats(-1400, 1400, width=32), SIGMAS)
def test_the_expectation_is_the_number(value, sigma):
    """Both neighbours, weighted by how many of 2^9 even draws choose each."""
    real = torch.tensor([value]).double() * sigma
    draw = (torch.arange(512).double() + 0.5) / 512
    coded = encode(real.expand(512), sigma, draw)
    got = decode(coded.codes, sigma)
    assert len(set(got.tolist())) <= 2
    mean = Fraction(sum(got.tolist()), 512)
    exact = Fraction(real.item()) * ONE
    gap = max(abs(exact) / 8, Fraction(sigma) * TABLE[1] + 1)  # between the neighbours
    assert abs(mean - exact) <= gap / 512 + 1


@settings(deadline=None, max_examples=60)
@given(st.floats(2**-10, 1448, width=32), st.floats(0, 1, exclude_max=True))
def test_the_error_is_below_an_eighth(value, draw):
    got = decode(encode(torch.tensor([value]), 1.0, torch.tensor([draw])).codes, 1.0)
    assert abs(got.item() / ONE - value) <= 0.1225 * value


def test_real_draws_are_right_on_average():
    value = torch.full((20_000,), -0.7)
    coded = encode(value, 1.0, draws(20_000, "mean"))
    mean = decode(coded.codes, 1.0).double().mean().item() / ONE
    assert abs(mean + 0.7) < 0.002  # 6 standard deviations of 0.043 / sqrt(20000)
