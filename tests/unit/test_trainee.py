"""One peer's part in a run, against a node that is only its model."""

from dataclasses import replace

import numpy as np
import pytest

from clients.peer.runs import packed, unpacked
from clients.peer.trainee import Keys, Trainee
from clients.tasks import load_task
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.orderfree import Origin, apply, begin, fact_of
from fedcore.params import digest
from fedcore.strategy import Update
from strategies.fedkseed import FedKSeed

DIGITS = load_task("digits")
BASE = dict(DIGITS.start(0))
STRATEGY = FedKSeed(lr=0.01, eps=0.01, steps=20)
KEYS = Keys(STRATEGY, "gradients", SGD(0.5))


class Run:
    """What nodes know of a run."""

    def __init__(self):
        origin = Origin(STRATEGY.shared(), digest(BASE), -STRATEGY.lr)
        self.model, self.amounts = begin(origin), []

    def trainee(self, folder, number, keys=KEYS):
        shard = DIGITS.whole().only(np.arange(number, 1000, 2))
        return At(folder, "digits", keys, shard, BASE, f"peer{number}", run=self)


class At(Trainee):
    """A trainee whose node is in the same process."""

    def __init__(self, *parts, run):
        super().__init__(*parts)
        self.known = run

    def _ask(self, request):
        run = self.known
        if request["do"] == "model":
            facts = sum(r.seq for r in run.model.registers.values())
            seq = run.model.register(self.me).seq
            return {"seq": seq, "facts": facts, **packed(run.model.coefficients())}
        run.amounts.append(unpacked(request)[0])
        run.model = apply(run.model, fact_of(run.model, self.me, run.amounts[-1]))
        return {}


def accuracy(trainee):
    return trainee.judge(trainee.look()[0].params)["accuracy"]


def test_gradients_and_probes_add_to_one_model(tmp_path):
    run = Run()
    first = run.trainee(tmp_path, 0)
    second = run.trainee(tmp_path, 1, replace(KEYS, by="probes"))
    for _ in range(5):
        first.turn()
        second.turn()
    assert [r.seq for r in run.model.registers.values()] == [5, 5]
    assert accuracy(first) > 0.8


def test_who_adds_beside_others_shares(tmp_path):
    """Two additions of others, of next to nothing, make the next one a third."""
    sizes, tiny = [], replace(KEYS, trainer=SGD(1e-6))
    for others in (0, 2):
        run = Run()
        first, second = run.trainee(tmp_path, 0), run.trainee(tmp_path, 1, tiny)
        first.turn()
        for _ in range(others):
            second.turn()
        first.turn()
        sizes.append(float(run.amounts[-1].double().norm()))
    assert sizes[0] / sizes[1] == pytest.approx(3, rel=1e-3)


def test_a_spoilt_model_gets_no_more_additions(tmp_path):
    run = Run()
    first = run.trainee(tmp_path, 0)
    first.turn()
    run.trainee(tmp_path, 1, replace(KEYS, trainer=SGD(30.0))).turn()
    with pytest.raises(ConfigError, match="nothing is added"):
        first.turn()
    assert len(run.amounts) == 2


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_a_loss_that_is_no_number_is_not_told(tmp_path, loss):
    trainee = Run().trainee(tmp_path, 0)
    with pytest.raises(ConfigError, match="nothing is added"):
        trainee._sound(Update("a", 0, {}, 1, {"loss": loss}))


def test_training_that_blows_up_adds_nothing(tmp_path):
    run = Run()
    with pytest.raises(ConfigError, match=r"smaller trainer\.lr"):
        run.trainee(tmp_path, 0, replace(KEYS, trainer=SGD(1e9))).turn()
    assert not run.amounts
