"""Frames, quotas and what is said where a peer's bytes are shown."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from p2p.libp2p.framing import (
    HEAD_BYTES,
    MAX_REASON_BYTES,
    Kind,
    frame,
    head_of,
    reason_of,
    refusal,
)
from p2p.libp2p.quota import DISTINCT, Bucket, Buckets, Held
from p2p.transport import MAX_BODY_BYTES


def test_a_frame_is_its_kind_its_length_and_its_body():
    assert frame(Kind.ASK, b"abc") == b"\x01\x00\x00\x00\x03abc"
    assert refusal(Kind.REFUSED, "no") == b"\x04\x00\x00\x00\x02no"


@given(st.sampled_from(list(Kind)), st.binary(max_size=MAX_REASON_BYTES))
def test_heads_read_back(kind, body):
    raw = frame(kind, body)
    assert head_of(raw[:HEAD_BYTES]) == (kind, len(body))


@given(st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES))
def test_a_head_is_what_would_be_written_or_refused(raw):
    try:
        kind, size = head_of(raw)
    except ProtocolError:
        return
    assert frame(kind, bytes(size))[:HEAD_BYTES] == raw


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_is_refused_before_anything_is_kept(size):
    with pytest.raises(ProtocolError, match=f"{size} bytes; at most"):
        head_of(struct.pack(">BI", Kind.TELL, size))


def test_a_body_that_is_too_long_is_not_sent():
    assert len(frame(Kind.ASK, bytes(MAX_BODY_BYTES))) == MAX_BODY_BYTES + HEAD_BYTES
    with pytest.raises(ProtocolError):
        frame(Kind.ASK, bytes(MAX_BODY_BYTES + 1))


def test_a_reason_is_short_and_can_be_shown_whatever_it_is():
    long = refusal(Kind.BUSY, "é" * 1000)
    assert head_of(long[:HEAD_BYTES]) == (Kind.BUSY, MAX_REASON_BYTES)
    assert reason_of(long[HEAD_BYTES:]) == "é" * (MAX_REASON_BYTES // 2)
    assert reason_of(b"\xff\x1b[2Jx\n") == "\ufffd?[2Jx?"
    with pytest.raises(ProtocolError, match="at most 512"):
        head_of(struct.pack(">BI", Kind.REFUSED, MAX_REASON_BYTES + 1))


def test_a_bucket_lets_a_burst_pass_and_then_its_rate():
    bucket = Bucket(rate_per_s=2.0, burst=3, left=3, at_s=0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert bucket.since_s == 0.0
    assert bucket.take(2.0) == 0.0  # four came, two paid the debt, one is taken
    assert bucket.since_s is None
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_buckets_say_for_how_long_a_peer_has_sent_too_much():
    buckets = Buckets(rate_per_s=1.0, burst=1)
    seen = [buckets.take("a", at_s) for at_s in (0.0, 0.5, 1.0, 1.5)]
    assert seen == [(0.0, 0.0), (0.5, 0.0), (1.0, 0.5), (1.5, 1.0)]
    assert buckets.take("b", 1.5) == (0.0, 0.0)


def test_buckets_forget_who_was_not_seen_for_longest():
    buckets = Buckets(rate_per_s=1.0, burst=1)
    for i in range(DISTINCT):
        buckets.take(str(i), 0.0)
    buckets.take("0", 0.0)
    buckets.take("new", 0.0)
    assert len(buckets.of) == DISTINCT
    assert "0" in buckets.of
    assert "1" not in buckets.of


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60))))
def test_never_more_is_held_than_allowed(pieces):
    held = Held(limit_bytes=100, each_bytes=50)
    taken = [(p, size) for p, size in pieces if held.take(p, size)]
    assert held.total_bytes == sum(size for _, size in taken) <= 100
    assert all(size <= 50 for size in held.by_peer.values())
    for peer, size in taken:
        held.give(peer, size)
    assert held.total_bytes == 0
    assert not held.by_peer
