"""Simulated runs with aggregators: the same model, and what is refused at the start."""

import pytest

from fedcore.config import from_flags
from fedcore.errors import ConfigError
from sims.runs.config import configured
from sims.runs.run import Watcher, prepare, simulate

TINY = ("run.rounds=3", "run.workers=1", "run.clients=7", "trainer.lr=0.1")


def config(*flags):
    return configured(from_flags([*TINY, *flags]))


def sha256(*flags):
    setup = prepare(config(*flags))
    return simulate(setup, Watcher(evaluated=False)).sha256


@pytest.mark.parametrize(
    "pacing",
    [
        ("pacer.cohort=5",),
        ("pacer=buffered", "pacer.size=3", "devices=normal"),
    ],
    ids=["synchronous", "buffered"],
)
def test_aggregators_change_no_bit_of_a_run(pacing):
    flat = sha256(*pacing)
    for leaves in (1, 4):
        assert sha256(*pacing, f"hierarchy.leaves={leaves}") == flat


def test_aggregators_in_processes_change_no_bit_of_a_run():
    more = ("hierarchy.leaves=2", "hierarchy.processes=true", "strategy=fedadam")
    assert sha256(*more) == sha256("strategy=fedadam")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("hierarchy.leaves=2", "strategy=median"), "must see every update"),
        (("hierarchy.leaves=2", "strategy=scaffold"), "hierarchy.leaves = 0"),
        (("hierarchy.leaves=-1",), r"\[0, 256\]"),
        (("hierarchy.leaves=2", "hierarchy.fan_in=1"), "fan_in"),
        (("hierarchy.processes=true",), "needs leaves"),
        (("hierarchy.leafs=2",), "hierarchy.leaves"),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(flags, word):
    with pytest.raises(ConfigError, match=word):
        config(*flags)
