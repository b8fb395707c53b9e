"""Laws of the virtual clock, on random federations and random pacers."""

from dataclasses import dataclass, field
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.tasks.dataset import Dataset, Federation
from clients.tasks.models import mlp
from clients.trainers.sgd import SGD
from fedcore.coordinator import (
    Coordinator,
    Desk,
    Heard,
    Idle,
    NoJournal,
    Rules,
)
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.seeds import seed_of
from fedcore.strategy import Update, Work
from sims.engine import make_engine
from sims.line import Line
from sims.world.availability import Always, Daily, Dropout, Markov
from sims.world.devices import Constant, Exponential, Normal
from sims.world.network import Ideal, LogNormal, Uniform
from sims.world.virtual import VirtualLink
from strategies.compass_pacer import Compass
from strategies.fedavg import FedAvg

START = {"weight": torch.zeros(1, 4)}
TASKS = {f"peer{i}": Line(i) for i in range(7)}

MODELS = {
    "devices": st.sampled_from(
        [Constant(2.0), Normal(2.0, 0.5, jitter=0.2), Exponential(2.0)]
    ),
    "network": st.sampled_from(
        [Ideal(), Uniform(0.1, 16.0, 32.0, loss=0.2, notice_s=4.0), LogNormal(sigma=1)]
    ),
    "availability": st.sampled_from(
        [Always(), Dropout(0.3), Markov(30.0, 10.0, dropout=0.1), Daily(0.0, 23.0)]
    ),
    "seed": st.integers(0, 1000),
}
PACERS = st.sampled_from(
    [
        Synchronous(cohort=3, retries=50),
        Synchronous(cohort=3, patience_s=9.0, gather_s=5.0, retries=50),
        Buffered(size=2),
        Buffered(size=3, concurrency=4),
        Compass(min_steps=1, max_steps=6, latest_factor=1.1),
    ]
)


def nudge(task: Line, work: Work, peer: str) -> Update:
    """Answer with numbers that depend on the model, the peer and the version."""
    step = seed_of("nudge", peer, work.version) / 2**64 - 0.5
    payload = {name: 0.5 * t + step for name, t in work.params.items()}
    return Update(peer, work.version, payload, task.examples)


@dataclass
class Noting(NoJournal):
    """Begins at a given desk, and keeps every event."""

    desk: Desk | None = None
    events: list[Idle | Heard] = field(default_factory=list)

    def open(self, begin):
        return self.desk or begin, ()

    def record(self, serial, event):
        self.events.append(event)


def run(link, pacer, rounds, journal):
    rules = Rules(FedAvg(steps=2), pacer)
    return Coordinator(rules, link, journal).run(START, rounds)


@settings(deadline=None, max_examples=30)
@given(models=st.fixed_dictionaries(MODELS), pacer=PACERS)
def test_every_work_is_answered_or_lost_once_and_the_clock_never_goes_back(
    models, pacer
):
    out, times = {}, [0.0]

    class Watched(VirtualLink):
        def send(self, peer, work):
            assert peer not in out
            out[peer] = self.now_s()
            super().send(peer, work)

        def receive(self, until_s):
            arrivals = super().receive(until_s)
            times.append(self.now_s())
            for peer in [*(u.peer for u in arrivals.updates), *arrivals.lost]:
                assert out.pop(peer) < self.now_s()
            return arrivals

    link = Watched(nudge, TASKS, **models)
    run(link, pacer, 6, NoJournal())
    assert times == sorted(times)
    while out:  # and those that are still out end as well
        link.receive(inf)


@settings(deadline=None, max_examples=20)
@given(models=st.fixed_dictionaries(MODELS), pacer=PACERS, cut=st.floats(0, 1))
def test_resuming_at_any_event_gives_the_bits_of_the_unbroken_run(models, pacer, cut):
    whole = Noting()
    end = VirtualLink(nudge, TASKS, **models)
    want = run(end, pacer, 6, whole)
    desks = desks_of(Rules(FedAvg(steps=2), pacer), START, whole.events)
    desk = desks[int(cut * (len(desks) - 2))]  # the last one has finished
    link = VirtualLink(nudge, TASKS, **models)
    got = run(link, pacer, 6, Noting(desk))
    assert digest(got.params) == digest(want.params)
    assert link.now_s() == end.now_s()


def desks_of(rules, params, events):
    """Return the desk after every event."""
    desks = [rules.begin(params)]
    for event in events:
        step = rules.step_out if isinstance(event, Idle) else rules.step_in
        desks.append(step(desks[-1], event)[0])
    return desks


def mixtures() -> Federation:
    """Return nine peers with shares of unequal size of a small problem."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=g)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    data = Dataset("d", (x, y), (x, y), lambda: mlp(8, 6, 3), batch_size=16)
    cuts = np.split(np.arange(300), [20, 60, 70, 140, 150, 200, 230, 290])
    return Federation(data, cuts)


@pytest.mark.slow
@pytest.mark.parametrize("pacer", [Synchronous(cohort=4), Buffered(size=3)])
def test_workers_engines_and_restarts_change_no_bit(pacer):
    tasks, journal = mixtures(), Noting()
    params = tasks.dataset.start(seed=1)
    rules = Rules(FedAvg(epochs=2), pacer)

    def bits(workers, kind, journal):
        with make_engine(SGD(lr=0.1), tasks, workers, kind) as engine:
            link = VirtualLink(engine, tasks, Normal(1.0, 0.5), LogNormal())
            state = Coordinator(rules, link, journal).run(params, rounds=8)
        return digest(state.params), link.now_s()

    want = bits(1, "loop", journal)
    desks = desks_of(rules, params, journal.events)
    assert bits(1, "auto", Noting()) == want
    assert bits(2, "auto", Noting()) == want
    for desk in desks[3:-1:7]:
        assert bits(2, "auto", Noting(desk)) == want
