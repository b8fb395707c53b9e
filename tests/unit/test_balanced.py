"""The losses and values of KAFAL, by hand."""

from dataclasses import dataclass
from itertools import islice
from math import log

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from clients.trainers.balanced import (
    Balanced,
    Mixer,
    adjusted,
    compensation,
    disagreement,
    entropy,
    rarity,
)


def logits(*rows):
    """Return scores whose plain shares are ``rows``."""
    return torch.tensor(rows).log()


def test_counts_shift_the_shares_and_classes_never_seen_are_left_out():
    """Shares 1/2, 1/4, 1/4 with counts 1, 2, 0: 1/2 and 1/2 of what is left."""
    got = adjusted(logits([0.5, 0.25, 0.25]), torch.tensor([1.0, 2.0, 0.0]))
    assert got.exp()[0].tolist() == pytest.approx([0.5, 0.5])


def test_disagreement_by_hand():
    """(1/2, 1/2) and (1/4, 3/4): half of (ln 4/3)/2 + (3/4 ln 3/2 - 1/4 ln 2)."""
    ours, theirs = logits([0.5, 0.5]), logits([0.25, 0.75])
    one = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    other = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    got = disagreement(ours, theirs, torch.tensor([3.0, 3.0]))
    assert got.item() == pytest.approx((one + other) / 2)
    assert torch.equal(got, disagreement(theirs, ours, torch.tensor([3.0, 3.0])))


def test_disagreement_with_an_absent_class_is_a_number():
    """The released code takes the logarithm of 0 here and gets NaN."""
    ours, theirs = torch.tensor([[5.0, 0.0, 9.0]]), torch.tensor([[0.0, 5.0, -9.0]])
    got = disagreement(ours, theirs, torch.tensor([1.0, 1.0, 0.0]))
    assert got.item() == pytest.approx(
        disagreement(ours[:, :2], theirs[:, :2], torch.ones(2)).item()
    )
    assert disagreement(ours, theirs, torch.tensor([1.0, 0.0, 0.0])).item() == 0.0


def test_entropy_by_hand():
    got = entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    assert got.tolist() == pytest.approx([log(2), 0.0], abs=1e-6)


def test_rarity_by_hand():
    """1/1 and 1/3 of their sum, and nothing for a class without labels."""
    assert rarity(torch.tensor([1.0, 3.0, 0.0])).tolist() == [0.75, 0.25, 0.0]


@dataclass(frozen=True)
class Numbers:
    """Input i is (i, -i)."""

    examples: int = 6
    epoch_steps: int = 3

    def inputs(self, rows):
        x = torch.from_numpy(rows).float()
        return torch.stack([x, -x], dim=1)

    def batches(self, seed):
        while True:
            yield torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])


def test_every_mix_has_a_partner_and_a_share_of_its_own():
    """Inputs 10 and 30 count 1 and 3, so what a mix counts is a tenth of the mix."""
    mixer = Mixer(Numbers(), np.array([10, 30]), torch.tensor([1.0, 3.0]))
    x, worth = mixer.draw(500, seed=1, step=0)
    assert torch.allclose(x[:, 0], 10 * worth, rtol=1e-5)
    assert torch.allclose(x[:, 1], -x[:, 0])
    pure = ((x[:, 0] - 10).abs() < 1e-4) | ((x[:, 0] - 30).abs() < 1e-4)
    assert 0.4 < pure.float().mean() < 0.6, "half of the partners are the same input"
    assert len(set(x[~pure, 0].tolist())) > 200


def test_shares_are_beta_2_2():
    """Mean 1/2, variance 1/20, and P(share < 1/4) = 5/32."""
    mixer = Mixer(Numbers(), np.array([0, 1]), torch.tensor([0.0, 1.0]))
    drawn = mixer.draw(20_000, seed=5, step=3)[1]
    mixes = drawn[(drawn > 1e-6) & (drawn < 1 - 1e-6)]
    assert mixes.mean().item() == pytest.approx(0.5, abs=0.01)
    assert mixes.var().item() == pytest.approx(0.05, abs=0.003)
    assert (mixes < 0.25).float().mean().item() == pytest.approx(5 / 32, abs=0.01)


def test_mixes_are_drawn_by_seed_and_step():
    mixer = Mixer(Numbers(), np.arange(6), torch.arange(6.0))
    first = mixer.draw(4, seed=1, step=0)[0]
    assert torch.equal(first, mixer.draw(4, seed=1, step=0)[0])
    assert not torch.equal(first, mixer.draw(4, seed=1, step=1)[0])
    assert not torch.equal(first, mixer.draw(4, seed=2, step=0)[0])


class Fixed(nn.Module):
    """Gives every input the same scores."""

    def __init__(self, *shares):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(shares).log())

    def forward(self, x):
        return self.scores.expand(len(x), -1)


def test_balanced_softmax_by_hand():
    """Shares (1/2, 1/2) with counts 1 and 3 become (1/4, 3/4)."""
    task = Balanced(Numbers(), torch.tensor([1.0, 3.0]))
    batch = next(task.batches(0))
    assert len(batch) == 2
    got = task.loss(Fixed(0.5, 0.5), batch)
    assert got.item() == pytest.approx(-(log(0.25) + log(0.75)) / 2)


def test_a_class_without_labels_gets_no_gradient_and_no_nan():
    model = Fixed(0.2, 0.3, 0.5)
    task = Balanced(Numbers(), torch.tensor([1.0, 3.0, 0.0]))
    loss = task.loss(model, next(task.batches(0)))
    (grad,) = torch.autograd.grad(loss, model.scores)
    assert grad[2].item() == 0.0
    assert torch.isfinite(grad).all()


def test_compensation_by_hand():
    """KL of (1/2, 1/2) from (1/4, 3/4), over two classes, counted 1 and 3."""
    divergence = 0.5 * log(2) + 0.5 * log(2 / 3)
    server, model = Fixed(0.5, 0.5), Fixed(0.25, 0.75)
    got = compensation(server, model, torch.zeros(2, 2), torch.tensor([1.0, 3.0]))
    assert got.item() == pytest.approx(2 * divergence / 2)
    got.backward()
    assert server.scores.grad is None
    assert model.scores.grad[0] < 0 < model.scores.grad[1]


def test_advice_is_added_to_the_loss():
    mixer = Mixer(Numbers(), np.arange(6), torch.ones(6))
    server, model = Fixed(0.5, 0.5), Fixed(0.25, 0.75)
    task = Balanced(Numbers(), torch.ones(2), mixer, server)
    (batch,) = islice(task.batches(3), 1)
    x, y, mixed, worth = batch
    want = cross_entropy(model(x), y) + compensation(server, model, mixed, worth)
    assert task.loss(model, batch).item() == pytest.approx(want.item())
    assert worth.tolist() == pytest.approx([1.0] * 4)
