import torch

from fedcore.params import add, digest, norm, size_bytes, sub

A = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3.0)}
B = {"a": torch.tensor(1.0), "b": torch.tensor([[10.0, 20.0]])}


def test_linear_algebra_by_name():
    assert add(A, B, 0.5)["b"].tolist() == [[6.0, 12.0]]
    assert sub(A, B)["a"].item() == 2.0
    assert norm(A) == 14**0.5
    assert size_bytes(A) == 12


def test_results_keep_the_dtype_of_the_model():
    half = {"w": torch.ones(2, dtype=torch.bfloat16)}
    assert add(half, {"w": torch.ones(2)})["w"].dtype == torch.bfloat16


def test_digest_sees_bits_names_shapes_and_dtypes_but_not_insertion_order():
    assert digest(A) == digest(dict(reversed(A.items())))
    zero = {"w": torch.tensor([0.0])}
    others = [
        {"w": torch.tensor([-0.0])},
        {"v": torch.tensor([0.0])},
        {"w": torch.tensor([[0.0]])},
        {"w": torch.tensor([0], dtype=torch.int32)},
    ]
    assert all(digest(zero) != digest(o) for o in others)
