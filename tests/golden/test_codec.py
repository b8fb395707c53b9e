"""Bytes that programs of other versions must read. Change them only with ``LAYOUT``."""

import hashlib

import torch

from fedcore.codec import decode_updates, decode_work, encode_updates, encode_work
from fedcore.forms import DTYPES
from fedcore.strategy import Update, Work, peer_name


def test_a_batch_of_scalars_is_fixed():
    updates = [
        Update(peer_name(i), 17, {"slope": torch.tensor(i - 5, dtype=torch.int8)}, 600)
        for i in (1, 4, 9)
    ]
    assert encode_updates(updates).hex() == GOLDEN_BATCH
    assert decode_updates(bytes.fromhex(GOLDEN_BATCH)) == updates


def test_all_features_together_are_fixed():
    every = {str(dtype): torch.arange(3).remainder(2).to(dtype) for dtype in DTYPES}
    updates = [
        Update("anna", 3, every, 5, {"loss": 0.5, "steps": 4.0}),
        Update("ben", 2, {"w": torch.zeros(2, 0)}, 2**40),
        Update("änne", 3, every, 7, {"loss": -0.25, "steps": 4.0}),
    ]
    data = encode_updates(updates)
    assert hashlib.sha256(data).hexdigest() == GOLDEN_UPDATES
    assert encode_updates(decode_updates(data)) == data


def test_a_work_is_fixed():
    aux, hints = {"c": torch.tensor(0.5)}, {"mu": 0.1, "cluster": 2, "kind": "a"}
    work = Work(4, {"w": torch.ones(2), "b": torch.zeros(())}, 3, 1, aux, hints)
    assert encode_work(work).hex() == GOLDEN_WORK
    assert encode_work(decode_work(bytes.fromhex(GOLDEN_WORK))).hex() == GOLDEN_WORK


GOLDEN_BATCH = (
    "464355012b766736030105706565722d060102060a00220000b009000100000101000005"
    "736c6f70650400fcff04"
)
GOLDEN_UPDATES = "0e3d609f1e13497947314379c9309f665b0407906cc0e48deed6b860abc985c1"
GOLDEN_WORK = (
    "46435701f2ab64b308060203000007636c757374657200046b696e6400026d7500040201"
    "61019a9999999999b93f0200000162000177000000010201000001630000000000000000"
    "803f0000803f0000003f"
)
