"""A peer that joins late: what it fetches and computes, after more and more rounds.

Ours is one message with the sum, and one pass over the weights; the check of the first
weights by their SHA-256 is part of the time. The others rebuild the same kind of model
from its directions one at a time, each a seeded stream of normal numbers added in
place: once for every step that any peer ever took (a log of scalars), or once for
each of the K directions (FedKSeed's accumulators). A few are measured, the rest is
reckoned: every one costs the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedcore.orderfree import (
    Model,
    Origin,
    apply,
    begin,
    encode_total,
    fact_of,
    join,
    snapshot,
)
from fedcore.params import Params, digest
from fedcore.pool import Pool
from fedcore.ring import ONE
from fedcore.seeds import words
from sims.bench.frame import Options, Row, middle, versus

QUICK, FULL = 1_000_000, 20_000_000  # weights
ROUNDS = (10, 100, 1_000)
PEERS = 10
STEPS = 200  # of a peer and round, as FedKSeed's
POOL = Pool(1024, seed=1)
TURNS = 5  # of joins; one more, the first, does not count
REPLAYS = 4  # measured, of the thousands that are reckoned


@dataclass(frozen=True, slots=True)
class Lateness:
    """What it takes to join after some rounds.

    Attributes:
        seconds: of ``fedcore.orderfree.join``.
        total_bytes: of the message, the sum only.
        whole_bytes: of the message with every peer's register.
    """

    rounds: int
    seconds: float
    total_bytes: int
    whole_bytes: int


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    numbers = QUICK if options.quick else FULL
    base = {"w": torch.arange(numbers).remainder_(1_000).sub_(500) * 1e-4}
    options.say("late join: rounds of facts, and joins")
    late = _lates(list(_lives(base)), base)
    replay_s = _replay_s(base["w"].clone())
    shown = f"{numbers / 1e6:g} M weights, K = {POOL.size}, {PEERS} peers"
    for one in late:
        yield from _against_a_log(one, replay_s, shown)
    yield _against_accumulators(late[-1], replay_s, shown)
    yield from _flat(late[0], late[-1], shown)


def _lives(base: Params) -> Iterator[tuple[int, Model]]:
    """Yield the model after each of ``ROUNDS``, of one life."""
    model = begin(Origin(POOL, digest(base), -1e-6))
    for done in range(1, ROUNDS[-1] + 1):
        for peer in range(PEERS):
            name = f"peer-{peer:06d}"
            fact = fact_of(model, name, _line(done, peer))
            model = apply(model, fact)
        if done in ROUNDS:
            yield done, model


def _line(version: int, peer: int) -> Tensor:
    """Return what a peer adds: a number of -1 .. 1 for each of its steps."""
    raw = words(2 * STEPS, "late", version, peer)
    drawn = torch.from_numpy(raw.view("<i8")).reshape(2, STEPS)
    line = torch.zeros(POOL.size, dtype=torch.int64)
    return line.index_add_(0, drawn[0] % POOL.size, drawn[1] % (2 * ONE) - ONE)


def _lates(lives: Sequence[tuple[int, Model]], base: Params) -> list[Lateness]:
    """Return what it takes to join each; they take turns, so that all are as busy."""
    data = [encode_total(model) for _, model in lives]
    joins = [partial(join, message, base, "bench") for message in data]
    spans = [[_span(one) for one in joins] for _ in range(TURNS + 1)][1:]
    return [
        Lateness(rounds, middle(seconds), len(message), len(snapshot(model)))
        for (rounds, model), message, seconds in zip(
            lives, data, zip(*spans, strict=True), strict=True
        )
    ]


def _replay_s(weights: Tensor) -> float:
    """Return the seconds of adding one seeded direction in place."""
    noise, source = torch.empty_like(weights), torch.Generator()

    def replay() -> None:
        source.manual_seed(7)
        weights.add_(noise.normal_(generator=source), alpha=-1e-6)

    return middle([_span(replay) for _ in range(REPLAYS + 1)][1:])


def _span(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _against_a_log(one: Lateness, replay_s: float, shown: str) -> Iterator[Row]:
    steps = one.rounds * PEERS * STEPS
    work = f"{shown}, after {one.rounds} rounds"
    reckoned = f"{REPLAYS} of {steps} replays measured, the rest reckoned"
    name = "late join vs replay of a log"
    yield versus(name, work, one.seconds, steps * replay_s, "s", reckoned)
    note = (
        "a log of one byte a step, from which the order of steps follows; ours with "
        f"every peer's register, to go on from: {one.whole_bytes} bytes"
    )
    yield versus(name, work, one.total_bytes, steps, "bytes", note)


def _against_accumulators(one: Lateness, replay_s: float, shown: str) -> Row:
    return versus(
        "late join vs K replays",
        f"{shown}, after {one.rounds} rounds",
        one.seconds,
        POOL.size * replay_s,
        "s",
        f"sums of K scalars as in FedKSeed, normal directions; {REPLAYS} of "
        f"{POOL.size} replays measured, the rest reckoned",
    )


def _flat(first: Lateness, last: Lateness, shown: str) -> Iterator[Row]:
    name = f"late join after {last.rounds} rounds vs after {first.rounds}"
    flat = "1 is flat"
    yield versus(name, shown, last.seconds, first.seconds, "s", flat)
    wider = f"{flat}; larger sums need more bytes each, at most 8"
    yield versus(name, shown, last.total_bytes, first.total_bytes, "bytes", wider)
