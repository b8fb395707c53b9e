"""Coded strategies: the plain large-batch step, with whoever answers in time."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from clients.trainers.coded import coded
from clients.trainers.sgd import SGD
from fedcore.config import from_flags
from fedcore.coordinator import coordinate
from fedcore.errors import ConfigError, ProtocolError, QuorumError
from fedcore.hints import hint_of
from fedcore.params import norm, sub
from fedcore.rounds import run_rounds
from fedcore.seeds import seed_of
from fedcore.strategy import Update, peer_name
from fedcore.task import load, params_of
from fedcore.tree import flatten, restore
from sims.runs.config import configured
from sims.world.virtual import VirtualLink
from strategies.coding.gradient_coding import GradientCoding
from strategies.coding.pacer import Coded
from strategies.coding.schedules import Multiplexed, Once
from strategies.coding.sequential import MSGC, SRSGC
from tests.cases import TRAINER, Copied

PEERS = [peer_name(i) for i in range(6)]
TASKS = {peer: Copied(seed=i) for i, peer in enumerate(PEERS)}
RULES = {
    "gradient-coding": GradientCoding(stragglers=1, batches=7),
    "cyclic": GradientCoding(stragglers=3, code="cyclic"),
    "sr-sgc": SRSGC(batches=7),
    "m-sgc": MSGC(stragglers=3, batches=9),
    "m-sgc, plain": MSGC(window=3, stragglers=6),
}


def start():
    torch.manual_seed(3)
    return params_of(Copied(0).model())


def one_step(params, job, batches):
    """Return the model after an SGD step along the mean gradient, by hand."""
    task = Copied(0)
    moves = []
    for batch in islice(task.batches(seed_of("job", job)), batches):
        model = load(task.model(), params).train()
        weights = dict(model.named_parameters())
        grads = torch.autograd.grad(task.loss(model, batch), list(weights.values()))
        moved = dict(zip(weights, (-TRAINER.lr * g for g in grads), strict=True))
        after = model.state_dict()
        rest = {k: after[k] - t for k, t in params.items() if k not in weights}
        moves.append({**moved, **rest})
    return {k: t + sum(m[k] for m in moves) / batches for k, t in params.items()}


def answers(rules, state, peers=PEERS):
    return [TRAINER(TASKS[p], rules.work(state, p), p) for p in peers]


def after_roll_call(rules):
    state = rules.init(start())
    return rules.apply(state, answers(rules, state))


@pytest.mark.parametrize("name", RULES)
def test_a_job_is_one_large_batch_whoever_is_away_for_one_round(name):
    rules = RULES[name]
    schedule = rules.schedule(6)
    batches = rules.batches or schedule.units
    state = after_roll_call(rules)
    assert state.roster == tuple(PEERS)
    state = rules.apply(state, answers(rules, state, PEERS[1:]))
    for _ in range(schedule.delay):
        state = rules.apply(state, answers(rules, state))
    want = one_step(start(), 0, batches)
    assert norm(sub(state.models[0], want)) < 1e-5 * norm(sub(want, start()))


def test_models_take_turns_and_the_one_that_moved_last_is_published():
    rules = MSGC(stragglers=3, batches=4)
    state = after_roll_call(rules)
    for _ in range(4):  # jobs 0 to 2 are done: model 0 moved twice, model 1 once
        state = rules.apply(state, answers(rules, state))
    first = one_step(one_step(start(), 0, 4), 2, 4)
    assert norm(sub(state.params, first)) < 1e-6
    assert norm(sub(state.models[1], one_step(start(), 1, 4))) < 1e-6


def test_one_model_takes_late_steps():
    rules = SRSGC(models=1, batches=4)
    state = after_roll_call(rules)
    for _ in range(2):
        state = rules.apply(state, answers(rules, state))
    want = one_step(one_step(start(), 0, 4), 1, 4)
    assert norm(sub(state.params, want)) < 1e-6


def test_too_few_answers_end_the_round_with_what_to_do_and_leave_the_state():
    rules = RULES["gradient-coding"]
    state = after_roll_call(rules)
    with pytest.raises(QuorumError, match=r"2 of 6 workers .* pacer.name=coded"):
        rules.apply(state, answers(rules, state, PEERS[:2]))


def test_strangers_and_answers_to_older_versions_count_nothing():
    rules = RULES["gradient-coding"]
    state = after_roll_call(rules)
    stranger = Update("zoe", state.version, {"here": torch.zeros(1)}, 1)
    assert rules.expects(rules.work(state, "zoe")).keys() == {"here"}
    old = replace(answers(rules, state, PEERS[:1])[0], version=0)
    late = rules.apply(state, [old, *answers(rules, state, PEERS[1:]), stranger])
    want = one_step(start(), 0, 7)
    assert norm(sub(late.params, want)) < 1e-6


def test_a_roll_call_with_too_few_workers_says_so():
    rules = GradientCoding(stragglers=3)
    state = rules.init(start())
    with pytest.raises(QuorumError, match="2 workers at the roll call: 3 of 2"):
        rules.apply(state, answers(rules, state, PEERS[:2]))


def test_every_worker_computes_what_the_clock_charges():
    for rules in RULES.values():
        state = after_roll_call(rules)
        schedule = rules.schedule(6)
        batches = rules.batches or schedule.units
        work = rules.work(state, PEERS[0])
        assert work.steps == -(-batches * schedule.per_round // schedule.units)
    work = GradientCoding(steps=4).work(after_roll_call(GradientCoding(steps=4)), "x")
    assert work.steps == 4


def test_malformed_work_is_refused():
    rules = RULES["gradient-coding"]
    work = rules.work(after_roll_call(rules), PEERS[0])
    bad = [
        replace(work, hints={**work.hints, "units": 0}),
        replace(work, hints={**work.hints, "batches": 10**9}),
        replace(work, aux={"coding": torch.zeros(3)}),
    ]
    for broken in bad:
        with pytest.raises(ProtocolError, match="coded work"):
            coded(TASKS[PEERS[0]], broken, PEERS[0], TRAINER.method(), None)


@pytest.mark.parametrize("name", ["gradient-coding", "sr-sgc"])
def test_they_learn(name):
    task = Copied(0)

    def loss(params):
        return task.evaluate(load(task.model(), params))["loss"]

    state = run_rounds(RULES[name], SGD(lr=0.3), TASKS, start(), rounds=9)
    assert loss(state.params) < 0.9 * loss(start())


# On the virtual clock, with the pacer


def run(rules, speeds, slack=1.0, rounds=4):
    pacer = Coded(len(PEERS), rules.schedule(0), slack)
    link = VirtualLink(TRAINER, TASKS, dict(zip(PEERS, speeds, strict=True)))
    state = coordinate(rules, pacer, link, start(), rounds)
    return state, link.clock_s


@pytest.mark.parametrize("name", ["gradient-coding", "sr-sgc"])
def test_a_slow_worker_holds_nobody_up(name):
    rules = RULES[name]
    quick, even_s = run(rules, [1.0] * 6)
    state, clock_s = run(rules, [1.0] * 5 + [50.0])
    assert norm(sub(state.params, quick.params)) < 1e-5
    assert clock_s <= 50.0 + 2 * (even_s - 1.0)  # of which the roll call takes 50 s


def test_m_sgc_waits_for_one_that_never_comes_back_in_time():
    """Every worker computes some data that nobody else does."""
    _, clock_s = run(RULES["m-sgc"], [1.0] * 5 + [50.0])
    assert clock_s >= 3 * 50.0


def test_uncoded_training_waits_for_it():
    _, clock_s = run(GradientCoding(stragglers=0), [1.0] * 5 + [50.0])
    assert clock_s >= 4 * 50.0


def lap(pacer, *answered):
    """Return the pace after a roll call at 0 s and work sent out at 1 s."""
    pace, starts = pacer.assign(pacer.init(), PEERS, 0.0)
    assert [s.peer for s in starts] == PEERS
    pace, folded = pacer.take(pace, [said(p) for p in PEERS], 1.0)
    assert len(folded) == 6
    pace, _ = pacer.assign(pace, PEERS, 1.0)
    return pace


def said(peer):
    return Update(peer, 0, {}, 1)


def test_the_pacer_waits_for_twice_the_fastest_and_then_for_what_decodes():
    pacer = Coded(6, Once(stragglers=2, kind="cyclic"))
    pace = lap(pacer)
    assert pacer.deadline_s(pace) == float("inf")
    pace, folded = pacer.take(pace, [said(PEERS[3])], 3.0)
    assert (folded, pacer.deadline_s(pace)) == ([], 5.0)  # 1 + 2 x (3 - 1)
    pace, folded = pacer.take(pace, [], 5.0)
    assert (folded, pacer.deadline_s(pace)) == ([], float("inf"))  # 1 of 4 needed
    pace, folded = pacer.take(pace, [said(PEERS[0]), said(PEERS[1])], 6.0)
    assert folded == []
    pace, folded = pacer.take(pace, [said(PEERS[5])], 7.0)
    assert [u.peer for u in folded] == [PEERS[i] for i in (0, 1, 3, 5)]
    pace, starts = pacer.assign(pace, [PEERS[i] for i in (0, 1, 3, 5)], 7.0)
    assert len(starts) == 4
    pace = pacer.lose(pace, [PEERS[2]], 8.0)  # its old answer was refused
    _, starts = pacer.assign(pace, [PEERS[2]], 8.0)
    assert [s.peer for s in starts] == [PEERS[2]]


def test_the_pacer_asks_those_who_failed_again_and_then_gives_up():
    pacer = Coded(6, Once(stragglers=0), retries=1)
    pace = lap(pacer)
    pace, _ = pacer.take(pace, [said(p) for p in PEERS[:5]], 2.0)
    pace, folded = pacer.take(pacer.lose(pace, PEERS[5:], 2.5), [], 2.5)
    assert folded == []
    pace, starts = pacer.assign(pace, PEERS, 2.5)
    assert [s.peer for s in starts] == PEERS[5:]
    with pytest.raises(QuorumError, match="5 of 6 workers answered"):
        pacer.take(pacer.lose(pace, PEERS[5:], 3.0), [], 3.0)


def test_workers_may_come_online_one_by_one():
    """It is no failure of those who answered that others are not there yet."""
    pacer = Coded(6, Once(stragglers=0), retries=1)
    pace = pacer.init()
    for i, peer in enumerate(PEERS):
        pace, starts = pacer.assign(pace, [peer], i)
        assert [s.peer for s in starts] == [peer]
        pace, folded = pacer.take(pace, [said(peer)], i + 0.5)
        if not folded:
            pace, folded = pacer.take(pace, [], i + 0.9)  # the next one came
    assert [u.peer for u in folded] == PEERS


def test_patience_ends():
    pacer = Coded(6, Once(stragglers=1), patience_s=10.0)
    pace = lap(pacer)
    assert pacer.deadline_s(pace) == 11.0
    with pytest.raises(QuorumError, match=r"raise pacer\.patience_s"):
        pacer.take(pace, [], 11.0)


# In a configuration


def config(*flags):
    return configured(from_flags(["run.clients=6", *flags]))


def test_the_pacer_and_the_partition_follow_the_strategy():
    made = config("strategy=m-sgc", "strategy.stragglers=3", "strategy.code=cyclic")
    assert made.pacer == Coded(6, Multiplexed(0, 1, 2, 3, "cyclic"))
    assert type(made.partition).__name__ == "Replicated"
    assert made.strategy.clients == 6
    assert config("strategy=gradient-coding").pacer == Coded(6, Once(), slack=0.0)
    plain = config("strategy=sr-sgc", "pacer=synchronous", "pacer.quorum=6")
    assert plain.pacer.quorum == 6
    assert type(plain.partition).__name__ == "Replicated"


@pytest.mark.parametrize("name", ["gradient-coding", "m-sgc", "sr-sgc"])
@pytest.mark.parametrize(
    ("flag", "cause"),
    [
        ("privacy=local-gaussian", "copies every example"),
        ("partition=dirichlet", r"partition\.name=replicated"),
        ("pacer=synchronous", "answers a round"),
        ("pacer=buffered", r"pacer\.name=synchronous"),
        ("trainer.momentum=0.9", r"trainer\.name=sgd without momentum"),
        ("pacer.scheme.stragglers=4", r"leave pacer\.scheme out"),
        ("strategy.stragglers=7", "stragglers among 6|7 of 6 workers"),
        ("strategy.code=cylcic", "cyclic"),
    ],
)
def test_what_cannot_go_together_is_refused_before_training(name, flag, cause):
    with pytest.raises(ConfigError, match=cause):
        config(f"strategy={name}", flag)


def test_the_coded_pacer_is_for_coded_strategies():
    with pytest.raises(ConfigError, match="is for gradient-coding"):
        config("strategy=fedavg", "pacer=coded")


def test_amounts_are_said_once():
    with pytest.raises(ConfigError, match="leave one at 0"):
        GradientCoding(steps=2, batches=3)


def test_the_pace_survives_being_stored():
    pace = lap(Coded(6, Once(stragglers=2)))
    pace, _ = Coded(6, Once(stragglers=2)).take(pace, [said(PEERS[3])], 3.0)
    restored = restore(hint_of(pace), *flatten(pace))
    assert flatten(restored) == flatten(pace)
    assert restored.progress == pace.progress
