"""Jobs under way: what a coded strategy sends, takes in, and does with a decoded job.

The first round is a roll call: whoever answers is a worker from then on, numbered by
name. A worker that leaves later is a straggler for good, which the code forgives.

A job is one step of one model along the mean move of ``batches`` batches, the same
ones on every peer. Where jobs take several rounds, several models take turns, so that
no step waits for another: job t moves model t mod ``models``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedcore.errors import ConfigError, QuorumError
from fedcore.params import Params, add
from fedcore.strategy import PeerId, Update, Work
from strategies.coding.codes import bits, weights
from strategies.coding.machine import (
    NOT_BEGUN,
    Piece,
    Progress,
    Schedule,
    begin,
    covered,
    enough,
    finished,
    following,
    heard,
    mask_of,
)

CODING = "coding"  # in ``work.aux``: rows of slot, job, unit, coefficient; float64
HERE = "here"  # the payload of a peer that has nothing to compute


@dataclass(frozen=True, slots=True)
class Job:
    """One job under way.

    Attributes:
        number: t.
        params: the model that its tasks start from; empty when it is done.
        total: sum of the parts decoded so far, float64; empty for none.
        held: answers of a part that does not decode yet, by part * n + worker.
    """

    number: int
    params: Params = field(default_factory=dict)
    total: Params = field(default_factory=dict)
    held: Mapping[int, Params] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shift:
    """State of every coded strategy.

    Attributes:
        version: rounds folded, the roll call among them.
        params: the model that moved last.
        roster: workers by number; empty before the roll call.
        progress: where the machine is.
        models: they take turns.
        jobs: by age, the one of this round first.
    """

    version: int
    params: Params
    roster: tuple[PeerId, ...] = ()
    progress: Progress = NOT_BEGUN
    models: tuple[Params, ...] = ()
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True)
class Jobs:
    """What the coded strategies have in common.

    Attributes:
        schedule: returns the schedule for a number of workers.
        server_lr: step along the decoded move, > 0.
        steps: batches that a worker computes in a round; 0 for what follows.
        batches: of one job; 0 for one in each unit.
        models: that take turns; 0 for delay + 1.
    """

    schedule: Callable[[int], Schedule]
    server_lr: float
    steps: int
    batches: int
    models: int = 1

    def work(self, state: Shift, peer: PeerId) -> Work:
        """Return the pieces of ``peer`` in this round, or a roll call."""
        if peer not in state.roster:
            return Work(state.version, state.params, self.steps or 1, hints=DO)
        schedule = self.schedule(len(state.roster))
        worker = state.roster.index(peer)
        mine = list(_mine(schedule, state.progress, worker))
        batches, steps = self._amount(schedule)
        if not mine:
            return Work(state.version, state.params, steps, hints=DO)
        models = {p.slot: state.jobs[p.age].params for p in mine}
        first, *others = models
        aux = {f"{i}.{name}": t for i in others for name, t in models[i].items()}
        aux[CODING] = _rows(state, schedule, worker, mine)
        hints = {**DO, "units": schedule.units, "batches": batches}
        return Work(state.version, models[first], steps, aux=aux, hints=hints)

    def _amount(self, schedule: Schedule) -> tuple[int, int]:
        """Return batches of a job, and those that a worker computes in a round."""
        mine, whole = schedule.per_round, schedule.units
        if self.steps:
            return -(-self.steps * whole // mine), self.steps
        batches = self.batches or whole
        return batches, -(-batches * mine // whole)

    def apply(self, state: Shift, updates: Sequence[Update]) -> Shift:
        """Return the state after a round, every job that is complete folded in.

        Raises:
            QuorumError: with these answers a job can no more be decoded in time.
        """
        if not state.roster:
            return self._called(state, updates)
        schedule, n = self.schedule(len(state.roster)), len(state.roster)
        answers = _answers(state, updates)
        present = mask_of(list(answers))
        if not enough(schedule, state.progress, present):
            raise QuorumError(
                f"round {state.progress.round}: {len(answers)} of {n} workers "
                "answered, too few to decode every job: use pacer.name=coded, which "
                "waits for more, or raise strategy.stragglers"
            )
        progress = heard(schedule, state.progress, present)
        jobs = list(state.jobs)
        for piece in schedule.plan(state.progress):
            jobs[piece.age] = _taken(jobs[piece.age], piece, answers, n)
        for age, job in enumerate(jobs):
            jobs[age] = _decoded(job, schedule, progress, age)
        return self._stepped(replace(state, progress=progress, jobs=tuple(jobs)))

    def _called(self, state: Shift, updates: Sequence[Update]) -> Shift:
        """Return the state after the roll call, with the first job begun."""
        roster = tuple(sorted({u.peer for u in updates}))
        try:
            schedule = self.schedule(len(roster))
        except ConfigError as cause:
            raise QuorumError(
                f"{len(roster)} workers at the roll call: {cause}"
            ) from None
        models = (state.params,) * (self.models or schedule.delay + 1)
        old = (Job(-1 - age) for age in range(schedule.delay))
        jobs = (Job(0, state.params), *old)
        version = state.version + 1
        return Shift(version, state.params, roster, begin(schedule), models, jobs)

    def _stepped(self, state: Shift) -> Shift:
        """Move the models whose jobs are complete, and begin the next round."""
        schedule = self.schedule(len(state.roster))
        models, jobs, last = list(state.models), list(state.jobs), state.params
        for age in reversed(range(len(jobs))):
            if jobs[age].params and finished(schedule, state.progress.done[age]):
                turn = jobs[age].number % len(models)
                last = add(models[turn], jobs[age].total, self.server_lr)
                models[turn], jobs[age] = last, Job(jobs[age].number)
        progress = following(schedule, state.progress)
        fresh = Job(progress.round, models[progress.round % len(models)])
        jobs = [fresh, *jobs[: schedule.delay]]
        version, roster = state.version + 1, state.roster
        return Shift(version, last, roster, progress, tuple(models), tuple(jobs))


DO: Mapping[str, int | float | str] = {"do": "coded", "trusted": 1}  # no privacy


def expected(work: Work) -> Params:
    """Return the form of an answer to ``work``: a move of the model in each slot."""
    if CODING not in work.aux:
        return {HERE: torch.zeros(1)}
    slots = dict.fromkeys(int(slot) for slot in work.aux[CODING][:, 0])
    like = {name: t.float() for name, t in work.params.items()}
    return {f"{slot}.{name}": t for slot in slots for name, t in like.items()}


def _mine(schedule: Schedule, progress: Progress, worker: int) -> Iterator[Piece]:
    """Yield the pieces of ``worker``, in order of slots."""
    pieces = schedule.plan(progress)
    yield from sorted(
        (p for p in pieces if p.workers >> worker & 1), key=lambda p: p.slot
    )


def _rows(
    state: Shift, schedule: Schedule, worker: int, mine: Sequence[Piece]
) -> Tensor:
    """Return slot, job, unit and coefficient of all that ``worker`` does, (m, 4)."""
    rows = [
        (float(p.slot), float(state.jobs[p.age].number), float(unit), coefficient)
        for p in mine
        for unit, coefficient in schedule.share(worker, p.part)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _answers(state: Shift, updates: Sequence[Update]) -> Mapping[int, Params]:
    """Return what workers computed in this round, by number."""
    known = {peer: i for i, peer in enumerate(state.roster)}
    return {
        known[u.peer]: u.payload
        for u in updates
        if u.peer in known and u.version == state.version and HERE not in u.payload
    }


def _taken(job: Job, piece: Piece, answers: Mapping[int, Params], workers: int) -> Job:
    """Return ``job`` with the answers to ``piece`` held."""
    mark = f"{piece.slot}."
    fresh = {
        piece.part * workers + worker: {
            name.removeprefix(mark): t
            for name, t in answers[worker].items()
            if name.startswith(mark)
        }
        for worker in bits(piece.workers)
        if worker in answers
    }
    return replace(job, held={**job.held, **fresh})


def _decoded(job: Job, schedule: Schedule, progress: Progress, age: int) -> Job:
    """Return ``job`` with all that can be decoded moved from ``held`` to ``total``."""
    held, total, n = dict(job.held), job.total, schedule.workers
    for part in sorted({key // n for key in held}):
        present = progress.done[age][part]
        code = schedule.code(part)
        if code is not None and not covered(schedule, part, present):
            continue
        scales = [1.0] * n if code is None else weights(code, present).tolist()
        for key in sorted(key for key in held if key // n == part):
            total = _plus(total, held.pop(key), scales[key % n])
    return replace(job, total=total, held=held)


def _plus(total: Params, more: Params, scale: float) -> Params:
    """Return ``total + scale * more`` in float64; an empty ``total`` is 0."""
    if scale == 0.0:
        return total
    terms = {name: t.double() * scale for name, t in more.items()}
    return {name: total[name] + t for name, t in terms.items()} if total else terms
