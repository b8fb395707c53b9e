import math
import struct
import zlib

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.codec import decode_updates, decode_work, encode_updates, encode_work
from fedcore.errors import ProtocolError
from fedcore.forms import DTYPES
from fedcore.names import fault_of
from fedcore.params import digest
from fedcore.strategy import Update, Work

PRINTABLE = st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\")
NAMES = st.text(PRINTABLE, min_size=1, max_size=12).filter(lambda n: not fault_of(n))
NAMES |= st.integers(0, 10**7).map(lambda i: f"peer-{i:06d}")
INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def tensors(draw):
    """Draw a tensor of any dtype, shape and bits."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(SHAPES)
    size = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).view(shape)


TREES = st.dictionaries(NAMES, tensors(), max_size=3)
METRICS = st.dictionaries(NAMES, st.floats(), max_size=3)
UPDATES = st.lists(
    st.builds(Update, NAMES, INTEGERS, TREES, INTEGERS, METRICS, st.just({})),
    max_size=4,
)
HINTS = st.dictionaries(
    NAMES,
    INTEGERS | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=3,
)
COUNTS = st.integers(0, 2**63 - 1)
WORKS = st.builds(
    Work, COUNTS, TREES, COUNTS, st.integers(1, 2**63 - 1), TREES, HINTS, st.just({})
)


@settings(deadline=None, max_examples=30)
@given(UPDATES)
def test_updates_come_back(updates):
    data = encode_updates(updates)
    got = decode_updates(data)
    for a, b in zip(got, updates, strict=True):
        assert (a.peer, a.version, a.examples) == (b.peer, b.version, b.examples)
        assert digest(a.payload) == digest(b.payload)
        assert repr(sorted(a.metrics.items())) == repr(sorted(b.metrics.items()))
    assert encode_updates(got) == data


@settings(deadline=None, max_examples=30)
@given(WORKS)
def test_works_come_back(work):
    data = encode_work(work)
    got = decode_work(data)
    assert repr(sorted(got.hints.items())) == repr(sorted(work.hints.items()))
    assert digest(got.params) == digest(work.params)
    assert encode_work(got) == data


def sealed(kind, rest):
    """Return a message around ``rest`` that passes the check sum."""
    start = b"FC" + kind + b"\1"
    return start + struct.pack("<I", zlib.crc32(rest, zlib.crc32(start))) + rest


def judged(kind, rest):
    """Decode ``rest``: it is refused, or it is exactly what the encoder writes."""
    data = sealed(kind, rest)
    try:
        value = decode_updates(data) if kind == b"U" else decode_work(data)
    except ProtocolError:
        return
    again = encode_work(value) if isinstance(value, Work) else encode_updates(value)
    assert again == data


KINDS = st.sampled_from([b"U", b"W"])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=64))
def test_junk_is_refused(junk):
    for data in (junk, b"FCU\1" + junk, b"FCW\1" + junk):
        for decode in (decode_updates, decode_work):
            try:
                decode(data)
            except ProtocolError:
                continue
            raise AssertionError("junk was taken for a message")


@settings(deadline=None, max_examples=100)
@given(KINDS, st.binary(max_size=64))
def test_junk_with_a_right_check_sum_is_judged(kind, junk):
    judged(kind, junk)


@settings(deadline=None, max_examples=60)
@given(UPDATES | WORKS, st.data())
def test_a_changed_message_with_a_right_check_sum_is_judged(value, data):
    kind, encode = (b"W", encode_work) if isinstance(value, Work) else (b"U", None)
    rest = bytearray((encode or encode_updates)(value)[8:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(rest)))
        end = min(len(rest), at + data.draw(st.integers(0, 2)))
        rest[at:end] = data.draw(st.binary(max_size=10) | st.just(b"\xff" * 9))
    judged(kind, bytes(rest))
