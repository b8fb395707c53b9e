"""Bad answers to shared-seed strategies: refused by name, and the model as without."""

import json
import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from fedcore.desk import Arrivals, Idle, Rules
from fedcore.gate import Gate
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.ring import ONE
from fedcore.strategy import peer_name
from fedcore.task import params_of
from fedcore.tree import flatten
from tests.cases import TRAINER, rules_of, task_of

A, B = peer_name(0), peer_name(1)
FLOATS = {
    "fedkseed": "coefficients",
    "fedkseed-pro": "sizes",
    "ferret": "folded.0",
    "mezo": "scalars",
}
BYTES = {"one-byte": "bytes"}
RING = Gate(ring=True)


@cache
def begun(name, gate=Gate()):  # noqa: B008
    """Return rules, a desk on which both peers are at work, and their good answers."""
    strategy, tasks = rules_of(name), {A: task_of(name, 0), B: task_of(name, 1)}
    g = torch.Generator().manual_seed(0)
    like = params_of(tasks[A].model())
    start = {n: torch.rand(t.shape, generator=g) for n, t in like.items()}
    rules = Rules(strategy, Synchronous(cohort=2, quorum=1), gate)
    desk, out = rules.step_out(rules.begin(start), Idle([A, B], 0.0))
    return rules, desk, {peer: TRAINER(tasks[peer], work, peer) for peer, work in out}


def bits(state):
    structure, tensors = flatten(state)
    return json.dumps(structure), digest(tensors)


def after(name, update, gate=Gate()):  # noqa: B008
    """Return the state when B answers ``update`` (None: not at all), and refusals."""
    rules, desk, good = begun(name, gate)
    given = Arrivals([good[A], update]) if update else Arrivals([good[A]], {B: "gone"})
    event = rules.judge(desk, given, 1.0)
    desk, _ = rules.step_in(desk, event)
    assert desk.state.version == 1
    return bits(desk.state), event.refused


def bad(name, key, change, gate=Gate()):  # noqa: B008
    """Return B's answer with tensor ``key`` changed."""
    update = begun(name, gate)[2][B]
    payload = {**update.payload, key: change(update.payload[key].clone())}
    return replace(update, payload=payload)


def check_refused(name, update, kind, gate=Gate()):  # noqa: B008
    state, refused = after(name, update, gate)
    assert [(r.peer, r.kind, r.ends_work) for r in refused] == [(B, kind, True)]
    assert state == after(name, None, gate)[0]


def put(value, t):
    t.view(-1)[-1] = value
    return t


WRONG = {  # what is done to a tensor of float32 -> the kind of the refusal
    "nan": partial(put, math.nan),
    "infinite": partial(put, -math.inf),
    "value-huge": partial(put, 1e30),
    "shape": lambda t: t[:-1],
    "rank": lambda t: t[None],
    "dtype": lambda t: t.double(),
    "ring": lambda t: t.long(),
    "subnormal": lambda t: put(1e-40, torch.zeros_like(t)),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", FLOATS)
def test_a_bad_tensor_of_numbers(name, kind):
    update = bad(name, FLOATS[name], WRONG[kind])
    if kind == "subnormal":  # all of the payload, or another number is normal
        update = replace(update, payload={k: WRONG[kind](t) for k, t in
                                          update.payload.items()})  # fmt: skip
    check_refused(name, update, kind)


@pytest.mark.parametrize("name", {**FLOATS, **BYTES})
def test_names_and_versions(name):
    good = begun(name)[2][B]
    key = {**FLOATS, **BYTES}[name]
    fewer = {k: t for k, t in good.payload.items() if k != key}
    kind = "missing" if fewer else "payload-empty"
    check_refused(name, replace(good, payload=fewer), kind)
    more = {**good.payload, "more": torch.zeros(1)}
    check_refused(name, replace(good, payload=more), "extra")
    check_refused(name, replace(good, version=1), "version-future")


@pytest.mark.parametrize("name", {**FLOATS, **BYTES})
def test_a_good_answer_counts(name):
    """Or else the equalities above would say nothing."""
    state, refused = after(name, begun(name)[2][B])
    assert not refused
    assert state != after(name, None)[0]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda t: t[:-1], "shape"),
        (lambda t: torch.cat([t, t[:1]]), "shape"),
        (lambda t: t[:0], "shape"),
        (lambda t: t[None], "rank"),
        (lambda t: t.to(torch.int8), "dtype"),
        (lambda t: t.long(), "dtype"),
        (lambda t: t.float(), "dtype"),
        (lambda t: t.bool(), "dtype"),
    ],
)
def test_bad_bytes(change, kind):
    check_refused("one-byte", bad("one-byte", "bytes", change), kind)


@pytest.mark.parametrize("name", ["mezo", "one-byte"])
@pytest.mark.parametrize("turn", [1.0, 0.5, -1, 10**300])
def test_nobody_chooses_the_directions_of_an_answer(name, turn):
    good = begun(name)[2][B]
    update = replace(good, metrics={**good.metrics, "turn": turn})
    check_refused(name, update, "turn-other")


def test_a_turn_left_out_is_filled_in_and_another_one_is_refused():
    rules, desk, good = begun("one-byte")
    work = desk.sent[B].work
    again = replace(work, hints={**work.hints, "turn": 2})
    desk = replace(desk, sent={**desk.sent, B: replace(desk.sent[B], work=again)})

    def folded(turn):
        metrics = {**good[B].metrics, **({} if turn is None else {"turn": turn})}
        update = replace(good[B], metrics=metrics)
        event = rules.judge(desk, Arrivals([update]), 1.0)
        return event.refused, rules.step_in(desk, replace(event, lost={A: "gone"}))[1]

    refused, fold = folded(2.0)
    assert not refused
    assert fold.folded[0].metrics["turn"] == 2.0
    assert bits(folded(None)[1].state) == bits(fold.state)
    assert bits(fold.state) != after("one-byte", good[B])[0]
    assert folded(1.0)[0][0].kind == "turn-other"


def sums(update, value):
    payload = {k: t.double().mul(ONE * update.examples).round().long()
               for k, t in update.payload.items()}  # fmt: skip
    return replace(update, payload={k: put(value, t) for k, t in payload.items()})


@pytest.mark.parametrize("name", ["fedkseed", "fedkseed-pro", "ferret"])
@pytest.mark.parametrize("value", [2**62, -(2**63), 2**63 - 1])
def test_sums_beyond_all_that_can_be_meant(name, value):
    check_refused(name, sums(begun(name, RING)[2][B], value), "ring-huge", RING)


def test_sums_and_numbers_in_one_answer():
    name = "fedkseed-pro"
    update = bad(name, "sizes", lambda t: t.mul(ONE).long(), RING)
    check_refused(name, update, "ring-mixed", RING)


def test_a_weight_that_pushes_a_sum_off_the_ring():
    update = bad("fedkseed", "coefficients", partial(put, 900.0))
    check_refused("fedkseed", replace(update, examples=10**7), "weighted-huge")
