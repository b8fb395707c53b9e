"""FedCompass through Flower: the same objects, on the wall clock."""

import pytest
import torch

from fedcore.coordinator import Coordinator, Rules
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.strategy import peer_name
from sims.flower.grid import InProcessGrid
from sims.line import Line
from strategies.compass import FedCompass
from strategies.compass_pacer import Compass
from tests.cases import TRAINER

START = {"weight": torch.zeros(1, 4)}
TARGET = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
PEERS, FOLDS = 3, 20


@pytest.mark.parametrize("workers", [0, 2])
def test_groups_of_flower_clients(workers):
    app = client_app(lambda c: Line(seed=int(c.node_config["partition-id"])), TRAINER)
    folds = []
    with InProcessGrid(app, PEERS, workers=workers) as grid:
        rules = Rules(FedCompass(clients=PEERS), Compass(2, 8))
        link = FlowerLink(grid, LinkLimits(wait_for=PEERS))
        state = Coordinator(rules, link, watch=folds.append).run(START, FOLDS)
    made = [f.folded for f in folds if f.folded]
    answers = [(u.peer, u.version) for fold in made for u in fold]
    assert state.version == len(made) == FOLDS
    assert len(answers) == len(set(answers))
    assert {peer for peer, _ in answers} == {peer_name(i) for i in range(PEERS)}
    firsts = [fold for fold in made if 0 in {u.version for u in fold}]
    assert [len(fold) for fold in firsts] == [1] * PEERS
    assert all(2 <= u.metrics["steps"] <= 8 for fold in made for u in fold)
    assert float((state.params["weight"] - TARGET).square().sum()) < 1.0
