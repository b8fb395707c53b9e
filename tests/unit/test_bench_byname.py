"""The row of base models by name: counted on the wire of an in-process grid."""

import pytest

pytest.importorskip("flwr")


@pytest.mark.slow
def test_by_name_a_round_sends_numbers_and_the_model_goes_once():
    from sims.bench.byname import NODES, measured

    weights = 100_000  # 400 kB: above the size from which models go by name
    first, named, _ = measured(weights, whole=False)
    _, whole, _ = measured(weights, whole=True)
    assert whole > 4 * weights * NODES > whole / 1.2
    assert 8 * 1024 * NODES < named < 1.2 * 8 * 1024 * NODES
    assert first > 4 * weights * NODES
