"""Figures of each client with its own model on its own kind of examples."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from clients.tasks.dataset import Dataset, Shard
from clients.trainers.sgd import SGD
from fedcore.config import from_flags
from fedcore.strategy import Work
from sims.data.own_rows import own_tests
from sims.report.story import personal as chart
from sims.runs.config import configured
from sims.runs.personal import Tuning, personal, some
from sims.runs.run import Watcher, prepare, simulate
from sims.runs.spread import spread
from strategies.fedavg import FedAvg, Model


def three_classes(each_test):
    """Return 30 rows of three classes to learn from, and some of each held out."""
    train_y = torch.arange(30) % 3
    test_y = torch.repeat_interleave(torch.arange(3), torch.tensor(each_test))
    return Dataset(
        "three",
        (nn.functional.one_hot(train_y, 3).float(), train_y),
        (nn.functional.one_hot(test_y, 3).float(), test_y),
        lambda: nn.Linear(3, 3, bias=False),
    )


def shard(dataset, counts):
    """Return a peer with ``counts`` examples of the classes."""
    labels = dataset.labels
    rows = [np.flatnonzero(labels == k)[:n] for k, n in enumerate(counts)]
    return Shard(dataset, np.concatenate(rows))


def held_labels(dataset, shard):
    return Counter(dataset.test[1][torch.from_numpy(shard.held_out)].tolist())


def test_held_out_rows_have_the_shares_of_the_peers_own_classes():
    data = three_classes((40, 40, 40))
    peers = {"a": shard(data, (9, 1, 0)), "b": shard(data, (0, 0, 5))}
    own = own_tests(data, peers, seed=0, most=20)
    assert held_labels(data, own["a"]) == {0: 18, 1: 2}
    assert held_labels(data, own["b"]) == {2: 20}
    assert [list(s.rows) for s in own.values()] == [
        list(p.rows) for p in peers.values()
    ]


def test_the_scarcest_class_limits_the_others_so_that_shares_hold():
    data = three_classes((40, 5, 40))
    own = own_tests(data, {"a": shard(data, (5, 5, 0))}, seed=0)
    assert held_labels(data, own["a"]) == {0: 5, 1: 5}


def test_the_draw_depends_on_the_peer_and_the_seed_alone():
    data = three_classes((40, 40, 40))
    a, b = shard(data, (5, 5, 0)), shard(data, (5, 5, 0))
    both = own_tests(data, {"a": a, "b": b}, seed=0, most=10)
    alone = own_tests(data, {"b": b}, seed=0, most=10)
    assert list(both["b"].held_out) == list(alone["b"].held_out)
    assert list(both["b"].held_out) != list(both["a"].held_out)
    other = own_tests(data, {"b": b}, seed=1, most=10)
    assert list(other["b"].held_out) != list(alone["b"].held_out)


@dataclass(frozen=True)
class TwoModels(FedAvg):
    """Peer a gets the model, the others its negative."""

    def work(self, state, peer):
        sign = 1.0 if peer == "a" else -1.0
        return Work(0, {k: sign * t for k, t in state.params.items()})


IDENTITY = {"weight": torch.eye(3)}


def served(kept=None, tuning=None):
    data = three_classes((4, 4, 4))
    peers = {"a": shard(data, (5, 5, 5)), "b": shard(data, (5, 5, 5))}
    tasks = own_tests(data, peers, seed=0)
    found = personal(TwoModels(), Model(0, IDENTITY), tasks, kept, tuning)
    return {peer: figures["accuracy"] for peer, figures in found.items()}


def test_every_client_is_evaluated_with_the_model_it_would_be_sent():
    assert served() == {"a": 1.0, "b": 0.0}


def test_what_a_client_keeps_takes_the_place_of_the_weights_it_is_sent():
    assert served({"b": {"weight": torch.eye(3), "labelled": torch.ones(2)}}) == {
        "a": 1.0,
        "b": 1.0,
    }


def test_a_client_may_train_for_itself_first():
    assert served(tuning=Tuning(SGD(lr=3.0), 30)) == {"a": 1.0, "b": 1.0}


def test_spread_counts_at_least_one_client_as_the_worst_tenth():
    figures = {f"p{i}": {"accuracy": i / 10, "loss": i / 10} for i in range(11)}
    found = spread(figures)
    assert found["clients"] == 11
    assert found["mean"] == pytest.approx(0.5)
    assert found["worst_tenth"] == pytest.approx(0.05)
    assert found["best_tenth"] == pytest.approx(0.95)
    assert spread(figures, "loss")["worst_tenth"] == pytest.approx(0.95)
    assert spread({"p": {"loss": 1.0}}) == {}


def test_some_peers_are_evenly_spread():
    peers = {str(i): i for i in range(10)}
    assert some(peers, 100) == list(peers)
    assert some(peers, 4) == ["0", "3", "6", "9"]


FLAGS = ("partition=classes", "run.rounds=3", "run.workers=1", "run.clients=5")


def result(*flags):
    setup = prepare(configured(from_flags([*FLAGS, *flags])))
    return simulate(setup, Watcher())


def test_a_run_ends_with_every_clients_own_figures():
    ended = result("run.finetune=5")
    assert set(ended.personal) == {"as-sent", "fine-tuned"}
    assert len(ended.personal["as-sent"]) == 5
    sent, tuned = (spread(ended.personal[k])["mean"] for k in ended.personal)
    assert sent < tuned
    assert result("run.personal=0").personal == {}


def test_measuring_changes_no_bit():
    assert result().sha256 == result("run.personal=0").sha256


def test_the_chart_goes_from_the_worst_served_to_the_best():
    figures = {"a": {"accuracy": 0.9}, "b": {"accuracy": 0.1}, "c": {"accuracy": 0.5}}
    (line,) = chart({"as-sent": figures}).series
    assert line.points == ((0.0, 0.1), (50.0, 0.5), (100.0, 0.9))
