"""Each clusterer gets the matrix it is defined on; noise goes where it is told."""

import pytest
import torch

from fedcore.errors import ConfigError
from strategies.clustered.angles import Angles
from strategies.clustered.clusterers import (
    CLUSTERERS,
    HDBSCAN,
    Affinity,
    Agglomerative,
    KMeans,
    MeanShift,
)
from strategies.clustered.noise import settled

ALL = {
    "affinity": Affinity(),
    "agglomerative": Agglomerative(clusters=3),
    "agglomerative, by threshold": Agglomerative(threshold=0.5),
    "hdbscan": HDBSCAN(),
    "kmeans": KMeans(clusters=3),
    "mean-shift": MeanShift(),
}
CAMPS = [0] * 5 + [1] * 5 + [2] * 5


def three_camps():
    """Five peers each about three directions at right angles; cosines 0.93 to 0.97."""
    g = torch.Generator().manual_seed(1)
    rows = torch.eye(3).repeat_interleave(5, dim=0)
    rows = torch.cat([rows, torch.zeros(15, 9)], dim=1)
    return Angles.of(list(rows + 0.08 * torch.randn(15, 12, generator=g)))


class Reversed(Angles):
    """What published comparisons gave: one matrix for the other."""

    @property
    def similarity(self):
        return Angles(self.units).distance

    @property
    def distance(self):
        return Angles(self.units).similarity


def test_there_is_one_of_each_registered_kind():
    assert {type(c) for c in ALL.values()} == set(CLUSTERERS.values())


@pytest.mark.parametrize("name", ALL)
def test_finds_three_camps(name):
    angles = three_camps()
    assert settled(ALL[name].labels(angles, 0), angles, "nearest") == CAMPS


@pytest.mark.parametrize("name", ["affinity", "agglomerative"])
def test_the_published_mix_up_puts_those_together_who_differ_most(name):
    from sklearn.metrics import adjusted_rand_score

    angles = three_camps()
    wrong = ALL[name].labels(Reversed(angles.units), 0)
    assert adjusted_rand_score(CAMPS, wrong) < 0.5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_directions_are_one_cluster_or_refused_a_split(name, count):
    """Also: no warning leaves, which would be an error here."""
    same = Angles.of([torch.ones(4)] * count)
    labels = settled(ALL[name].labels(same, 0), same, "nearest")
    assert len(labels) == count
    if name != "agglomerative":  # it was told how many to leave
        assert set(labels) == {0}


@pytest.mark.parametrize("name", ALL)
def test_no_directions_at_all_do_no_harm(name):
    none = Angles.of([torch.zeros(4)] * 6)
    assert len(ALL[name].labels(none, 0)) == 6


def test_hdbscan_says_who_is_noise_and_needs_room_for_two():
    angles = three_camps()
    rows = [*angles.units, torch.tensor([0.0] * 11 + [1.0], dtype=torch.float64)]
    assert HDBSCAN(smallest=3).labels(Angles.of(rows), 0)[-1] == -1
    assert set(HDBSCAN(smallest=8).labels(angles, 0)) == {0}


TWO = [torch.tensor([1.0, 0.0])] * 2 + [torch.tensor([0.0, 1.0])] * 2
NEAR_FIRST = torch.tensor([1.0, 0.4])
NEAR_SECOND = torch.tensor([0.3, 1.0])


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ("nearest", [0, 0, 1, 1, 0, 1]),
        ("single", [0, 0, 1, 1, 2, 3]),
        ("together", [0, 0, 1, 1, 2, 2]),
    ],
)
def test_noise_goes_where_the_setting_says(noise, expected):
    angles = Angles.of([*TWO, NEAR_FIRST, NEAR_SECOND])
    assert settled([7, 7, 3, 3, -1, -1], angles, noise) == expected


def test_where_all_is_noise_nobody_is_near_anything():
    angles = Angles.of(TWO)
    assert settled([-1] * 4, angles, "nearest") == [0, 0, 0, 0]
    assert settled([-1] * 4, angles, "together") == [0, 0, 0, 0]
    assert settled([-1] * 4, angles, "single") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HDBSCAN(smallest=1),
        lambda: Agglomerative(threshold=0.0),
        lambda: Agglomerative(threshold=2.0),
        lambda: Agglomerative(clusters=-1),
        lambda: Affinity(damping=0.3),
        lambda: KMeans(clusters=0),
        lambda: MeanShift(quantile=0.0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"must be|at least"):
        wrong()
