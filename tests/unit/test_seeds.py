import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.seeds import choose, permutation, seed_of, uniform, words


def test_names_and_types_tell_seeds_apart():
    paths = [("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("b", "a"), ("a", "b", "")]
    assert len({seed_of(*p) for p in paths}) == len(paths)


@given(st.integers(1, 200), st.data())
@settings(deadline=None, max_examples=40)
def test_choose_gives_distinct_indices_in_range(size, data):
    count = data.draw(st.integers(0, size))
    drawn = choose(size, count, "t", size)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    assert all(0 <= i < size for i in drawn)


def test_choose_is_fair():
    counts = np.zeros(10)
    for i in range(3000):
        counts[choose(10, 3, "fair", i)] += 1
    # 900 expected each; five standard deviations are 126
    assert abs(counts - 900).max() < 126


def test_permutation_is_one():
    assert sorted(permutation(1000, "p")) == list(range(1000))


def test_uniform_stays_inside_the_open_interval():
    drawn = [uniform("u", i) for i in range(1000)]
    assert 0 < min(drawn) < max(drawn) < 1
    assert abs(np.mean(drawn) - 0.5) < 0.05


def test_a_longer_stream_begins_with_the_shorter_one():
    assert np.array_equal(words(10, "s")[:3], words(3, "s"))


def test_words_are_those_of_a_fresh_philox_whatever_was_drawn_before():
    for count, path in [(5, ("a",)), (1, ("b", 2)), (1000, ("a",)), (3, ("c",))]:
        fresh = np.random.Philox(key=seed_of(*path)).random_raw(count)
        assert np.array_equal(words(count, *path), fresh)
