"""Bytes of facts and models that programs of other versions must read and count."""

import hashlib

import torch

from fedcore.orderfree import (
    Origin,
    Withdrawal,
    apply,
    begin,
    decode_fact,
    encode_fact,
    encode_total,
    fact_of,
    hash_of,
    read_snapshot,
    rebase,
    snapshot,
    withdraw,
)
from fedcore.params import digest
from fedcore.pool import Pool

BASE = {"w": torch.arange(24.0).reshape(4, 6) / 8}
ORIGIN = Origin(Pool(16, "hadamard", "tile", 7), digest(BASE), -0.25)


def model():
    """Return a model with a closed epoch, two peers and one that is out."""
    made = begin(ORIGIN)
    for peer, factor in (("anna", 2**31), ("änne", -3)):
        made = apply(made, fact_of(made, peer, torch.arange(16) * factor))
    made = withdraw(rebase(made, made.vector()), "cleo")
    line = torch.zeros(16, dtype=torch.int64)
    line[[2, 9]] = torch.tensor([2**33, -(2**32)])
    for peer in ("anna", "ben"):
        made = apply(made, fact_of(made, peer, line))
    return made


def test_a_fact_and_a_withdrawal_are_fixed():
    fact = fact_of(model(), "ben", -torch.arange(16))
    assert encode_fact(fact).hex() == GOLDEN_FACT
    assert encode_fact(decode_fact(bytes.fromhex(GOLDEN_FACT))) == encode_fact(fact)
    assert encode_fact(Withdrawal(ORIGIN, "ben")).hex() == GOLDEN_WITHDRAWAL


def test_a_snapshot_and_a_total_are_fixed():
    assert hash_of(model()) == GOLDEN_SNAPSHOT
    assert snapshot(read_snapshot(snapshot(model()))) == snapshot(model())
    assert hashlib.sha256(encode_total(model())).hexdigest() == GOLDEN_TOTAL


def test_the_weights_are_fixed():
    assert digest(model().weights(BASE)) == GOLDEN_WEIGHTS


GOLDEN_FACT = (
    "464f460112686164616d6172643a74696c653a31363a379f0f99b8c904a46eeb8ca98651"
    "92d6c96f155631de088e8775ba7d0bb90a7ab8000000000000d0bf010362656e02014573"
    "b1e33308ee50af898a88840a214066190626f7f453376abdff56c80d9b0ffeff01fffefd"
    "fcfbfaf9f8f7f6f5f4f3f2f1"
)
GOLDEN_WITHDRAWAL = (
    "464f570112686164616d6172643a74696c653a31363a379f0f99b8c904a46eeb8ca98651"
    "92d6c96f155631de088e8775ba7d0bb90a7ab8000000000000d0bf0362656e"
)
GOLDEN_SNAPSHOT = "f5751582ed758f763715b22b3acffc0ef0bb4e650970a7f3c3cbff799981b15f"
GOLDEN_TOTAL = "ef2165b85398c8716a36a5626990658a3eaa8a31fdb6bc6ba5f840ed00925ef7"
GOLDEN_WEIGHTS = "4e32013d10d4ad2f5f4024e1200ff6cc2a890267f22be8b1863467f7cb8acac4"
