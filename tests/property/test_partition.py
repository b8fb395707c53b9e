"""What every partitioner promises, whatever the data and the seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.data.concepts import Concepts
from sims.data.partition import (
    IID,
    PARTITIONS,
    ByGroup,
    ClassBlocks,
    ClassDraw,
    Classes,
    DirichletLabels,
    DirichletSizes,
    DualDirichlet,
    Natural,
    Replicated,
)

ALL_ROWS = [
    IID(),
    ByGroup(),
    ClassBlocks(2),
    Concepts(2),
    Classes(2),
    ClassDraw(1, 3),
    DirichletLabels(0.1, 2),
    DirichletLabels(100.0),
    DirichletSizes(0.1, 2),
    DualDirichlet(1.0, 0.1),
    Natural(),
]


@st.composite
def cases(draw):
    """Labels of 3 classes and owners of 2 groups, enough rows for every client."""
    clients = draw(st.integers(2, 12))
    each = draw(st.integers(12, 20))
    rows = clients * each
    labels = np.arange(rows) % 3
    shift = draw(st.integers(0, 2))
    return np.sort(labels) if shift else labels, np.arange(rows) % 2, clients


def test_every_partitioner_is_tested():
    dealt = set(PARTITIONS.values()) - {Replicated}
    assert {type(p) for p in ALL_ROWS} == dealt


@settings(deadline=None, max_examples=25)
@given(cases(), st.integers(0, 2**63), st.sampled_from(ALL_ROWS))
def test_every_row_is_dealt_once_and_nobody_is_empty(case, seed, partition):
    labels, groups, clients = case
    wanted = 2 if isinstance(partition, Natural) else clients
    if isinstance(partition, ClassDraw):
        clients = wanted = max(clients, 6)  # enough holders for three classes
    parts = partition.split(labels, groups, wanted, seed)
    assert len(parts) == wanted
    assert all(len(rows) and (np.diff(rows) > 0).all() for rows in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = partition.split(labels, groups, wanted, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 30), st.floats(0.01, 10), st.integers(0, 99))
def test_nobody_holds_less_than_the_minimum(clients, minimum, alpha, seed):
    labels = np.arange(clients * minimum + clients) % 10
    for partition in (DirichletLabels(alpha, minimum), DirichletSizes(alpha, minimum)):
        sizes = [len(rows) for rows in partition.split(labels, None, clients, seed)]
        assert min(sizes) >= minimum
        assert sum(sizes) == len(labels)


def test_replicated_gives_everybody_all_rows_in_one_order():
    for rows in Replicated().split(np.arange(7), None, 3, seed=5):
        assert rows.tolist() == list(range(7))


def skew(partition, seed):
    """Return the mean total variation between a client's classes and all classes."""
    labels = np.arange(4000) % 10
    parts = partition.split(labels, None, 20, seed)
    shares = [np.bincount(labels[rows], minlength=10) / len(rows) for rows in parts]
    return np.mean([np.abs(share - 0.1).sum() / 2 for share in shares])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32))
def test_skew_grows_as_alpha_falls(seed):
    by_alpha = [skew(DirichletLabels(alpha), seed) for alpha in (0.05, 0.5, 5.0, 500.0)]
    assert by_alpha == sorted(by_alpha, reverse=True)
    assert by_alpha[0] > 0.5
    assert by_alpha[-1] < 0.1
    mixes = [skew(DualDirichlet(20.0, alpha), seed) for alpha in (0.5, 500.0)]
    assert mixes[0] > mixes[1]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32))
def test_seeds_differ(seed):
    labels = np.arange(600) % 10
    for name in set(PARTITIONS) - {"natural", "replicated"}:
        one, other = (
            PARTITIONS[name]().split(labels, labels % 2, 12, s)
            for s in (seed, seed + 1)
        )
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True)), (
            name
        )


def test_ten_thousand_clients_are_all_served():
    labels = np.arange(60_000) % 10
    for name in set(PARTITIONS) - {"natural", "replicated"}:
        parts = PARTITIONS[name]().split(labels, labels % 3, 10_000, seed=0)
        assert len(parts) == 10_000
        assert min(map(len, parts)) >= 1
        assert len(np.unique(np.concatenate(parts))) == 60_000
