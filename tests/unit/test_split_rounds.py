import pytest

from clients.split.client import SplitClient
from clients.split.cut import Cut
from clients.split.rounds import relayed, splitfed
from clients.split.server import SplitServer
from clients.trainers import autograd
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.params import digest
from fedcore.strategy import Update
from strategies.fedavg import FedAvg
from tests.split_cases import start_of, task_of, unsplit

TRAINER = SGD(lr=0.2, momentum=0.5)
PEERS = {"ann": 16, "bob": 22, "cem": 9}  # peer -> examples


def tasks(model):
    return {
        peer: task_of(model, seed=i, rows=rows)
        for i, (peer, rows) in enumerate(PEERS.items())
    }


def clients(model, cut):
    return [SplitClient(t, cut, TRAINER, peer) for peer, t in tasks(model).items()]


@pytest.mark.parametrize("cut", [Cut(3), Cut(2, 1)], ids=str)
def test_one_after_the_other_is_one_model_that_goes_round(cut):
    start = whole = start_of("drops")
    server = SplitServer(task_of("drops"), cut, start, TRAINER)
    own = relayed(clients("drops", cut), server.dial, start, steps=2, rounds=2)
    for version in range(2):
        for peer, task in tasks("drops").items():
            whole, _ = unsplit(task, whole, 2, TRAINER, peer, version)
    assert digest({**own, **server.params()}) == digest(whole)


def test_side_by_side_is_fedavg_of_the_whole_model():
    """With the federation's own trainer and strategy: the same bits, round by round."""
    start, cut = start_of("mlp"), Cut(1)
    server = SplitServer(task_of("mlp"), cut, start, TRAINER, apart=True)
    found = splitfed(clients("mlp", cut), server, server.dial, steps=3, rounds=2)
    rules = FedAvg(steps=3)
    state = rules.init(start)
    for _ in range(2):
        state = rules.apply(
            state, [trained(rules, state, *i) for i in tasks("mlp").items()]
        )
    assert digest(found) == digest(state.params)


def trained(rules, state, peer, task) -> Update:
    work = rules.work(state, peer)
    return autograd.train(task, work, peer, TRAINER.method(), TRAINER.rule(work))


def test_what_does_not_fit_is_named():
    server = SplitServer(task_of("mlp"), Cut(1), start_of("mlp"), TRAINER)
    twins = clients("mlp", Cut(1))[:1] * 2
    with pytest.raises(ConfigError, match="names of their own: ann, ann"):
        relayed(twins, server.dial, start_of("mlp"), 1)
    with pytest.raises(ConfigError, match="apart=True"):
        splitfed(clients("mlp", Cut(1)), server, server.dial, 1)
