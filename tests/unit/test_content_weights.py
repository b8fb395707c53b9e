"""Models go through safetensors, and what is not a sound file is refused by reason."""

import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import ProtocolError, StorageError
from fedcore.params import digest
from p2p.content.adding import add_bytes
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace
from p2p.content.weights import check_start, get_params, put_params

PARAMS = {
    "body.w": torch.arange(200_000).float().reshape(400, 500),
    "body.b": torch.arange(7).to(torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "one": torch.tensor(1.5, dtype=torch.float64),
}


def file_of(header, body=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def tensor(dtype="F32", shape=(1,), span=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def test_a_model_comes_back_bit_for_bit_under_one_id():
    shelf = Shelf(MemorySpace())
    cid = put_params(shelf, PARAMS)
    turned = dict(reversed(PARAMS.items()))
    turned["body.w"] = PARAMS["body.w"].T.contiguous().T  # other strides, same numbers
    assert put_params(shelf, turned) == cid
    assert digest(get_params(shelf, cid)) == digest(PARAMS)
    assert shelf.blob(cid).kind == "safetensors"


def test_no_model_at_all_is_a_model():
    shelf = Shelf(MemorySpace())
    assert get_params(shelf, put_params(shelf, {})) == {}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no header"),
        (b"\xff" * 8, "a header of 18446744073709551615 bytes"),
        (struct.pack("<Q", 5 << 20) + bytes(6 << 20), "a header of 5242880 bytes"),
        (file_of(b"{"), "no JSON"),
        (file_of(b"[" * 100_000), "no JSON"),
        (file_of(b"[]"), "no table"),
        (file_of(b'{"a":1,"a":2}'), "a name twice"),
        (file_of({"a": tensor()}, bytes(5)), "4 bytes in 5"),
        (file_of({"a": tensor(), "b": tensor()}, bytes(4)), "overlap"),
        (file_of({"a": tensor(span=(4, 8))}, bytes(8)), "a gap"),
        (file_of({"a": tensor(shape=(2,))}, bytes(4)), "bytes of its shape"),
        (file_of({"a": tensor(shape=(-1,))}, bytes(4)), "cannot be"),
        (file_of({"a": tensor(shape=(1,) * 9)}, bytes(4)), "cannot be"),
        (file_of({"a": tensor(shape=(True,))}, bytes(4)), "cannot be"),
        (file_of({"a": tensor(dtype="PICKLE")}, bytes(4)), "bytes of its shape"),
        (file_of({"a": tensor(dtype=["F32"])}, bytes(4)), "bytes of its shape"),
        (file_of({"a": 7}, bytes(4)), "not described"),
        (file_of({"../a": tensor()}, bytes(4)), "the name"),
        (file_of({str(i): 0 for i in range(20_000)}), "20000 tensors"),
    ],
)
def test_what_is_no_sound_file_is_refused_by_reason(data, why):
    shelf = Shelf(MemorySpace())
    cid = add_bytes(shelf, data, "safetensors")
    with pytest.raises(ProtocolError, match=why):
        get_params(shelf, cid)


def test_other_kinds_large_models_and_damage_are_refused():
    shelf = Shelf(MemorySpace())
    with pytest.raises(ProtocolError, match="not a model"):
        get_params(shelf, add_bytes(shelf, safetensors.torch.save(PARAMS), "bytes"))
    cid = put_params(shelf, PARAMS)
    with pytest.raises(ProtocolError, match="a model of"):
        get_params(shelf, cid, limit_bytes=1000)
    shelf.space.write(f"{cid}.blob", 500, b"xx")
    with pytest.raises(StorageError, match="damaged"):
        get_params(shelf, cid)


GOOD = safetensors.torch.save({"a": torch.arange(3.0), "b": torch.ones(2, 2)})


@given(st.integers(0, len(GOOD)), st.binary(max_size=2), st.integers(0, 3))
def test_what_passes_the_check_is_what_the_library_reads(at, change, cut):
    bad = GOOD[:at] + change + GOOD[at + cut :]
    try:
        whole = check_start(bad, len(bad))
    except ProtocolError:
        return
    if whole and at > 8:
        tensors = safetensors.torch.load(bad)
        assert sum(t.nbytes for t in tensors.values()) < len(bad)
