"""Laws of the virtual clock, on random federations and random pacers."""

from dataclasses import dataclass, field
from math import inf

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
from sims.availability import Always, Daily, Dropout, Markov
from sims.devices import Constant, Exponential, Normal
from sims.line import Line
from sims.network import Ideal, LogNormal, Uniform
from sims.virtual import VirtualLink
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


@settings(deadline=None, max_examples=60)
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
    for _ in range(len(out)):  # and those that are still out end as well
        before = len(out)
        while len(out) == before:
            link.receive(inf)
    assert not out


@settings(deadline=None, max_examples=40)
@given(models=st.fixed_dictionaries(MODELS), pacer=PACERS, cut=st.floats(0, 1))
def test_resuming_at_any_event_gives_the_bits_of_the_unbroken_run(models, pacer, cut):
    whole = Noting()
    end = VirtualLink(nudge, TASKS, **models)
    want = run(end, pacer, 6, whole)
    desks = desks_of(whole.events, pacer)
    desk = desks[int(cut * (len(desks) - 2))]  # the last one has finished
    link = VirtualLink(nudge, TASKS, **models)
    got = run(link, pacer, 6, Noting(desk))
    assert digest(got.params) == digest(want.params)
    assert link.now_s() == end.now_s()


def desks_of(events, pacer):
    """Return the desk after every event."""
    rules = Rules(FedAvg(steps=2), pacer)
    desks = [rules.begin(START)]
    for event in events:
        step = rules.step_out if isinstance(event, Idle) else rules.step_in
        desks.append(step(desks[-1], event)[0])
    return desks
