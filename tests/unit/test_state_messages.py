"""Messages: there and back, one form only, and nothing but refusals for the rest."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import ProtocolError
from fedcore.wire import Reader
from p2p.state import bodies, encoding
from p2p.state.bodies import (
    Checkpoint,
    Count,
    Note,
    Presence,
    Run,
    RunFact,
    Score,
    read_body,
)
from p2p.state.chain import Kind
from p2p.state.checking import check
from p2p.state.exchange import sync_of
from p2p.state.facts import read_origin
from p2p.state.held import News as Added
from p2p.state.logs import Logs
from p2p.state.messages import (
    MESSAGE_BYTES,
    Links,
    Message,
    News,
    Prove,
    Pull,
    Sync,
    Trace,
    decode,
    encode,
)
from tests.state_cases import copied, count, counts, logs, merge, pen_of, said

ANNA, BEN = pen_of(1), pen_of(2)


def forked() -> Logs:
    one = logs()
    said(one, ANNA, *counts([1, 2]))
    other = copied(one)
    said(one, ANNA, count(3))
    said(other, ANNA, count(4))
    said(one, BEN, count(5))
    merge(one, other)
    return one


def messages() -> list[Message]:
    held = forked()
    sync = sync_of(held, None)
    fork = held.by_writer[ANNA.writer].fork
    segments = [s for w in sorted(held.by_writer) for s in held.segments(w, 0)]
    return [
        sync,
        Sync(sync.root, bytes(32), ()),
        Pull(sync.items),
        News(held.root(), [fork], segments, sync.items),
        News(held.root(), whole=True),
        Trace(ANNA.writer, [1, 7, 300]),
        Links([bytes(32), b"a" * 32]),
        Prove(ANNA.writer, 9),
        held.branch(ANNA.writer, 1),
    ]


def same(a: object, b: object) -> bool:
    return encode(a) == encode(b) and type(a) is type(b)


def test_every_message_comes_back():
    for message in messages():
        assert same(decode(encode(message)), message)


def test_every_byte_counts():
    """A changed byte is refused, or says something else that is written the same."""
    for message in messages():
        data = encode(message)
        for at in range(0, len(data), 5):
            for change in (1, 0x80):
                wrong = bytearray(data)
                wrong[at] ^= change
                try:
                    other = decode(bytes(wrong))
                except ProtocolError:
                    continue
                assert encode(other) == bytes(wrong)


@pytest.mark.parametrize(
    ("first", "step"), [(0, 41), pytest.param(0, 3, marks=pytest.mark.slow)]
)
def test_no_changed_byte_of_news_is_taken_in_with_another_meaning(first, step):
    held = forked()
    fork = held.by_writer[ANNA.writer].fork
    segments = list(held.segments(BEN.writer, 0)) + list(held.segments(ANNA.writer, 0))
    data = encode(News(held.root(), [fork], segments))
    links = {
        held.link(w, n)
        for w in held.by_writer
        for n in range(1, 4)
        if n <= held.tip(w).length
    }
    taken = 0
    for at in range(first, len(data), step):
        wrong = bytearray(data)
        wrong[at] ^= 1 << at % 8
        target = logs()
        try:
            news = decode(bytes(wrong))
            for one in news.forks:
                one.check(target.network, target.openings)
                target.freeze(one, ours=False)
            found = [n for n in check(target, news.segments) if isinstance(n, Added)]
        except ProtocolError:
            continue
        taken += 1
        assert {link for new in found for _, link in new.rows} <= links
    assert taken < 40  # the root and tags are no part of what is signed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (b"\x00", "unknown kind 0"),
        (b"\x09", "unknown kind 9"),
        (bytes(MESSAGE_BYTES + 1), "above"),
        (b"\x02\x00", "a pull of nothing"),
        (b"\x01" + bytes(32) + b"\x02", "neither yes nor no"),
        (b"\x01" + bytes(32) + b"\x00\x80\x00", "a long form"),
        (b"\x01" + bytes(32) + b"\x00\xff\xff\x7f", "above 4096"),
        (b"\x01" + bytes(32) + b"\x00\x00\x07", "1 stray bytes"),
        (b"\x04" + bytes(32) + b"\x00", "no positions"),
        (b"\x04" + bytes(32) + b"\x02\x05\x05", "do not ascend"),
        (b"\x06" + bytes(32) + b"\x00", "numbered from 1"),
        (b"\x05\x21" + bytes(33 * 32), "above 32"),
        (
            b"\x01" + bytes(32) + b"\x00\x02" + 2 * (bytes(32) + b"\x01" + bytes(17)),
            "comes twice",
        ),
    ],
)
def test_what_is_no_message(data, words):
    with pytest.raises(ProtocolError, match=words):
        decode(data)


GOOD = [encode(message) for message in messages()]


@st.composite
def damaged(draw: st.DrawFn, good: Sequence[bytes]) -> bytes:
    """Return good bytes that were cut, spliced or changed."""
    data = bytearray(draw(st.sampled_from(list(good))))
    seed = random.Random(draw(st.integers(0, 1 << 32)))
    for _ in range(draw(st.integers(0, 4))):
        data[seed.randrange(len(data))] = seed.randrange(256)
    cut = draw(st.integers(0, len(data)))
    return bytes(data[:cut]) + draw(st.binary(max_size=40))


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=300), damaged(GOOD)))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert encode(message) == data


BODIES = [
    (Kind.LEAVE, Presence(3)),
    (Kind.RETURN, Presence(1 << 40)),
    (Kind.RUN, Run("r", 1, "spec = 1", "o")),
    (Kind.FACT, RunFact("r", b"fact")),
    (Kind.CHECKPOINT, Checkpoint("r", 3, "cid", 100, "ab" * 32)),
    (Kind.SCORE, Score("ben", 4, 1_000_000)),
    (Kind.COUNT, Count("c", -(1 << 40))),
    (Kind.NOTE, Note("d", b"update")),
]


@pytest.mark.parametrize(("kind", "body"), BODIES)
def test_every_body_comes_back(kind, body):
    assert read_body(kind, body.encode()) == body


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(Kind)),
    st.one_of(st.binary(max_size=80), damaged([b.encode() for _, b in BODIES])),
)
def test_any_bytes_are_a_body_or_refused(kind, data):
    try:
        body = read_body(kind, data)
    except ProtocolError:
        return
    assert body.encode() == data


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["get_segment", "get_fork", "get_branch", "get_item", "get_entry"]),
    st.binary(max_size=200),
)
def test_any_bytes_are_a_piece_or_refused(name, data):
    reader = Reader(data)
    try:
        piece = getattr(encoding, name)(reader)
    except ProtocolError:
        return
    assert getattr(encoding, name.replace("get", "put"))(piece) == data[: reader.at]


@pytest.mark.parametrize(
    "body",
    [
        Score("ben", 1, 1_000_001),
        Score("ben", -1, 5),
        Score("../ben", 1, 5),
        Count("", 1),
        Count("c", 1 << 60),
        Run("r", 1 << 49, ""),
        Checkpoint("r", 1, "cid", 5, "no digest"),
        Checkpoint("r", 1, "a/b", 5, "ab" * 32),
    ],
)
def test_bodies_that_cannot_be_written(body):
    with pytest.raises(ProtocolError):
        body.encode()


def test_a_long_specification_is_not_read():
    body = Run("r", 1, "x" * (bodies.SPEC_BYTES + 1)).encode()
    with pytest.raises(ProtocolError, match="above"):
        read_body(Kind.RUN, body)


@pytest.mark.parametrize("text", ["", "x", "hadamard:shift:8:7 00 0x1p0", "a b c d"])
def test_what_is_no_origin(text):
    with pytest.raises(ValueError, match="names no shared-seed model"):
        read_origin(text)
