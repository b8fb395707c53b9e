"""Content ids, manifests and what peers say about blobs: one spelling each."""

import hashlib
import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ConfigError, ProtocolError
from p2p.content.asks import (
    CHUNK,
    MANIFEST,
    WHAT,
    Wanted,
    decode_ask,
    decode_stock,
    decode_told,
    encode_ask,
    encode_stock,
    encode_told,
)
from p2p.content.cid import asked_cid, cid_of, digest_of
from p2p.content.manifest import (
    KIB,
    MAX_BLOB_BYTES,
    MAX_MANIFEST_BYTES,
    MIB,
    Manifest,
    chunk_bytes_of,
    decode_manifest,
    encode_manifest,
    manifest_of,
)

HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


def test_an_id_is_what_other_tools_write():
    """``ipfs add --cid-version 1`` names the 11 bytes "hello world" so."""
    assert cid_of(b"hello world") == HELLO
    assert digest_of(HELLO) == hashlib.sha256(b"hello world").digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        HELLO.upper(),
        HELLO[:-1],
        HELLO + "a",
        HELLO + "\n",
        HELLO[:-1] + "f",  # the same 288 bits, and a bit to spare
        "Qm" + HELLO[2:],
        "../../../etc/passwd",
        "bafkrei" + "../" * 17 + "a",
        "bafkrei" + "é" * 52,
    ],
)
def test_nothing_else_is_an_id(text):
    with pytest.raises(ProtocolError):
        digest_of(text)
    if text.strip() != HELLO:
        with pytest.raises(ConfigError, match="copy it whole"):
            asked_cid(text)


def test_a_user_may_paste_blanks_around_an_id():
    assert asked_cid(f"  {HELLO}\n") == HELLO


@settings(max_examples=40)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 58), st.characters())
def test_changing_any_character_changes_the_digest_or_is_refused(raw, at, letter):
    cid = cid_of(raw)
    other = cid[:at] + letter + cid[at + 1 :]
    if other != cid:
        with suppress(ProtocolError):
            assert digest_of(other) != digest_of(cid)


def test_chunks_grow_with_the_blob_and_a_manifest_fits_one_message():
    sizes = {0: 256, 512 * MIB: 256, 512 * MIB + 1: 512, 1024 * MIB + 1: 1024}
    assert {s: chunk_bytes_of(s) // KIB for s in sizes} == sizes
    assert chunk_bytes_of(MAX_BLOB_BYTES) == MIB
    assert MAX_MANIFEST_BYTES < MIB
    assert MAX_BLOB_BYTES // MIB == 32_000


@pytest.mark.parametrize("size", [0, 1, 256 * KIB, 256 * KIB + 1])
def test_a_manifest_names_each_chunk(size):
    data = random.Random(size).randbytes(size)
    m = manifest_of(data, "safetensors")
    assert decode_manifest(encode_manifest(m)) == m
    assert m.chunks == -(-size // (256 * KIB))
    for index in range(m.chunks):
        begin, count = m.span(index)
        part = data[begin : begin + count]
        assert m.fits(index, part)
        assert not m.fits(index, part[:-1])
        assert not m.fits(index, part[:-1] + bytes([part[-1] ^ 1]))


@pytest.mark.parametrize("kind", ["", "a" * 33, "../x", "A", "x y", "é"])
def test_a_kind_is_a_plain_word(kind):
    with pytest.raises(ProtocolError):
        manifest_of(b"", kind)


@pytest.mark.parametrize(
    ("size", "digests"), [(-1, 0), (1, 0), (1, 64), (0, 32), (MAX_BLOB_BYTES + 1, 32)]
)
def test_sizes_and_digests_agree(size, digests):
    with pytest.raises(ProtocolError):
        Manifest(size, bytes(digests))


GOOD = [
    (decode_manifest, encode_manifest, encode_manifest(manifest_of(bytes(300_000)))),
    (decode_ask, encode_ask, encode_ask(Wanted(WHAT, HELLO))),
    (decode_ask, encode_ask, encode_ask(Wanted(MANIFEST, HELLO))),
    (decode_ask, encode_ask, encode_ask(Wanted(CHUNK, HELLO, 7))),
]


@settings(max_examples=40)
@given(st.sampled_from(GOOD), st.data())
def test_every_message_has_one_form(case, data):
    """Cut, lengthened or changed anywhere: refused, or another value's one form."""
    decode, encode, good = case
    at = data.draw(st.integers(0, len(good)))
    change = data.draw(st.binary(max_size=3))
    bad = good[:at] + change + good[at + data.draw(st.integers(0, 3)) :]
    try:
        value = decode(bad)
    except ProtocolError:
        return
    assert encode(value) == bad


@settings(max_examples=40)
@given(st.binary(max_size=80))
def test_noise_is_refused_by_name(noise):
    for decode in (decode_manifest, decode_ask, decode_told):
        try:
            decode(noise)
        except ProtocolError:
            continue
    for chunks in (0, 1, 7, 8, 9):
        try:
            flags = decode_stock(noise, chunks)
        except ProtocolError:
            continue
        if chunks:
            assert encode_stock(flags.tobytes()) == noise


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_stock_says_which_chunks_are_here(flags):
    have = bytes(flags)
    stock = encode_stock(have)
    assert decode_stock(stock, len(flags)).tolist() == flags
    assert decode_told(encode_told(HELLO, have)) == (HELLO, stock)
    assert len(stock) <= 1 + -(-len(flags) // 8)


@pytest.mark.parametrize("stock", [b"", b"\3", b"\2", b"\2\x00", b"\2\x07", b"\2\x08"])
def test_a_stock_with_bits_to_spare_or_in_a_longer_form_is_refused(stock):
    with pytest.raises(ProtocolError):
        decode_stock(stock, 3)


def test_the_largest_stock_fits_a_small_message():
    have = np.arange(32_000) % 2
    assert len(encode_told(HELLO, have.astype(np.uint8).tobytes())) == 32 + 4001
