"""Bytes and hashes of the replicated state that other machines must also get."""

from hashlib import sha256

from p2p.state.encoding import put_fork
from p2p.state.exchange import news_for, nothing, sync_of
from p2p.state.messages import encode
from tests.state_cases import copied, count, logs, merge, pen_of, said

GOLDEN_LINKS = [
    "98c91240448d5581e3ba4898e61976b09bd40bf7602051dd0c8ea1d2a9fbc692",
    "bb2fb9c04b41a08063baae892456ed2290bc0e587a5c8972ed97a0278b12b887",
    "743213feb74322cb473bcd2fb0d98fcbf89573c8f6fe74d3763306fa5251db8b",
    "e7405a7e7431ee4a8f65f02cbe93010dbdeca484a3a5985038cd1b171272792d",
]
GOLDEN_HEAD = (
    "40ff93a44eb8c9e45ab0c97ad0f7b764689835dde9f6d063ce0ee015269d3062"
    "d1078da254f51692f842f0a514fa0b85823d0fcc707f732411d506cfa3a72104"
)
GOLDEN_ROOT = "2f58fa282ce7bff68e0450e2dbee7d2d6ee5586cb4dd8b62feb5ab67cef33fe8"
GOLDEN_NEWS = "3ff60f6b3347e59e15ca8d70c6b64d817636e777017b404a7ac521c8ec9abe3e"
GOLDEN_SYNC = (
    "012f58fa282ce7bff68e0450e2dbee7d2d6ee5586cb4dd8b62feb5ab67cef33fe800022118f6be"
    "12b64547b5985d62428c4f5bae37269e06c1f18b5a637b0f77489fbc03e7405a7e7431ee4a8f65"
    "f02cbe93010d00a4c8790bcd552bd37255db13022ca7099eaaa854aa4cc11ad56c412fffe96287"
    "029295f93ce2bf4e40a16514008b5b1bac00"
)
GOLDEN_FROZEN_ROOT = "ccbbcd801b1aa8387e7705e24b2c916655607f803a77c5dae1516b27c9eb9dc5"
GOLDEN_FORK = "507b76a49e81ab2d3d06db1e56ecf62f74e8551f54aff5ee5d37ceddacd4788c"

FOUNDER, ANNA = pen_of(0), pen_of(1)


def held():
    found = logs()
    said(found, FOUNDER, count(1), count(-2))
    said(found, ANNA, count(3))
    return found


def test_links_heads_and_roots_are_fixed():
    found = held()
    links = [found.link(FOUNDER.writer, n).hex() for n in range(4)]
    assert links == GOLDEN_LINKS
    assert found.by_writer[FOUNDER.writer].heads[3].hex() == GOLDEN_HEAD
    assert found.root().hex() == GOLDEN_ROOT


def test_messages_are_fixed():
    found = held()
    news = news_for(found, [nothing(found, w) for w in sorted(found.by_writer)])
    assert sha256(encode(news)).hexdigest() == GOLDEN_NEWS
    assert encode(sync_of(found, None)).hex() == GOLDEN_SYNC


def test_a_fork_is_fixed():
    one, other = held(), copied(held())
    said(one, FOUNDER, count(5))
    said(other, FOUNDER, count(6))
    merge(one, other)
    assert one.root().hex() == GOLDEN_FROZEN_ROOT
    fork = put_fork(one.by_writer[FOUNDER.writer].fork)
    assert sha256(fork).hexdigest() == GOLDEN_FORK
