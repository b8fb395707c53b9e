from functools import cache

import pytest
import torch

from clients.split.client import SplitClient
from clients.split.cut import Cut
from clients.split.server import SplitServer
from clients.split.sockets import Listening, tcp
from clients.trainers import autograd
from clients.trainers.adamw import AdamW
from clients.trainers.sgd import SGD
from fedcore.params import add, digest
from fedcore.strategy import Work
from tests.split_cases import MODELS, cuts, start_of, task_of, unsplit

pytestmark = pytest.mark.slow  # many, and each takes a while

EVERY_CUT = [(model, cut) for model in MODELS for cut in cuts(model)]
MOMENTUM = SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


@cache
def whole_of(model):
    return unsplit(task_of(model), start_of(model), 3, MOMENTUM)


def split(model, cut, trainer, steps=5, dial=None):
    task, start = task_of(model), start_of(model)
    server = SplitServer(task, cut, start, trainer)
    client = SplitClient(task, cut, trainer)
    done = client.train(dial or server.dial, steps, start)
    assert not done.params.keys() & server.params().keys()
    return {**done.params, **server.params()}, done.loss


@pytest.mark.parametrize(("model", "cut"), EVERY_CUT, ids=str)
def test_every_cut_trains_the_bits_of_the_whole_model(model, cut):
    whole, loss = whole_of(model)
    params, split_loss = split(model, cut, MOMENTUM, 3)
    assert digest(params) == digest(whole)
    assert split_loss == loss


@pytest.mark.parametrize("model", ["conv", "tall"])
def test_adam_remembers_on_both_sides(model):
    trainer = AdamW(lr=0.01)
    whole, _ = unsplit(task_of(model), start_of(model), 4, trainer)
    assert digest(split(model, Cut(2, 1), trainer, 4)[0]) == digest(whole)


def test_models_that_draw_nothing_match_the_trainer_of_federations():
    task, start = task_of("mlp"), start_of("mlp")
    work, trainer = Work(0, start, steps=6), SGD(lr=0.2)
    method, rule = trainer.method(), trainer.rule(work)
    update = autograd.train(task, work, "client", method, rule)
    params, loss = split("mlp", Cut(1), trainer, 6)
    moved = {name: params[name] - start[name] for name in start}
    assert digest(moved) == digest(update.payload)
    assert loss == update.metrics["loss"]
    assert digest(add(start, moved)) != digest(start)


@pytest.mark.parametrize("cut", [Cut(3), Cut(3, 2)], ids=str)
def test_a_socket_carries_the_same_bits(cut):
    task, start = task_of("drops"), start_of("drops")
    whole, _ = whole_of("drops")
    server = SplitServer(task, cut, start, MOMENTUM)
    with Listening(server.visit) as listening:
        client = SplitClient(task, cut, MOMENTUM)
        done = client.train(tcp(listening.host, listening.port), 3, start)
    assert digest({**done.params, **server.params()}) == digest(whole)


def test_training_leaves_the_global_generator_and_threads_alone():
    torch.manual_seed(5)
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    split("drops", Cut(2), SGD(), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
