import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from fedcore.flower import pack_update, pack_work, unpack_update, unpack_work
from fedcore.flower.records import pack_works
from fedcore.flower.trees import FEW_TENSORS, LAYOUT, pack_tree, tensor_of, unpack_tree
from fedcore.params import digest
from fedcore.strategy import Update, Work

KINDS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def tree_of(count):
    """Return ``count`` small tensors of all dtypes, a scalar and an empty one."""
    tree = {
        f"t{i}": torch.arange(i, dtype=torch.int32).to(KINDS[i % len(KINDS)])
        for i in range(count - 2)
    }
    scalar = torch.tensor(-1.5, dtype=torch.bfloat16)
    return {**tree, "scalar": scalar, "empty": torch.zeros(0, 3)}


@pytest.mark.parametrize("count", [3, FEW_TENSORS, FEW_TENSORS + 1, 40])
@pytest.mark.parametrize("join", [True, False])
def test_trees_come_back_bit_for_bit(count, join):
    tree = tree_of(count)
    records = RecordDict(pack_tree("arrays", tree, join))
    assert digest(unpack_tree(records, "arrays")) == digest(tree)


def test_many_small_tensors_travel_as_one_array_per_dtype():
    tree = {f"w{i}": torch.full((2, 3), float(i)) for i in range(100)}
    records = RecordDict(pack_tree("arrays", tree, join=True))
    assert list(records["arrays"]) == ["float32"]
    assert len(pack_tree("arrays", tree, join=False)["arrays"]) == 100
    large = {f"w{i}": torch.zeros(40_000) for i in range(10)}
    assert len(pack_tree("arrays", large, join=True)["arrays"]) == 10


def test_a_transposed_tensor_keeps_its_numbers():
    t = torch.arange(6.0).view(2, 3).T
    records = RecordDict(pack_tree("arrays", {"t": t}, join=False))
    assert torch.equal(unpack_tree(records, "arrays")["t"], t)


def test_work_comes_back():
    work = Work(
        version=7,
        params={"w": torch.ones(2)},
        steps=3,
        epochs=2,
        aux={"c": torch.zeros(2)},
        hints={"mu": 0.5, "cluster": 3, "mode": "warm"},
    )
    got = unpack_work(pack_work(work))
    assert (got.version, got.steps, got.epochs) == (7, 3, 2)
    assert dict(got.hints) == {"mu": 0.5, "cluster": 3, "mode": "warm"}
    assert digest(got.params) == digest(work.params)
    assert digest(got.aux) == digest(work.aux)


def test_update_comes_back_under_the_name_that_flower_vouches_for():
    update = Update("liar", 4, {"w": torch.ones(2)}, 12, {"loss": 0.25})
    got = unpack_update("peer-000001", pack_update(update))
    assert got.peer == "peer-000001"
    assert (got.version, got.examples, got.metrics) == (4, 12, {"loss": 0.25})


def test_one_model_for_many_is_packed_once():
    params = {"w": torch.ones(2)}
    a, b = pack_works([Work(0, params), Work(0, params)])
    assert a["arrays"] is b["arrays"]


def test_unpacked_tensors_share_no_memory_with_the_message():
    records = pack_work(Work(0, {"w": torch.ones(2)}))
    unpack_work(records).params["w"].zero_()
    assert torch.equal(unpack_work(records).params["w"], torch.ones(2))


def update_records():
    return pack_update(Update("a", 1, {"w": torch.ones(2)}, 5, {"loss": 1.0}))


def swapped(key, record):
    records = update_records()
    records[key] = record
    return records


def array(dtype="float32", data=b"", stype="numpy.ndarray"):
    return ArrayRecord({"w": Array(dtype, (2,), stype, data)})


def npy(descr="<f4", shape="(2,)", data=bytes(8), fortran="False"):
    head = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    magic = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little")
    return array(data=magic + head.encode() + data)


def layout(**columns):
    good = {"names": ["w"], "dtypes": ["float32"], "ranks": [1], "dims": [2]}
    records = update_records()
    records["arrays"] = ArrayRecord({"float32": Array(np.zeros(2, np.float32))})
    records["arrays" + LAYOUT] = ConfigRecord({**good, **columns})
    return records


HOSTILE = {
    "no head": lambda: RecordDict({"arrays": ArrayRecord()}),
    "head of another type": lambda: swapped("update", MetricRecord({"version": 1})),
    "no version": lambda: swapped("update", ConfigRecord({"examples": 1})),
    "version is a truth value": lambda: swapped(
        "update", ConfigRecord({"version": True, "examples": 1})
    ),
    "version is negative": lambda: swapped(
        "update", ConfigRecord({"version": -1, "examples": 1})
    ),
    "version is huge": lambda: swapped(
        "update", ConfigRecord({"version": 2**63, "examples": 1})
    ),
    "no examples": lambda: swapped("update", ConfigRecord({"version": 1})),
    "zero examples": lambda: swapped(
        "update", ConfigRecord({"version": 1, "examples": 0})
    ),
    "examples as text": lambda: swapped(
        "update", ConfigRecord({"version": 1, "examples": "9"})
    ),
    "arrays are metrics": lambda: swapped("arrays", MetricRecord({"w": 1.0})),
    "metrics are arrays": lambda: swapped("metrics", ArrayRecord()),
    "too many metrics": lambda: swapped(
        "metrics", MetricRecord({f"m{i}": 1.0 for i in range(257)})
    ),
    "a metric's name is long": lambda: swapped("metrics", MetricRecord({"m" * 300: 1})),
    "no NumPy format": lambda: swapped("arrays", array(data=b"junk")),
    "empty data": lambda: swapped("arrays", array()),
    "another format": lambda: swapped("arrays", array(stype="pickle")),
    "objects": lambda: swapped("arrays", npy("|O")),
    "text": lambda: swapped("arrays", npy("<U2")),
    "complex": lambda: swapped("arrays", npy("<c8")),
    "big-endian": lambda: swapped("arrays", npy(">f4")),
    "too short": lambda: swapped("arrays", npy(data=bytes(7))),
    "too long": lambda: swapped("arrays", npy(data=bytes(9))),
    "huge shape": lambda: swapped("arrays", npy(shape="(2**62,)")),
    "huge empty shape": lambda: swapped("arrays", npy(shape=f"(0, {2**62})", data=b"")),
    "negative shape": lambda: swapped("arrays", npy(shape="(-2, -1)")),
    "many axes": lambda: swapped("arrays", npy(shape=str((1,) * 9), data=bytes(4))),
    "digits without end": lambda: swapped("arrays", npy(shape="(" + "1" * 80)),
    "neither true nor false": lambda: swapped("arrays", npy("|b1", data=b"\1\2")),
    "a call in the header": lambda: swapped("arrays", npy(shape="print(1)")),
    "columns differ": lambda: layout(names=["w", "v"]),
    "a name twice": lambda: layout(
        names=["w", "w"], dtypes=["float32"] * 2, ranks=[1, 1], dims=[1, 1]
    ),
    "no such dtype": lambda: layout(dtypes=["float64"]),
    "asks for more": lambda: layout(dims=[3]),
    "leaves some": lambda: layout(dims=[1]),
    "negative rank": lambda: layout(ranks=[-1]),
    "negative dim": lambda: layout(dims=[-2]),
    "dims too many": lambda: layout(dims=[1, 2]),
    "ranks as text": lambda: layout(ranks=["1"]),
    "empty name": lambda: layout(names=[""]),
    "false bfloat16": lambda: swapped(
        "arrays" + LAYOUT, ConfigRecord({"bfloat16": ["w"]})
    ),
    "a column that is no list": lambda: layout(names="w"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_refused(name):
    with pytest.raises(ProtocolError):
        unpack_update("a", HOSTILE[name]())


def test_the_header_that_hostile_ones_are_made_of_is_good():
    assert unpack_update("a", swapped("arrays", npy())).payload["w"].shape == (2,)
    assert unpack_update("a", layout()).payload["w"].shape == (2,)
    columns = npy(shape="(2, 1)", fortran="True")
    assert unpack_update("a", swapped("arrays", columns)).payload["w"].shape == (2, 1)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), st.integers(0, 120))
def test_any_bytes_are_an_array_or_a_protocol_error(junk, keep):
    good = Array(np.zeros(3, np.float32)).data
    for data in (junk, good[:keep] + junk):
        try:
            tensor_of("w", Array("float32", (3,), "numpy.ndarray", data))
        except ProtocolError:
            continue


def test_hints_must_be_plain():
    records = pack_work(Work(0, {"w": torch.ones(1)}))
    records["hints"] = ConfigRecord({"mu": [1.0]})
    with pytest.raises(ProtocolError):
        unpack_work(records)
