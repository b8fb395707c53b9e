"""Pools of shared directions: numbers by hand, refusals, memory."""

import subprocess
import sys

import pytest
import torch

from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.pool import (
    Pool,
    direction,
    expand,
    fold,
    key_of,
    project,
    stream,
    unfold,
    walk,
)
from fedcore.pool.pattern import fwht
from fedcore.pool.stream import PATCH, ROW, Keystream
from fedcore.ring import ONE

TIES = ("tile", "shift", "flip")
BASE = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(0.5)}


def test_walsh_hadamard_transform_by_hand():
    rows = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 1]])
    assert fwht(rows).tolist() == [[10, -2, -4, 0], [1, -1, -1, 1]]


def test_a_sign_is_one_bit_of_the_keystream():
    words = Keystream(key_of(7)).words(0, 2 * ROW)
    for place in (0, 1, ROW, PATCH - 1, PATCH + 5):
        patch, inner = divmod(place, PATCH)
        word = int(words[patch * ROW + inner % ROW])
        bit = (word >> (inner // ROW)) & 1
        # row 0 of Hadamard's matrix is +1 everywhere
        sign = direction(Pool(16, tie="tile", seed=7), 0, 1, start=place)
        assert sign.tolist() == [1 - 2 * bit]


def test_a_tiled_direction_repeats_a_row_of_the_matrix():
    pool = Pool(4, tie="tile", seed=3)
    ratio = direction(pool, 3, 8) * direction(pool, 0, 8)
    assert ratio.tolist() == [1, -1, -1, 1, 1, -1, -1, 1]


def test_expand_by_hand():
    pool = Pool(2, tie="tile", seed=1)
    d = direction(pool, 0, 3).tolist()  # D: the vector is a, b[0], b[1]
    w = expand(pool, torch.tensor([[ONE, ONE // 2]]), 0.25, BASE)
    assert w["a"].item() == 0.5 + d[0] * 0.375
    assert w["b"].tolist() == [1 + d[1] * 0.125, 2 + d[2] * 0.375]


def test_project_by_hand():
    pool = Pool(2, tie="tile", seed=1)
    a, b, c = direction(pool, 0, 3).tolist()
    got = project(pool, BASE)
    even, odd = a * 0.5 + c * 2, b * 1.0
    assert got.tolist() == [(even + odd) * ONE, (even - odd) * ONE]


def test_fold_and_unfold_by_hand():
    key = key_of(5)
    d = direction(Pool(2, tie="tile", seed=5), 0, 5, start=9).tolist()
    folded = fold(key, torch.tensor([1.0, 2.0, 4.0, 8.0, 0.5]), 2, start=9)
    assert folded.tolist() == [
        (d[0] + 4 * d[2] + d[4] / 2) * ONE,
        (2 * d[1] + 8 * d[3]) * ONE,
    ]
    line = unfold(key, torch.tensor([ONE, -2 * ONE]), 5, 0.5, start=9)
    assert line.tolist() == [d[0] / 2, -d[1], d[2] / 2, -d[3], d[4] / 2]


@pytest.mark.parametrize("tie", TIES)
def test_whole_blocks_are_orthogonal(tie):
    pool = Pool(16, tie=tie, seed=2)
    z = torch.stack([direction(pool, k, 64, epoch=4) for k in range(16)])
    assert torch.equal(z @ z.T, 64 * torch.eye(16))


def test_epochs_lanes_and_seeds_give_other_signs():
    pools = Pool(16), Pool(16, seed=1), Pool(16, "signs")
    lines = [
        direction(p, k, 128, epoch=e) for p in pools for k in (1, 2) for e in (0, 1)
    ]
    assert len({tuple(line.tolist()) for line in lines}) == len(lines)


def test_a_hot_column_is_spread_by_shift_and_not_by_tile():
    # one column of a matrix as wide as the pool: tiled, all its weights share a place
    change = {"w": torch.zeros(64, 64)}
    change["w"][:, 5] = 1.0

    def spread(tie):
        pool = Pool(64, tie=tie, seed=3)
        got = torch.stack([project(pool, change, epoch=e) for e in range(40)])
        return (got.double() / ONE).square().sum(1).std()

    assert spread("shift") < spread("tile") / 1.5


def test_bfloat16_is_rounded_once():
    pool = Pool(2, seed=1)
    base = {"w": torch.ones(3, dtype=torch.bfloat16)}
    # two epochs of 3/8 of a last place each: alone, neither would change a weight
    step = int(0.375 * 2**-7 * ONE)
    a = torch.tensor([[step, 0], [step, 0]])
    z = direction(pool, 0, 3) + direction(pool, 0, 3, epoch=1)
    exact = 1 + z * 0.375 * 2**-7
    assert torch.equal(expand(pool, a, 1.0, base)["w"], exact.to(torch.bfloat16))


@pytest.mark.parametrize("kind", ["hadamard", "signs"])
def test_a_walk_leaves_no_trace(kind):
    pool, a = Pool(8, kind, seed=3), torch.tensor([[5 * ONE] * 8, [ONE] * 8])
    target = {name: torch.zeros_like(t, requires_grad=True) for name, t in BASE.items()}
    trip = walk(pool, target, BASE, a, 0.1)
    for k in range(8):
        trip.at(k, 1e-3)
        trip.move(k, 3 - k)
    trip.at(0, 7.0)
    trip.rest()
    moved = a.clone()
    moved[-1] += trip.coefficients
    assert trip.coefficients.tolist() == [3 - k for k in range(8)]
    assert digest(target) == digest(expand(pool, moved, 0.1, BASE))


def test_normal_numbers_are_normal_and_addressed_by_place():
    pool = Pool(2, "gaussian", seed=4)
    line = direction(pool, 1, 200_000)
    assert torch.equal(direction(pool, 1, 9, start=131_070), line[131_070:131_079])
    assert abs(line.mean()) < 0.02
    assert abs(line.std() - 1) < 0.02


@pytest.mark.parametrize("tie", TIES)
def test_words_are_read_back(tie):
    pool = Pool(1024, "hadamard", tie, 7)
    assert pool.word() == f"hadamard:{tie}:1024:7"
    assert Pool.of(pool.word()) == pool


@pytest.mark.parametrize(
    "word",
    ["", "hadamard", "hadamard:shift:1000:7", "hadamart:shift:1024:7", "a:b:c:d",
     "hadamard:shift:01024:7", "hadamard:shift:1024:-7",
     "hadamard:shift:1024:" + "9" * 9999, "hadamard:shift:1024:7:",
     "hadamard:twist:1024:7", "hadamard:shift:²:7"],
)  # fmt: skip
def test_odd_words_are_refused(word):
    with pytest.raises(ProtocolError, match="not a pool"):
        Pool.of(word)


@pytest.mark.parametrize(
    ("fields", "why"),
    [((1000,), "power of two"), ((1 << 17,), "65536"), ((4, "hadamrd"), "'hadamard'"),
     ((4, "hadamard", "shft"), "'shift'"), ((4, "signs", "tile", -1), "seed")],
)  # fmt: skip
def test_impossible_pools_are_refused(fields, why):
    with pytest.raises(ConfigError, match=why):
        Pool(*fields)


@pytest.mark.parametrize(
    ("coefficients", "why"),
    [(torch.zeros(1, 8), "not int64"), (torch.zeros(8, dtype=torch.int64), r"\(8,\)"),
     (torch.zeros(1, 4, dtype=torch.int64), r"\(E, 8\)"),
     (torch.full((1, 8), 1 << 61), "saturate"),
     (torch.full((2, 8), -(1 << 63)), "saturate")],
)  # fmt: skip
def test_odd_coefficients_are_refused(coefficients, why):
    with pytest.raises(ProtocolError, match=why):
        expand(Pool(8), coefficients, 1.0, BASE)


def test_other_refusals():
    pool, a = Pool(8), torch.full((1, 8), ONE)
    with pytest.raises(ConfigError, match="finite"):
        expand(pool, a, float("nan"), BASE)
    with pytest.raises(ProtocolError, match="float32"):
        expand(pool, a, 1e38, BASE)
    with pytest.raises(ConfigError, match="'n' is torch"):
        expand(pool, a, 1.0, {"n": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ConfigError, match="other names"):
        walk(pool, {"b": torch.zeros(2)}, BASE, a, 1.0)
    with pytest.raises(ConfigError, match="contiguous"):
        walk(pool, {"w": torch.zeros(3, 2).T}, {"w": torch.zeros(2, 3)}, a, 1.0)
    with pytest.raises(ProtocolError, match="one epoch or more"):
        walk(pool, {n: t.clone() for n, t in BASE.items()}, BASE, a[:0], 1.0)
    with pytest.raises(ConfigError, match="width 0"):
        fold(key_of(1), torch.zeros(3), 0)
    with pytest.raises(ConfigError, match="from place -1"):
        fold(key_of(1), torch.zeros(3), 2, start=-1)
    with pytest.raises(ConfigError, match="epoch -1"):
        direction(pool, 0, 3, epoch=-1)


@pytest.mark.parametrize("kind", ["hadamard", "signs", "gaussian"])
def test_an_index_beyond_the_pool_is_refused(kind):
    pool = Pool(8, kind)
    target = {name: t.clone() for name, t in BASE.items()}
    trip = walk(pool, target, BASE, torch.zeros(1, 8, dtype=torch.int64), 1.0)
    for step in (lambda: direction(pool, 8, 3), lambda: trip.at(8, 0.1),
                 lambda: trip.move(-1, 3)):  # fmt: skip
        with pytest.raises(ProtocolError, match=r"0 \.\. 7"):
            step()


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 2.0**40])
@pytest.mark.parametrize("kind", ["hadamard", "signs", "gaussian"])
def test_changes_that_leave_the_ring_are_refused(kind, odd):
    with pytest.raises(ProtocolError):
        project(Pool(8, kind), {"w": torch.tensor([0.0, odd, 1.0])})
    with pytest.raises(ProtocolError):
        fold(key_of(1), torch.tensor([0.0, odd]), 3)


def test_a_change_along_normal_directions_is_projected():
    pool = Pool(4, "gaussian", seed=2)
    change = {"w": torch.tensor([1.0, -2.0, 0.5]), "e": torch.zeros(0, 3)}
    z = torch.stack([direction(pool, k, 3, epoch=1) for k in range(4)])
    want = z.double() @ change["w"].double()
    got = project(pool, change, epoch=1)
    assert got.dtype == torch.int64
    assert torch.allclose(got.double() / ONE, want)
    assert project(pool, {}).tolist() == [0] * 4


def test_a_walk_that_leaves_float32_is_refused_and_stays():
    pool, a = Pool(8), torch.zeros(1, 8, dtype=torch.int64)
    target = {name: t.clone() for name, t in BASE.items()}
    trip = walk(pool, target, BASE, a, 1e30)
    with pytest.raises(ProtocolError, match="saturates"):
        trip.move(3, 1 << 61)
    with pytest.raises(ConfigError, match="leaves float32"):
        trip.at(3, 1e39)
    trip.rest()
    assert digest(target) == digest(BASE)


def test_folded_numbers_that_leave_float32_are_refused():
    for scale in (1e35, float("nan")):
        with pytest.raises(ProtocolError, match="leave float32"):
            unfold(key_of(1), torch.tensor([0, 1 << 62]), 4, scale)


def test_a_walk_that_saturates_is_refused_and_stays():
    pool, a = Pool(8), torch.full((1, 8), 1 << 58)
    trip = walk(pool, {n: t.clone() for n, t in BASE.items()}, BASE, a, 1e-9)
    with pytest.raises(ProtocolError, match="saturates"):
        trip.move(3, 1 << 62)
    assert trip.coefficients.tolist() == [0] * 8


def test_threads_and_how_much_is_worked_at_once_leave_the_bits(monkeypatch):
    pool, base = Pool(64, seed=9), {"w": torch.linspace(-1, 1, 2 * PATCH + 77)}
    a = torch.arange(128).view(2, 64) * (ONE // 7)

    def bits():
        w = expand(pool, a, 0.01, base)
        target = {"w": base["w"].clone()}
        walk(pool, target, base, a, 0.01).at(5, 0.5)
        folded = fold(key_of(2), base["w"], 1000, start=PATCH - 9)
        line = unfold(key_of(2), folded, len(base["w"]), 1e-4, start=PATCH - 9)
        counts = {"c": project(pool, w, epoch=1), "f": folded, "l": line}
        z = direction(pool, 3, PATCH + 9, start=PATCH + 5)
        return digest({**w, **counts, "t": target["w"], "z": z})

    threads = torch.get_num_threads()
    seen = set()
    for patches, count in ((1, 1), (1, 2), (3, 1)):
        monkeypatch.setattr(stream, "at_once", lambda device, n=patches: n)
        torch.set_num_threads(count)
        seen.add(bits())
    torch.set_num_threads(threads)
    assert len(seen) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_gives_the_same_bits():
    pool, base = Pool(64, seed=9), {"w": torch.linspace(-1, 1, 3 * PATCH + 77)}
    a = torch.arange(128).view(2, 64) * (ONE // 7)
    there = {"w": base["w"].cuda()}
    w = expand(pool, a, 0.01, there)
    assert w["w"].is_cuda
    assert digest(w) == digest(expand(pool, a, 0.01, base))
    assert torch.equal(project(pool, there, epoch=1), project(pool, base, epoch=1))


MEMORY = """
import resource
import torch
from fedcore.pool import Pool, expand, project, walk
torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
pool, a, d = Pool(1024), torch.ones(3, 1024, dtype=torch.int64), 40_000_000
base = {"w": torch.ones(d // 1000, 1000, dtype=torch.bfloat16)}
target = {"w": torch.ones(d // 1000, 1000, dtype=torch.bfloat16)}
expand(pool, a, 1.0, {"w": base["w"][:9]})
project(pool, {"w": base["w"][:9]})
before = peak()
walk(pool, target, base, a[:1], 1.0).at(5, 0.1)
project(pool, target)
after = peak()
new = expand(pool, a, 1.0, base)
print(after - before, peak() - after - 2 * d // 2**20)
"""


@pytest.mark.slow
def test_memory_beyond_the_model_is_small():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert all(int(mib) < 64 for mib in done.stdout.split())
