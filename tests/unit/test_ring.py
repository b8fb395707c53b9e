import math

import pytest
import torch

from fedcore.errors import ProtocolError
from fedcore.ring import BLOCK, LIMIT, ONE, add_encoded, decode, encode, reach


def test_numbers_become_multiples_of_2_to_the_minus_32():
    got = encode(torch.tensor([0.0, 1.0, -0.5, 2.0**-32, 2.0**-33, 3 * 2.0**-33]))
    # ties go to even: half a unit to 0, three halves to 2
    assert got.tolist() == [0, ONE, -ONE // 2, 1, 0, 2]


def test_the_weight_multiplies():
    assert encode(torch.tensor([1.5, -0.25]), 6).tolist() == [9 * ONE, -3 * ONE // 2]
    assert decode(torch.tensor([9 * ONE]), 6).tolist() == [1.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_exact(dtype):
    x = torch.tensor([0.1, -3.0, 1e-4], dtype=dtype)
    want = [round(v * 7 * ONE) for v in x.double().tolist()]
    assert encode(x, 7).tolist() == want


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, LIMIT, -LIMIT, 3e38])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(ProtocolError, match="weight 1"):
        encode(torch.tensor([0.0, value]))


def test_the_weight_counts_against_the_range():
    just = torch.tensor([LIMIT / 4 - 64])
    assert decode(encode(just, 4), 4).tolist() == just.tolist()
    with pytest.raises(ProtocolError, match="weight 5"):
        encode(just, 5)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 1), (3, 4)])
def test_any_shape(shape):
    x = torch.ones(shape)
    assert torch.equal(decode(encode(x)), x.double())


def test_blocks_and_strides_do_not_show():
    x = torch.arange(2.0 * BLOCK + 6).reshape(2, BLOCK + 3)
    whole = encode(x.t(), 3)
    assert torch.equal(whole, (x.t().double() * 3 * ONE).to(torch.int64))
    assert torch.equal(decode(whole, 3, torch.float32), x.t())


def test_adding_in_place_is_adding_the_encoding():
    x = torch.linspace(-2, 2, 11)
    total = torch.arange(11)
    add_encoded(total, x, 3)
    assert torch.equal(total, torch.arange(11) + encode(x, 3))


def test_reach_bounds_the_encoding():
    x = torch.tensor([0.3, -0.7])
    top = int(encode(x, 9).abs().max())
    assert top <= reach(x, 9) <= top + 2
    assert reach(torch.empty(0)) == 0
