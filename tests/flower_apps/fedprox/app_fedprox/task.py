"""Digits, a small network, and one node's share."""

import torch
from sklearn.datasets import load_digits
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def share(partition, parts):
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x / 16, dtype=torch.float32)[partition::parts]
    return x, torch.tensor(y)[partition::parts]


def fit(model, x, y, lr, epochs, proximal_mu=0.0):
    start = [p.detach().clone() for p in model.parameters()]
    total = 0.0
    for _ in range(epochs):
        for at in range(0, len(x), 32):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(x[at : at + 32]), y[at : at + 32])
            pull = sum(
                (p - s).square().sum()
                for p, s in zip(model.parameters(), start, strict=True)
            )
            (loss + proximal_mu / 2 * pull).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= lr * p.grad
            total += loss.item() * len(x[at : at + 32])
    return total / (len(x) * epochs)


def test(model, x, y):
    with torch.no_grad():
        scores = model(x)
        loss = nn.functional.cross_entropy(scores, y).item()
    return loss, (scores.argmax(1) == y).float().mean().item()
