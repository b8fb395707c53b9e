"""What ordinary training adds along shared directions."""

import pytest
import torch

from clients.trainers.along import along
from fedcore.errors import ConfigError, ProtocolError
from fedcore.pool import Pool, expand


def moved(pool, change, scale=-0.01, share=1.0):
    zero = {"w": torch.zeros_like(change)}
    line = along(pool, {"w": change}, scale, share).unsqueeze(0)
    return expand(pool, line, scale, zero)["w"]


def drawn(numel):
    return torch.randn(numel, generator=torch.Generator().manual_seed(7))


def test_enough_directions_tell_the_whole_change():
    change = drawn(256)
    assert torch.allclose(moved(Pool(256), change), change, atol=1e-6)


def test_few_directions_tell_a_shadow_of_the_same_length():
    change = drawn(1 << 15)
    shadow = moved(Pool(1024), change)
    length = float(shadow.norm())
    assert length == pytest.approx(float(change.norm()), rel=0.1)
    cosine = float(shadow @ change) / (length * float(change.norm()))
    assert cosine == pytest.approx((1024 / (1 << 15)) ** 0.5, rel=0.2)


def test_peers_that_add_at_once_share():
    change = drawn(256)
    third = moved(Pool(256), change, share=1 / 3)
    assert torch.allclose(3 * third, change, atol=1e-6)


def test_the_step_of_the_run_does_not_matter():
    change = drawn(300)
    small, large = (moved(Pool(64), change, scale) for scale in (-1e-4, 2.0))
    assert torch.allclose(small, large, atol=1e-5)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ProtocolError):
        along(Pool(64), {"w": torch.full((64,), torch.nan)}, 1.0)
    with pytest.raises(ConfigError, match="too small"):
        along(Pool(64), {"w": torch.ones(64)}, 1e-12)
