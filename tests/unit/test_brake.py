"""A run that reached its target ends there, also if it was killed just then."""

from functools import cache

import pytest

from fedcore.config import from_flags
from fedcore.disk import RealDisk
from fedcore.journal import FileJournal
from sims.runs.brake import Braked
from sims.runs.config import configured
from sims.runs.run import Setup, Watcher, prepare, simulate

FLAGS = ("run.rounds=9", "run.clients=4", "run.workers=1", "trainer.lr=0.1")


class KilledError(Exception):
    """Stands for the end of the process."""


@cache
def setup() -> Setup:
    return prepare(configured(from_flags([*FLAGS, "run.target=0.3"])))


@cache
def undisturbed():
    return simulate(setup(), Watcher())


def journal(folder):
    return FileJournal(RealDisk(folder), "run", payloads=False, gap_s=0.0)


def told(result):
    return result.ending, result.rounds, result.sha256, result.personal


def test_the_target_is_reached_in_the_middle():
    assert undisturbed().ending == "target"
    assert 1 < undisturbed().rounds < 9


def test_killed_while_clients_are_measured_it_ends_in_the_same_round(
    tmp_path, monkeypatch
):
    def die(*_):
        raise KilledError

    monkeypatch.setattr("sims.runs.run.own_tests", die)  # figures come after the save
    with pytest.raises(KilledError):
        simulate(setup(), Watcher(), journal(tmp_path))
    monkeypatch.undo()
    again = simulate(setup(), Watcher(), journal(tmp_path))
    assert told(again) == told(undisturbed())


def test_killed_after_the_last_event_was_written_it_ends_on_replay(
    tmp_path, monkeypatch
):
    """The journal holds the round that reached the target, and nobody heard of it."""
    last, folded = undisturbed().rounds, Braked.folded

    def die(self, desk):
        if desk.state.version == last:
            raise KilledError
        folded(self, desk)

    events = FileJournal(RealDisk(tmp_path), "run")
    monkeypatch.setattr(Braked, "folded", die)
    with pytest.raises(KilledError):
        simulate(setup(), Watcher(), events)
    monkeypatch.undo()
    assert told(simulate(setup(), Watcher(), events)) == told(undisturbed())
