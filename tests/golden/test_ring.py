"""Bits that peers on other machines must also get. Change them only with a version."""

import torch

from fedcore.params import digest
from fedcore.partial import mean_of, merged
from fedcore.ring import encode
from fedcore.seeds import words
from fedcore.strategy import Update


def noise(*path):
    """Return 1000 float32 numbers in [-1, 1) made of whole Philox words."""
    top = torch.from_numpy((words(1000, *path) >> 40).astype("int64"))
    return top.double().div_(2**23).sub_(1).float()


def test_encoding_is_fixed():
    x = torch.tensor([0.1, -0.1, 1 / 3, 1e-10, 12345.678])
    assert encode(x, 60).tolist() == GOLDEN_SUMS


def test_sums_and_means_are_fixed():
    updates = [Update(f"p{i}", 0, {"w": noise("ring", i)}, 7 * i + 1) for i in range(5)]
    assert digest(merged(updates).payload) == GOLDEN_TOTAL
    assert digest(mean_of(updates)) == GOLDEN_MEAN


GOLDEN_SUMS = [25769804160, -25769804160, 85899348480, 26, 3181456926965760]
GOLDEN_TOTAL = "92c52e4cf1447157929f5179430449864a8b7898bd4ff4f74d75d9efc5e61e4b"
GOLDEN_MEAN = "697dc15655639467b069faa92b9cabc29cd7c6a412d2d2cca4880e1c32fae164"
