import math
import random
import struct
import sys
import tracemalloc
import zlib
from dataclasses import replace

import pytest
import torch

from fedcore.codec import (
    Limits,
    decode_updates,
    decode_work,
    encode_updates,
    encode_work,
)
from fedcore.errors import ProtocolError
from fedcore.forms import DTYPES
from fedcore.params import digest
from fedcore.strategy import Update, Work, peer_name
from fedcore.wire import Reader, integers, names, text, varint


def sealed(kind: bytes, rest: bytes, layout: int = 1) -> bytes:
    """Return a message with a right check sum around whatever ``rest`` is."""
    start = b"FC" + kind + bytes([layout])
    return start + struct.pack("<I", zlib.crc32(rest, zlib.crc32(start))) + rest


def same(a: Update, b: Update) -> bool:
    head = (a.peer, a.version, a.examples, dict(a.metrics))
    same_head = head == (b.peer, b.version, b.examples, dict(b.metrics))
    return same_head and digest(a.payload) == digest(b.payload)


def slopes(peers, examples):
    rng = random.Random(3)
    return [
        Update(
            peer_name(peer),
            rng.choice([17, 18]),
            {"slope": torch.tensor(rng.randint(-128, 127), dtype=torch.int8)},
            rng.randint(1, examples),
        )
        for peer in peers
    ]


FAR_APART = random.Random(1).sample(range(10**6), 100)


@pytest.mark.parametrize("examples", [1, 600, 100_000])
@pytest.mark.parametrize(
    "peers", [range(100), random.Random(1).sample(range(10**6), 100)]
)
def test_a_one_byte_update_costs_at_most_eight_bytes_in_a_batch(peers, examples):
    for order in (list(peers), sorted(peers)):
        updates = slopes(order, examples)
        data = encode_updates(updates)
        assert len(data) <= 8 * len(updates)
        assert all(map(same, decode_updates(data), updates))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3), (1, 2, 1, 2, 1)])
def test_every_dtype_and_shape_comes_back(dtype, shape):
    count = math.prod(shape)
    t = torch.arange(count).reshape(shape).remainder(2).to(dtype)
    updates = [Update("p", 0, {"t": t}, 1), Update("q", 0, {"t": t}, 1)]
    for got in decode_updates(encode_updates(updates)):
        assert got.payload["t"].dtype == dtype
        assert got.payload["t"].shape == shape
        assert torch.equal(got.payload["t"], t)


def test_special_numbers_keep_their_bits():
    raw = torch.tensor([0x7FC01234, 0x7F800000, 1, -(2**31)], dtype=torch.int32)
    got = decode_updates(
        encode_updates([Update("p", 0, {"t": raw.view(torch.float32)}, 1)])
    )
    assert torch.equal(got[0].payload["t"].view(torch.int32), raw)


def test_strides_gradients_and_order_do_not_show():
    t = torch.arange(6.0).reshape(2, 3)
    plain = Update("p", 0, {"a": t.t().clone(), "b": t}, 1)
    odd = Update("p", 0, {"b": t.clone().requires_grad_(), "a": t.t()}, 1)
    assert encode_updates([plain]) == encode_updates([odd])


def test_one_number_of_stride_zero_is_sent():
    t = torch.arange(3.0)[1:2].expand(1, 1).as_strided((1, 1), (0, 0))
    (got,) = decode_updates(encode_updates([Update("p", 0, {"t": t}, 1)]))
    assert got.payload["t"].tolist() == t.tolist()


def test_what_is_decoded_has_memory_of_its_own():
    data = bytearray(encode_updates(slopes(range(3), 5)))
    one, two, _ = decode_updates(bytes(data))
    before = two.payload["slope"].item()
    one.payload["slope"].add_(1)
    assert two.payload["slope"].item() == before
    storages = {u.payload["slope"].untyped_storage().data_ptr() for u in (one, two)}
    assert len(storages) == 2


def test_mixed_updates_keep_their_order_metrics_and_forms():
    updates = [
        Update("b", 3, {"x": torch.ones(2)}, 5, {"loss": 0.25, "steps": 4.0}),
        Update("a", 2**62, {}, 2**62),
        Update("straße", 0, {"x": torch.ones(2), "y": torch.tensor(True)}, 1),
        Update("b2", 1, {"x": torch.zeros(2)}, 7, {"loss": -math.inf}),
        Update("b", -5, {"x": torch.zeros(2)}, -7, {"steps": 1e300, "loss": 1}),
    ]
    got = decode_updates(encode_updates(updates))
    assert all(map(same, got, updates))
    assert decode_updates(encode_updates([])) == []


def test_a_work_comes_back():
    work = Work(
        version=9,
        params={"w": torch.randn(3, 2), "b": torch.ones(2).bfloat16()},
        steps=3,
        epochs=2,
        aux={"correction": torch.tensor(0.5)},
        hints={"mu": 0.01, "cluster": -2, "kind": "größer\n"},
    )
    data = encode_work(work)
    got = decode_work(data)
    assert (got.version, got.steps, got.epochs) == (9, 3, 2)
    assert got.hints == work.hints
    assert digest(got.params) == digest(work.params)
    assert digest(got.aux) == digest(work.aux)
    assert encode_work(got) == data


GOOD = Update("p", 0, {"t": torch.zeros(2)}, 1)


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, peer=""),
        replace(GOOD, peer="../etc"),
        replace(GOOD, peer="a\0b"),
        replace(GOOD, peer="\ud800"),
        replace(GOOD, peer=7),
        replace(GOOD, version=1.0),
        replace(GOOD, version=None),
        replace(GOOD, version=2**63),
        replace(GOOD, examples=True),
        replace(GOOD, metrics={"a/b": 1.0}),
        replace(GOOD, metrics={"loss": "low"}),
        replace(GOOD, metrics={"loss": 10**400}),
        replace(GOOD, payload={"/t": torch.zeros(2)}),
        replace(GOOD, payload={7: torch.zeros(2)}),
        replace(GOOD, payload={"t" * 257: torch.zeros(2)}),
        replace(GOOD, payload={"t": torch.zeros(2, dtype=torch.complex64)}),
        replace(GOOD, payload={"t": torch.zeros(2).to_sparse()}),
    ],
)
def test_what_cannot_be_sent_is_refused_by_the_sender(bad):
    with pytest.raises(ProtocolError):
        encode_updates([GOOD, bad])


def test_a_hint_of_another_type_is_refused_by_the_sender():
    with pytest.raises(ProtocolError, match="hint"):
        encode_work(Work(0, {}, hints={"a": [1]}))


def head(peers=1, *, peer=None, form=b"", metrics=b"\1\0\0"):
    """Return the start of a batch of ``peers`` updates, up to its forms."""
    column = names([peer or f"p{i}" for i in range(peers)])
    zeros = integers([0] * peers)
    return varint(peers) + column + zeros + zeros + metrics + form


def form(name=b"\0\0\1t", code=0, shape=(2,)):
    dims = b"".join(map(varint, shape))
    return b"\1\1" + name + varint(code) + varint(len(shape)) + dims


HUGE = b"\xff" * 8 + b"\x7f"  # 2^63 - 1
LONG_NAMES = varint(4096) + b"\1" + text("x" * 1024) + b"\1\0\0\0"
TWO_FORMS = b"\2" + form()[1:] * 2
TERABYTE = form(shape=(2**38,))
HOSTILE = [
    ("cut short", b""),
    ("kind U", encode_work(Work(0, {}))),
    ("kind U", b"<!doctype html>"),
    ("layout 2", sealed(b"U", b"", layout=2)),
    ("damaged", encode_updates([GOOD])[:-1] + b"\1"),
    ("cut short", sealed(b"U", b"")),
    ("above 4096", sealed(b"U", HUGE)),
    ("endless", sealed(b"U", b"\x80" * 20)),
    ("above", sealed(b"U", b"\xff" * 20)),
    ("cut short", sealed(b"U", varint(4096) + b"\0\0\1p")),
    ("unknown form 9 of names", sealed(b"U", b"\1\x09")),
    ("unknown form 9 of int", sealed(b"U", b"\1\0\0\1p\x09")),
    ("has 0 characters", sealed(b"U", b"\1\0\0\0" + head()[4:])),
    ('has ".."', sealed(b"U", b"\1\0\0\2.." + head())),
    ("not UTF-8", sealed(b"U", b"\1\0\0\2\xc3\x28" + head())),
    ("4194304 bytes", sealed(b"U", LONG_NAMES)),
    ("cut short", sealed(b"U", head(2)[:-3] + b"\2" + b"\0\0")),
    ("above 9", sealed(b"U", head(form=form(code=99)))),
    ("above 8", sealed(b"U", head(form=form(shape=(1,) * 9)))),
    ("more than", sealed(b"U", head(form=form(shape=(2**40, 2**40))))),
    ("more than", sealed(b"U", head(form=form(shape=(0, 2**62, 2**62))))),
    ("0 bytes of tensors, not 1099511627776", sealed(b"U", head(form=TERABYTE))),
    ("7 bytes of tensors, not 8", sealed(b"U", head(form=form()) + b"\0" * 7)),
    ("9 bytes of tensors, not 8", sealed(b"U", head(form=form()) + b"\0" * 9)),
    ("neither 0 nor 1", sealed(b"U", head(form=form(code=9)) + b"\1\2")),
    ("above 16384", sealed(b"U", head(form=b"\1" + varint(10**6)))),
    ("not sorted", sealed(b"U", head(form=b"\1\2\0\0\1b\0\1a\0\0\0\0"))),
    ("comes twice", sealed(b"U", head(form=b"\1\2\0\0\1a\1\0\0\0\0\0"))),
    ("nothing uses", sealed(b"U", head(2, form=TWO_FORMS + b"\0\0\0"))),
    ("kind 7 of 2", sealed(b"U", head(2, form=TWO_FORMS + b"\0\x0e\0"))),
    ("one form", sealed(b"U", b"\x81\0" + head(form=b"\1\0\0")[1:])),
]  # fmt: skip


@pytest.mark.parametrize(("words", "data"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_refused_in_little_memory(words, data):
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=words):
        decode_updates(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_limits_are_kept():
    updates = slopes(range(5), 9)
    data = encode_updates(updates)
    for limits in (
        Limits(message_bytes=len(data) - 1),
        Limits(updates=4),
        Limits(items=4),
    ):
        with pytest.raises(ProtocolError, match="above"):
            decode_updates(data, limits)
    exact = Limits(message_bytes=len(data), updates=5, items=5)
    assert len(decode_updates(data, exact)) == 5
    deep = encode_work(Work(0, {"t": torch.zeros(1, 1, 1)}, hints={"h": "1234"}))
    for limits in (Limits(dims=2), Limits(text_bytes=3), Limits(items=0)):
        with pytest.raises(ProtocolError, match="above"):
            decode_work(deep, limits)


def test_every_cut_and_every_flipped_bit_of_a_message_is_noticed():
    data = encode_updates(slopes(range(4), 9))
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_updates(data[:end])
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError):
            decode_updates(bytes(bad))


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0],
        [5] * 100,
        [-(2**63) + 1, 2**63 - 1] * 3,
        [2**63 - 1, -(2**63) + 1],
        list(range(0, 10**6, 997)),
        [random.Random(2).randint(-(10**12), 10**12) for _ in range(50)],
    ],
)
def test_columns_of_integers_come_back(values):
    data = integers(values)
    reader = Reader(data)
    assert reader.integers(len(values)) == values
    assert reader.left() == 0


def test_columns_of_integers_are_short():
    assert len(integers([600] * 1000)) <= 4
    assert len(integers(list(range(1000)))) == 1001
    assert len(integers([7, 8] * 500)) == 3 + 125


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["a"],
        ["peer-000007", "peer-000008", "peer-999999", "peer-000000"],
        ["peer-07", "peer-008"],
        ["7", "8"],
        ["layer.0.weight", "layer.0.bias", "layer.10.weight"],
        ["ä", "ö", "äö", "日本"],
        ["x" * 256, "x" * 256],
        ["node-9999999999999999999999"],
    ],
)
def test_columns_of_names_come_back(values):
    reader = Reader(names(values))
    assert reader.names(len(values)) == values
    assert reader.left() == 0


WATCHED = ("exec", "compile", "import", "open", "os.", "subprocess.", "socket.")
seen: list[str] = []
watching = False


def note(event, _):
    if watching and event.startswith(WATCHED):
        seen.append(event)


def test_decoding_runs_imports_and_opens_nothing():
    global watching
    good = encode_updates([GOOD, *slopes(range(3), 9)])
    decode_updates(good)
    rng = random.Random(11)
    sys.addaudithook(note)
    watching = True
    try:
        for number in range(3000):
            body = bytearray(good[8:])
            for _ in range(number % 3):
                body[rng.randrange(len(body))] = rng.randrange(256)
            cut = rng.randrange(len(body)) if number % 5 == 4 else len(body)
            try:
                decode_updates(sealed(b"U", bytes(body[:cut])))
            except ProtocolError:
                continue
    finally:
        watching = False
    assert seen == []


@pytest.mark.parametrize("wrong", [(-1, 1, 1), (0, -1, 1), (0, 0, 0), (0, 1, -1)])
def test_work_that_nobody_can_do_is_refused(wrong):
    version, steps, epochs = wrong
    data = encode_work(Work(version, {"w": torch.zeros(1)}, steps, epochs))
    with pytest.raises(ProtocolError, match="anybody"):
        decode_work(data)
