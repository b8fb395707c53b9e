"""Bits of sketches, cosines and temperatures that peers on other machines must get."""

import numpy as np
import torch

from fedcore.params import digest
from fedcore.seeds import words
from strategies.clustered.angles import Angles
from strategies.clustered.sketch import sketches


def tree(index):
    """Return 5000 float32 numbers in [-1, 1), multiples of 2^-23."""
    raw = (words(5000, "golden sketch", index) >> np.uint64(40)).astype(np.float32)
    numbers = torch.from_numpy(raw / np.float32(2**23) - 1)
    return {"fc.weight": numbers[:4900].view(70, 70), "fc.bias": numbers[4900:]}


def test_sketches_cosines_and_temperature_are_fixed():
    drawn = sketches([tree(index) for index in range(3)], 256, seed=7)
    angles = Angles.of(drawn)
    assert digest({str(i): t for i, t in enumerate(drawn)}) == SKETCHES
    assert digest({"cosines": angles.similarity}) == COSINES
    assert angles.temperature().hex() == "0x1.e19f9147faac0p-2"


SKETCHES = "ff6416ad0d43e02a79b24921e9d4dc7cba162ef00485c581f6f9c518da84de00"
COSINES = "33ee9288479cc7f2c28e36969fccf65d18d1e7ce18143715d822b390eda2654d"
