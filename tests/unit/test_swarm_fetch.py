"""Which chunk is asked of whom: hand-made situations."""

import random
from collections import Counter

import numpy as np

from p2p.content.fetch import FIRST_WINDOW, MAX_TWICE, MAX_WINDOW, Fetch, Source


def flags(text):
    return np.array([c == "1" for c in text])


def fetch(chunks, at_once=100, **stocks):
    made = Fetch(bytes(chunks), random.Random(1), at_once)
    for peer, text in stocks.items():
        made.stocked(peer, flags(text))
    return made


def wide(made, window):
    for source in made.sources.values():
        source.window = float(window)
    return made


def test_the_rarest_chunk_is_asked_for_first():
    # Only a has chunk 1; a and b have 3; all have 0 and 2.
    made = wide(fetch(4, a="1111", b="1011", c="1010"), 1)
    picked = dict(made.picks(0.0))
    assert picked["a"] == 1
    assert picked["b"] == 3
    assert picked["c"] in (0, 2)


def test_equally_rare_chunks_come_in_another_order_for_each_download():
    firsts = Counter()
    for seed in range(40):
        made = Fetch(bytes(8), random.Random(seed), 100)
        made.stocked("a", flags("11111111"))
        firsts[made.picks(0.0)[0][1]] += 1
    assert len(firsts) >= 6


def test_no_source_gets_more_than_its_window_and_all_together_no_more_than_is_allowed():
    made = fetch(50, a="1" * 50, b="1" * 50)
    assert Counter(p for p, _ in made.picks(0.0)) == {"a": 2, "b": 2}
    assert made.picks(0.0) == []
    made = wide(fetch(50, at_once=5, a="1" * 50, b="1" * 50), 10)
    assert len(made.picks(0.0)) == 5


def test_what_fails_is_asked_again_of_somebody_else():
    made = fetch(1, a="1", b="1")
    ((peer, index),) = made.picks(0.0)
    made.over(peer, index)
    made.sources[peer].failed(index, 0.0)
    ((other, again),) = made.picks(0.5)
    assert (other != peer, again) == (True, index)
    made.leave(other)
    assert made.picks(0.9) == []  # the first one rests for a second
    assert made.picks(1.0) == [(peer, index)]


def test_a_late_chunk_is_asked_for_twice_and_no_more():
    made = fetch(1, a="1", b="1", c="1")
    ((slow, _),) = made.picks(0.0)
    quick, third = sorted({"a", "b", "c"} - {slow})
    made.sources[quick].latency_s = 0.5
    assert made.picks(0.9) == []  # not late yet: twice half a second
    assert made.picks(1.0) == [(quick, 0)]
    assert made.picks(9.0) == []
    made.here(0)
    made.over(quick, 0)
    made.over(slow, 0)
    assert made.picks(99.0) == []
    assert third in made.sources


def test_chunks_asked_for_twice_are_bounded():
    made = wide(fetch(40, a="1" * 40), 40)
    made.picks(0.0)
    made.stocked("b", flags("1" * 40))
    wide(made, 40)
    assert len(made.picks(100.0)) == MAX_TWICE


def test_a_chunk_that_is_gone_is_fetched_again():
    made = fetch(2, a="11")
    for _, index in made.picks(0.0):
        made.here(index)
        made.over("a", index)
    assert made.picks(1.0) == []
    made.gone(1)
    made.sources["a"].under_way.clear()
    assert made.picks(2.0) == [("a", 1)]


def test_a_window_grows_while_answers_are_quick_and_shrinks_when_they_queue():
    source = Source(flags("1"))
    for turn in range(40):
        source.under_way[turn] = float(turn)
        source.answered(turn, turn + 0.1)
    assert source.window == MAX_WINDOW
    for turn in range(40):
        source.under_way[turn] = float(turn)
        source.answered(turn, turn + 0.9)
        if source.window == FIRST_WINDOW:
            break
    assert source.window < MAX_WINDOW / 2
    source.failed(0, 0.0)
    assert source.window <= MAX_WINDOW / 4


def test_who_fails_again_and_again_rests_long():
    source = Source(flags("1"))
    rests = []
    for _ in range(4):
        source.failed(0, 0.0)
        rests.append(source.rests_until_s)
    assert rests == [1.0, 2.0, 30.0, 30.0]
    source.answered(0, 40.0)
    assert source.strikes == 0
