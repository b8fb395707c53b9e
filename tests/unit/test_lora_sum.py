"""Sums of low-rank updates: exact where averages of factors are wrong."""

from itertools import permutations

import pytest
import torch

from fedcore.params import digest
from fedcore.strategy import Update
from strategies.lora_sum import (
    DOWN,
    UP,
    factored,
    mean_product,
    multiplied,
    product,
    truncated,
)


def pair(peer, up, down, examples=1):
    payload = {"w:B": torch.tensor(up), "w:A": torch.tensor(down)}
    return Update(peer, 0, payload, examples)


def random_pair(peer, rank, examples, seed):
    g = torch.Generator().manual_seed(seed)
    up, down = torch.randn(5, rank, generator=g), torch.randn(rank, 4, generator=g)
    return Update(peer, 0, {"w:B": up, "w:A": down}, examples)


RANKS = {"a": 1, "b": 2, "c": 4}
MIXED = [random_pair(p, r, 5 - r, seed=r) for p, r in RANKS.items()]


def test_the_mean_of_products_is_not_the_product_of_means():
    """One peer teaches one input, one the other; averaged factors mix them up."""
    one = pair("a", [[1.0], [0.0]], [[1.0, 0.0]])
    two = pair("b", [[0.0], [1.0]], [[0.0, 1.0]])
    exact = mean_product([one, two])["w"]
    assert exact.tolist() == [[0.5, 0.0], [0.0, 0.5]]
    ups, downs = ([u.payload[k] for u in (one, two)] for k in ("w:B", "w:A"))
    naive = (sum(ups) / 2) @ (sum(downs) / 2)
    assert naive.tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_different_ranks_sum_to_the_weighted_mean_of_what_they_mean():
    whole = {
        u.examples: u.payload["w:B"].double() @ u.payload["w:A"].double() for u in MIXED
    }
    want = sum(n * t for n, t in whole.items()) / sum(whole)
    got = mean_product(MIXED)["w"]
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, want, atol=2.0**-32, rtol=0)


def test_the_order_of_updates_changes_no_bit():
    assert len({digest(mean_product(list(us))) for us in permutations(MIXED)}) == 1


def test_a_product_by_hand():
    up, down = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0], [0.5]])
    assert product(up, down).tolist() == [[4.0], [-0.5]]


def test_a_product_rounds_only_where_ranks_are_added():
    """(1 + 2^-23)² does not fit float32; its 47 bits fit float64."""
    near = torch.tensor([[1 + 2.0**-23]])
    assert product(near, near).item() == 1 + 2.0**-22 + 2.0**-46


def test_other_tensors_are_averaged_as_they_are():
    trees = [{"bias": torch.tensor([1.0])}, {"bias": torch.tensor([4.0])}]
    updates = [Update(f"p{i}", 0, tree, 1 + i) for i, tree in enumerate(trees)]
    assert mean_product(updates)["bias"].tolist() == [3.0]


def test_the_form_of_an_update():
    params = {"w": torch.ones(6, 4), "b": torch.ones(6), "conv": torch.ones(2, 1, 3, 3)}
    shapes = {name: tuple(t.shape) for name, t in factored(params, 8).items()}
    assert shapes == {"w:B": (6, 4), "w:A": (4, 4), "b": (6,), "conv": (2, 1, 3, 3)}
    one = factored(params, 1)
    assert (one["w" + UP].shape, one["w" + DOWN].shape) == ((6, 1), (1, 4))
    back = multiplied(Update("a", 0, one, 1)).payload
    assert back.keys() == params.keys()
    assert all(back[name].shape == t.shape for name, t in params.items())


@pytest.mark.parametrize("rank", [1, 2, 3, 9])
def test_truncation_is_the_best_of_its_rank(rank):
    """Eckart and Young: what is lost is exactly the singular values that are cut."""
    g = torch.Generator().manual_seed(3)
    matrix = torch.randn(5, 4, generator=g, dtype=torch.float64)
    near = truncated(matrix, rank)
    lost = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
    torch.testing.assert_close((matrix - near).norm(), lost, atol=1e-12, rtol=0)
    assert torch.linalg.matrix_rank(near) == min(rank, 4)


def test_factors_within_the_gate_whose_product_is_not_are_left_out():
    """Nor do they end the round: the others count as if it had not come."""
    huge = pair("b", [[900.0]] * 5, [[900.0] * 4], examples=10_000)
    first, _, last = MIXED
    got = mean_product([first, huge, last])
    assert digest(got) == digest(mean_product([first, last]))
    assert mean_product([huge]) == {}
