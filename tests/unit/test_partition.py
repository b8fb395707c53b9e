import numpy as np
import pytest

from clients.tasks import load_task
from fedcore.errors import ConfigError
from sims.data.concepts import Concepts, disagreeing
from sims.data.deal import deal, even, quotas, topped_up
from sims.data.federate import federate
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
)
from sims.draws import dirichlets, log_gammas, normals, uniforms

TEN = np.repeat(np.arange(10), 100)  # 100 rows of each of ten classes
OWNERS = np.repeat([7, 3, 5], [1, 5, 4])


def kinds(labels, rows):
    return sorted(set(labels[rows].tolist()))


def test_iid_differs_by_at_most_one_row():
    parts = IID().split(TEN, None, 7, seed=1)
    assert sorted(map(len, parts)) == [142, 143, 143, 143, 143, 143, 143]


def test_iid_with_a_size_deals_round_and_round():
    parts = IID(per_client=3).split(np.zeros(5), None, 5, seed=1)
    counts = np.bincount(np.concatenate(parts))
    assert [len(rows) for rows in parts] == [3] * 5
    assert counts.tolist() == [3] * 5
    assert all(len(set(rows.tolist())) == 3 for rows in parts)


def test_classes_deals_shards_of_sorted_rows():
    parts = Classes(per_client=2).split(TEN, None, 5, seed=3)
    assert [len(rows) for rows in parts] == [200] * 5
    assert [len(kinds(TEN, rows)) for rows in parts] == [2] * 5


def test_class_draw_keeps_to_its_bounds():
    parts = ClassDraw(2, 4).split(TEN, None, 12, seed=0)
    counts = [len(kinds(TEN, rows)) for rows in parts]
    assert min(counts) >= 2
    assert max(counts) <= 4


def test_class_blocks_are_those_of_clustered_learning():
    parts = ClassBlocks(3).split(TEN, None, 6, seed=0)
    blocks = [[0, 1, 2, 3]] * 2 + [[4, 5, 6]] * 2 + [[7, 8, 9]] * 2
    assert [kinds(TEN, rows) for rows in parts] == blocks


def test_natural_gives_each_owner_its_rows():
    parts = Natural().split(np.zeros(10), OWNERS, 0, seed=0)
    assert [rows.tolist() for rows in parts] == [[1, 2, 3, 4, 5], [6, 7, 8, 9], [0]]
    parts = Natural(min_examples=4).split(np.zeros(10), OWNERS, 2, seed=0)
    assert [len(rows) for rows in parts] == [5, 4]
    one = Natural().split(np.zeros(10), OWNERS, 1, seed=0)
    assert len({OWNERS[row] for row in one[0]}) == 1


def test_by_group_deals_clients_to_groups_in_order():
    parts = ByGroup().split(np.zeros(10), np.repeat([0, 1], 5), 4, seed=0)
    assert [(rows < 5).all() or (rows >= 5).all() for rows in parts] == [True] * 4
    assert [bool(rows[0] < 5) for rows in parts] == [True, True, False, False]


def test_dirichlet_sizes_leave_the_mix_alone():
    parts = DirichletSizes(alpha=0.3).split(TEN, None, 4, seed=5)
    sizes = [len(rows) for rows in parts]
    assert max(sizes) > 2 * min(sizes)
    largest = max(parts, key=len)
    shares = np.bincount(TEN[largest], minlength=10) / len(largest)
    assert np.abs(shares - 0.1).max() < 0.05


def test_quotas_round_running_totals():
    assert quotas(np.array([1.0, 1.0, 2.0]), 8).tolist() == [2, 2, 4]
    assert quotas(np.full(10, 0.1), 3).sum() == 3
    assert quotas(np.zeros(4), 6).tolist() == even(4, 6).tolist() == [1, 2, 1, 2]


def test_a_deal_follows_its_weights_class_by_class():
    weights = np.array([[1.0, 0.0], [3.0, 1.0]])
    classes = np.array([0, 0, 1, 0, 0, 1])
    owner = deal(classes, weights, seed=9)
    assert np.bincount(owner[classes == 0]).tolist() == [1, 3]
    assert owner[classes == 1].tolist() == [1, 1]


def test_the_richest_give_to_the_poor():
    owner, classes = np.array([0, 0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 0, 0])
    after = topped_up(owner, classes, clients=3, minimum=2)
    assert np.bincount(after).tolist() == [3, 2, 2]
    assert kinds(classes, after == 2) == [1, 2]  # the giver's last classes
    assert owner.tolist() == [0, 0, 0, 0, 0, 1, 1]  # the argument is not written


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 4.0])
def test_gammas_have_their_mean_and_variance(shape):
    draws = np.exp(log_gammas(np.full(200_000, shape), "gamma", 1))
    assert draws.mean() == pytest.approx(shape, rel=0.05)
    assert draws.var() == pytest.approx(shape, rel=0.1)


def test_normals_and_uniforms_have_their_moments():
    n, u = normals(100_000, "n"), uniforms(100_000, "u")
    assert (n.mean(), n.var()) == pytest.approx((0, 1), abs=0.02)
    assert (u.mean(), u.var()) == pytest.approx((1 / 2, 1 / 12), abs=0.01)
    assert ((u > 0) & (u < 1)).all()


def test_dirichlets_survive_tiny_concentrations():
    shares = dirichlets(np.full((50, 10), 1e-4), "tiny")
    assert np.isfinite(shares).all()
    assert shares.sum(1) == pytest.approx(np.ones(50))
    assert (shares.max(1) > 0.99).mean() > 0.9


def test_draws_are_the_same_on_every_machine():
    got = dirichlets(np.full((1, 3), 0.5), "golden")[0]
    assert got == pytest.approx(GOLDEN_DIRICHLET, rel=1e-12)
    parts = DirichletLabels(0.5).split(TEN[::50], None, 3, seed=1)
    assert [rows.tolist() for rows in parts] == GOLDEN_PARTS


REFUSED = {
    "no clients": (IID(), 0, "0 clients"),
    "more clients than rows": (IID(), 1001, "ask for at most 1000"),
    "a minimum too high": (DirichletLabels(1, 20), 51, "ask for at most 50"),
    "too many shards": (Classes(3), 334, "need 1002 examples"),
    "per_client too high": (IID(1001), 2, "need 1001 examples"),
    "no groups": (Natural(), 2, "no natural owners"),
    "no groups at all": (ByGroup(), 2, "no natural owners"),
    "too many classes": (ClassDraw(3, 11), 5, "there are 10 classes"),
    "too few holders": (ClassDraw(1, 3), 3, "do not cover 10 classes"),
    "too many blocks": (ClassBlocks(11), 20, "at most 10"),
    "fewer clients than blocks": (ClassBlocks(3), 2, "2 clients for 3 groups"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_dealt_is_refused(name):
    partition, clients, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        partition.split(TEN, None, clients, seed=0)


@pytest.mark.parametrize("clients", [-1, 3])
def test_natural_says_how_many_owners_there_are(clients):
    with pytest.raises(ConfigError, match="ask for 1 to 2, or 0 for all"):
        Natural(min_examples=4).split(np.zeros(10), OWNERS, clients, seed=0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (IID, {"per_client": -1}),
        (DirichletLabels, {"alpha": 0.0}),
        (DirichletLabels, {"alpha": float("nan")}),
        (DirichletSizes, {"min_examples": 0}),
        (DualDirichlet, {"alpha2": float("inf")}),
        (Classes, {"per_client": 0}),
        (ClassDraw, {"low": 3, "high": 2}),
        (ClassBlocks, {"blocks": 0}),
        (Natural, {"min_examples": 0}),
    ],
)
def test_impossible_settings_are_refused(kind, settings):
    with pytest.raises(ConfigError, match=f"{kind.__name__}: .*{next(iter(settings))}"):
        kind(**settings)


@pytest.mark.parametrize("labels", [np.zeros((50, 3), dtype=int), np.zeros(50)])
def test_partitions_by_class_need_classes(labels):
    for name in (
        "dirichlet",
        "dual-dirichlet",
        "classes",
        "class-draw",
        "class-blocks",
    ):
        with pytest.raises(ConfigError, match="cuts by class"):
            PARTITIONS[name]().split(labels, None, 5, seed=0)
    assert len(IID().split(labels, None, 5, seed=0)) == 5


def test_natural_owners_are_tested_on_their_own_rows():
    data = load_task("shakespeare")
    peers = federate(data, Natural(), 0, seed=0)
    assert len(peers) == 315
    task = peers["peer-000003"]
    assert set(data.groups[task.rows]) == set(data.test_groups[task.held_out]) == {3}
    assert federate(data, IID(), 5, seed=0)["peer-000000"].held_out is None


def test_concepts_disagree_and_are_tested_apart():
    plain = load_task("digits")
    data = disagreeing(plain, 3, seed=1)
    peers = federate(data, ByGroup(), 6, seed=0)
    held_out = [peers[peer].held_out for peer in peers]
    assert sum(map(len, held_out[::2])) == len(plain.test[0])
    for group in range(3):
        here = data.groups == group
        pairs = set(zip(plain.labels[here], data.labels[here], strict=True))
        assert len(pairs) == 10  # one new name for each class
        assert (group == 0) == all(old == new for old, new in pairs)


def test_the_partition_concepts_renames_classes_and_deals_by_group():
    plain = load_task("digits")
    data = disagreeing(plain, 3, seed=1)
    got, want = federate(plain, Concepts(3), 6, 1), federate(data, ByGroup(), 6, 1)
    for peer in want:
        assert got[peer].rows.tolist() == want[peer].rows.tolist()
        assert got[peer].held_out.tolist() == want[peer].held_out.tolist()
    assert got.dataset.digest() == data.digest()


def test_concepts_need_rows():
    with pytest.raises(ConfigError, match="cannot make 0 concepts"):
        disagreeing(load_task("digits"), 0, seed=1)


GOLDEN_DIRICHLET = [0.07282545131827907, 0.14229569549093504, 0.784878853190786]
GOLDEN_PARTS = [
    [0, 1, 2, 4, 5, 7, 12, 13, 14, 18],
    [10, 11, 15, 16, 17, 19],
    [3, 6, 8, 9],
]
