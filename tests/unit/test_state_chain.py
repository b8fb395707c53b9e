"""Chains of entries: links computed by hand, marks, and what may stand where."""

from hashlib import sha256

import pytest

from fedcore.errors import ProtocolError
from p2p.state.chain import (
    LOG_ENTRIES,
    MARK_BYTES,
    Entry,
    Kind,
    Tip,
    digest_of,
    first_link,
    head_signed,
    next_link,
    sign_head,
)
from tests.state_cases import pen_of

NOTE = Entry(Kind.NOTE, b"x")


def test_a_link_is_the_hash_of_the_one_before_the_number_the_kind_and_the_body():
    first = sha256(b"fedcore/log/1\x00" + b"ab" * 32 + b"\x00anna").digest()
    assert first_link("ab" * 32, "anna") == first
    body = sha256(b"x").digest()
    want = sha256(first + b"\x01" + bytes(7) + b"\x09" + body).digest()
    assert next_link(first, 1, digest_of(NOTE)) == want
    assert Tip(0, first).link == first


def test_a_tip_grows_by_one_entry():
    before = Tip(1, bytes(32), 10)
    after = before.plus(NOTE)
    assert (after.length, after.size_bytes) == (2, 11)
    assert after.link == next_link(bytes(32), 2, digest_of(NOTE))


@pytest.mark.parametrize(
    ("length", "before", "after", "marked"),
    [
        (255, 0, 1, False),
        (256, 0, 1, True),
        (512, 0, 1, True),
        (3, MARK_BYTES - 1, MARK_BYTES, True),
        (3, MARK_BYTES, MARK_BYTES + 9, False),
        (3, MARK_BYTES + 9, 2 * MARK_BYTES + 8, True),
    ],
)
def test_marks_follow_from_numbers_and_sizes(length, before, after, marked):
    tip = Tip(length, bytes(32), after)
    assert tip.marked(Tip(length - 1, bytes(32), before)) is marked


@pytest.mark.parametrize(
    ("tip", "entry", "words"),
    [
        (Tip(0, bytes(32)), NOTE, "entry 1 is of kind NOTE"),
        (Tip(4, bytes(32)), Entry(Kind.OPENING, b""), "entry 5 is of kind OPENING"),
        (Tip(4, bytes(32)), Entry(Kind.NOTE, bytes(65537)), "65537 bytes, above"),
        (Tip(LOG_ENTRIES, bytes(32)), NOTE, "the log is full"),
        (Tip(4, bytes(32), 1 << 32), NOTE, "the log is full"),
    ],
)
def test_what_may_not_be_added(tip, entry, words):
    with pytest.raises(ProtocolError, match=words):
        tip.plus(entry)


def test_a_head_is_signed_for_one_network_writer_length_and_link():
    pen, network = pen_of(1), "cd" * 32
    tip = Tip(7, b"l" * 32)
    signature = sign_head(pen.key, network, pen.writer, tip)
    good = (network, pen.writer, 7, b"l" * 32, signature)
    assert head_signed(*good)
    wrongs = ("ce" * 32, pen_of(2).writer, 8, b"m" * 32, bytes(64))
    for at, wrong in enumerate(wrongs):
        assert not head_signed(*good[:at], wrong, *good[at + 1 :])


def test_there_is_no_kind_for_signs_of_life():
    assert {kind.name for kind in Kind}.isdisjoint({"HEARTBEAT", "PULSE", "ALIVE"})
    assert len(Kind) == 10
