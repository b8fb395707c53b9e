"""Sizes that every machine must read alike. They are the protocol."""

import hashlib

import torch

from fedcore.onebyte import decode, draws, encode

EVERY = torch.arange(256).to(torch.uint8)
GOLDEN_SIZES = {
    2.0**-16: "78170092fab9c43e992e47a2e6ab2254caf7f14bad3c350fdd84a69daff2df0f",
    2.0**-3: "32da4b73953c09642cf65f4f6ce22c05ff254727a4e80336f2e5ed258d5b6f2a",
    1.0: "8b36a54bb6c12ca2fb906d7d0398f429aebb123b0ea1c3a26980545f2f0787f4",
    2.0**19: "f3c57b1c4ca09792dd2371409e77b209b701820e639581b3240d5ea58784159c",
}
GOLDEN_CODES = "eae9e6e5e3e1dddbd8d5d1ccc6bfb4a20022343e464c5055585b5e6062646668"


def test_the_sizes_are_fixed():
    found = {sigma: sha(decode(EVERY, sigma).numpy()) for sigma in GOLDEN_SIZES}
    assert found == GOLDEN_SIZES


def test_codes_of_named_draws_are_fixed():
    values = torch.arange(-16, 16).double() ** 3 / 64
    coded = encode(values, 0.5, draws(32, "golden", 1))
    assert bytes(coded.codes.tolist()).hex() == GOLDEN_CODES


def sha(line):
    return hashlib.sha256(line.astype("<i8").tobytes()).hexdigest()
