"""Ferret: blocks, widths, folding there and back, and what a round adds up to."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.tasks import load_task
from clients.trainers.sgd import SGD
from fedcore.codec import encode_updates
from fedcore.errors import ConfigError, ProtocolError
from fedcore.gate import Gate
from fedcore.hints import hint_of
from fedcore.params import digest, norm, scaled, sub
from fedcore.ring import ONE
from fedcore.rounds import run_rounds
from fedcore.seeds import signs
from fedcore.strategy import Update
from fedcore.task import load, params_of
from fedcore.tree import flatten, restore
from sims.data.federate import federate
from sims.data.partition import Natural
from sims.line import Line
from strategies.fedavg import FedAvg
from strategies.ferret import Ferret
from strategies.ferret_blocks import (
    RECONSTRUCTIONS,
    Block,
    Epoch,
    Folding,
    blocks_of,
    first_widths,
    next_widths,
    shared_out,
)
from tests.e2e.normed import Normed

TRAINER = SGD(lr=0.05)
MODEL = {
    "a.weight": torch.zeros(10, 10),
    "b.bias": torch.zeros(4),
    "b.weight": torch.zeros(5, 8),
    "c.running_mean": torch.ones(8),
    "c.weight": torch.zeros(8),
    "d.weight": torch.zeros(2),
}
NUMBERS = 2048


def change(seed=1):
    """Return a change of one tensor of ``NUMBERS`` numbers, some larger than others."""
    slope = torch.linspace(0, 1, NUMBERS)
    return {"w": slope * signs(seed, {"w": slope})["w"]}


def rebuilt(folding, delta, epoch, width):
    """Return what folding ``delta`` to ``width`` numbers leaves of it."""
    zeros = {name: torch.zeros_like(t) for name, t in delta.items()}
    widths = (width,) * len(blocks_of(delta))
    empty = Epoch(widths, torch.zeros(sum(widths), dtype=torch.int64))
    epochs = [*[empty] * epoch, Epoch(widths, folding.folded(delta, epoch, widths))]
    return folding.rebuilt(zeros, epochs)


def test_matrices_are_blocks_and_small_tensors_between_them_go_together():
    """Sizes 100, 4, 40, 8, 2 in order of name; the median is 8, so 7.2 may join."""
    assert blocks_of(MODEL) == (
        Block(("a.weight",), 0, 100),
        Block(("b.bias",), 100, 4),
        Block(("b.weight",), 104, 40),
        Block(("c.weight",), 144, 8),
        Block(("d.weight",), 152, 2),
    )
    small = {"a": torch.zeros(1), "b": torch.zeros(2), "c": torch.zeros(0)}
    many = small | {f"m{i}": torch.zeros(9, 9) for i in range(3)}
    assert blocks_of(many)[0] == Block(("a", "b"), 0, 3)


def test_a_budget_is_shared_in_proportion_rounded_up_the_largest_claim_first():
    assert shared_out(13, [60, 30, 10], [99, 99, 99]) == (7, 4, 2)
    assert shared_out(10, [60, 30, 10], [3, 99, 99]) == (3, 5, 2)
    assert shared_out(7, [0, 0, 0], [99, 99, 99]) == (3, 3, 1)
    assert shared_out(1, [5, 5], [9, 9]) == (1, 1)


@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(1, 50)), min_size=1),
    st.integers(1, 2000),
)
@settings(deadline=None, max_examples=50)
def test_shares_add_up_and_stay_in_range(blocks, total):
    claims, most = zip(*blocks, strict=True)
    given = shared_out(total, claims, most)
    assert all(1 <= n <= top for n, top in zip(given, most, strict=True))
    assert sum(given) == min(max(total, len(most)), sum(most))


def test_folding_by_hand():
    folding = Folding(seed=5, reconstruct="unbiased")
    ones = {"w": torch.ones(4)}
    d = rebuilt(folding, ones, 0, 1)["w"]  # every place: D[i] * sum of D
    total = folding.folded(ones, 0, (1,)).item() / ONE
    assert abs(total) in (0, 2, 4)
    assert set(d.abs().tolist()) == {abs(total)}
    assert d.sum().item() == total**2
    both = folding.folded(ones, 0, (2,)) / ONE
    assert both.sum().item() == total  # f[j] takes every second place


def test_as_many_numbers_as_weights_lose_nothing():
    delta = change()
    assert torch.equal(
        rebuilt(Folding(3, "unbiased"), delta, 2, NUMBERS)["w"],
        (delta["w"].double() * ONE).round().div(ONE).float(),
    )


@pytest.mark.parametrize("width", [64, 512])
def test_length_is_kept_on_average(width):
    delta = change()
    squares = [
        (norm(rebuilt(Folding(0, "length"), delta, e, width)) / norm(delta)) ** 2
        for e in range(20)
    ]
    assert sum(squares) / 20 == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("width", [64, 512])
def test_the_error_is_what_theory_says(width):
    """sqrt(d/K - 1) when unbiased, sqrt(1 - K/d) when projected, within 10 %."""
    delta, ratio = change(), NUMBERS / width
    expected = {"unbiased": (ratio - 1) ** 0.5, "projection": (1 - 1 / ratio) ** 0.5}
    for kind, theory in expected.items():
        errors = [
            norm(sub(rebuilt(Folding(0, kind), delta, e, width), delta)) / norm(delta)
            for e in range(10)
        ]
        assert sum(errors) / 10 == pytest.approx(theory, rel=0.1)


def test_on_average_over_the_signs_nothing_is_lost_or_added():
    """A z-score below 4 along the change itself, along ones, and along one weight."""
    delta, folding = change()["w"], Folding(0, "unbiased")
    found = torch.stack(
        [rebuilt(folding, {"w": delta}, e, 32)["w"] - delta for e in range(60)]
    )
    for along in (delta, torch.ones(NUMBERS), torch.eye(NUMBERS)[NUMBERS - 1]):
        errors = found.double() @ along.double()
        z = errors.mean() / (errors.std() / len(errors) ** 0.5)
        assert abs(z) < 4


def test_a_projection_is_never_longer_and_projecting_again_changes_nothing():
    delta, folding = change(), Folding(1, "projection")
    once = rebuilt(folding, delta, 0, 128)
    twice = rebuilt(folding, once, 0, 128)
    assert norm(once) < norm(delta)
    assert norm(sub(twice, once)) < 1e-6 * norm(once)


def test_the_norm_of_the_sums_stands_for_that_of_the_change():
    delta, folding = change(), Folding(0, "unbiased")
    sums = [folding.folded(delta, e, (512,)).double() / ONE for e in range(20)]
    mean_square = sum(float(s.square().sum()) for s in sums) / 20
    assert mean_square == pytest.approx(norm(delta) ** 2, rel=0.05)


def test_widths_follow_sizes_first_and_then_what_moved():
    blocks = blocks_of(MODEL)
    assert first_widths(blocks, 80) == (50, 3, 21, 5, 1)
    sums = torch.zeros(80, dtype=torch.int64)
    sums[:50] = 3 * ONE  # a.weight: 3 sqrt(50) = 21.2
    sums[53:74] = ONE  # b.weight: sqrt(21) = 4.58
    epoch = Epoch((50, 3, 21, 5, 1), sums)
    assert next_widths(blocks, epoch, 80) == (63, 1, 14, 1, 1)
    larger = Epoch(epoch.widths, sums << 20)
    assert next_widths(blocks, larger, 80) == (63, 1, 14, 1, 1)
    nothing = Epoch(epoch.widths, torch.zeros_like(sums))
    assert sum(next_widths(blocks, nothing, 80)) == 80


def peers():
    return {f"peer{i}": Normed(seed=i) for i in range(3)}


def start():
    like = params_of(Normed(0).model())
    drawn = scaled(signs(7, like), 0.2)
    return {n: t.abs() if "running" in n else t for n, t in drawn.items()}


@pytest.mark.parametrize("kind", RECONSTRUCTIONS)
def test_with_a_number_for_every_weight_it_is_fedavg(kind):
    rules = Ferret(budget=10**6, reconstruct=kind, steps=3)
    ferret = run_rounds(rules, TRAINER, peers(), start(), 4)
    fedavg = run_rounds(FedAvg(steps=3), TRAINER, peers(), start(), 4)
    for name in Normed(0).model().state_dict():
        if name.endswith(("weight", "bias")):
            assert torch.allclose(ferret.params[name], fedavg.params[name], atol=2e-6)


def test_running_statistics_stay_and_weights_do_not():
    state = run_rounds(Ferret(steps=3), TRAINER, peers(), start(), 2)
    moved = {n for n, t in state.params.items() if not torch.equal(t, start()[n])}
    assert moved >= {"0.weight", "1.weight", "3.weight"}
    assert not any("running" in name for name in moved)


@pytest.mark.parametrize(("rotate", "epochs"), [(0, 1), (1, 5), (2, 3)])
def test_the_first_model_and_one_vector_an_epoch_are_the_model(rotate, epochs):
    rules = Ferret(budget=20, rotate=rotate, steps=2)
    state = run_rounds(rules, TRAINER, peers(), start(), 4)
    assert len(state.epochs) == epochs
    work = rules.work(state, "late joiner")
    told = [work.aux[f"folded.{e}"] for e in range(epochs)]
    widths = [tuple(row) for row in work.aux["widths"].tolist()]
    rows = [Epoch(w, t) for w, t in zip(widths, told, strict=True)]
    joined = Folding(0, "length").rebuilt(start(), rows)
    assert digest(joined) == digest(state.params)
    assert digest(restore(hint_of(state), *flatten(state)).params) == digest(joined)


@pytest.mark.parametrize("inputs", [10, 10_000])
def test_an_answer_is_four_bytes_a_number_whatever_the_model(inputs):
    rules = Ferret(budget=256, steps=1)
    state = rules.init({"w": torch.zeros(inputs, 30)})
    work = rules.work(state, "p")
    payload = {n: torch.rand(t.shape) for n, t in rules.expects(work).items()}
    sent = encode_updates([Update("p", 0, payload, 8, {"loss": 1.0, "steps": 1.0})])
    assert 4 * 256 <= len(sent) <= 4 * 256 + 80


def test_an_answer_to_an_older_epoch_counts_in_its_own():
    rules = Ferret(budget=8, rotate=1)
    state = rules.apply(rules.init(MODEL), [_of_ones(rules, rules.init(MODEL), "p", 1)])
    late = _of_ones(rules, rules.init(MODEL), "late", 1)
    fresh = _of_ones(rules, state, "p", 3)
    after = rules.apply(state, [late, fresh])
    assert (after.epochs[0].sums == ONE + ONE // 4).all()
    assert (after.epochs[1].sums == 3 * ONE // 4).all()
    assert not after.epochs[2].sums.any()


def _of_ones(rules, state, peer, examples):
    work = rules.work(state, peer)
    payload = {n: torch.ones_like(t) for n, t in rules.expects(work).items()}
    return Update(peer, work.version, payload, examples)


def test_sums_beyond_the_largest_are_cut_and_counted():
    rules = Ferret(budget=8, rotate=0)
    state = rules.init(MODEL)
    full = Epoch(state.epochs[0].widths, torch.full((8,), (1 << 62) - 1))
    after = rules.apply(
        replace(state, epochs=(full,)), [_of_ones(rules, state, "p", 1)]
    )
    assert after.cut == 8
    assert (after.epochs[0].sums == 1 << 62).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_thread_or_two_the_same_bits(dtype):
    base = {"w": torch.linspace(-1, 1, 300_000).to(dtype)}
    epoch = (1000,), torch.arange(1000) * (ONE // 500_000)
    made = set()
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        folding = Folding(2, "unbiased")
        whole = folding.rebuilt(base, [Epoch(*epoch)])
        made.add(digest({**whole, "f": folding.folded(whole, 0, (1000,))}))
    torch.set_num_threads(before)
    assert len(made) == 1
    assert whole["w"].dtype == dtype
    assert not torch.equal(whole["w"], base["w"])


def test_fewer_numbers_than_weights_still_learn_once_the_signs_rotate():
    lines = {f"peer{i}": Line(seed=i) for i in range(5)}
    wide = params_of(lines["peer0"].model())
    state = run_rounds(Ferret(budget=1, steps=3), SGD(lr=0.05), lines, wide, 12)
    assert _loss(lines, state.params) < 0.3 * _loss(lines, wide)


def _loss(tasks, params):
    figures = [t.evaluate(load(t.model(), params)) for t in tasks.values()]
    return sum(f["loss"] for f in figures)


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 0},
        {"rotate": -1},
        {"seed": -1},
        {"server_lr": 0.0},
        {"reconstruct": "unbiassed"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Ferret(**wrong)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ConfigError, match="nothing to fold"):
        Ferret().init({"x.running_var": torch.ones(3)})


@pytest.mark.parametrize("size", [1e9, inf, nan])
def test_training_that_blew_up_is_refused_by_name_and_nobody_else_is(size):
    """Not an error of whoever runs the peer, which would end a simulation."""

    class Blown(Line):
        def loss(self, model, batch):
            return super().loss(model, batch) * size

    rules = Ferret(budget=2)
    work = rules.work(rules.init(params_of(Line(0).model())), "p")
    update = SGD(lr=1.0)(Blown(0), replace(work, steps=2), "p")
    limits = {"expects": rules.expects, "stale_after": 0}
    update = replace(update, metrics={})  # the loss alone would be refused
    refusal = Gate().refusal(update, work, **limits)
    assert refusal is not None
    assert refusal.kind in {"nan", "value-huge"}


WRONG_AUX = {
    "without the widths": {"widths": None},
    "widths of shape": {"widths": torch.ones(1, 5, dtype=torch.int64)},
    "epoch 0 folds": {"widths": torch.zeros(1, 6, dtype=torch.int64)},
    "does not come with": {"folded.0": torch.zeros(3, dtype=torch.int64)},
    "does not come with 20": {"folded.0": torch.zeros(20)},
}
WRONG_HINTS = {
    "hint seed": {"seed": -1},
    "cannot reconstruct": {"reconstruct": "exactly"},
    "hint server_lr": {"server_lr": float("nan")},
}


@pytest.mark.parametrize("message", [*WRONG_AUX, *WRONG_HINTS])
def test_malformed_work_is_refused_by_what_is_wrong(message):
    rules = Ferret(budget=20)
    work = rules.work(rules.init(start()), "p")
    aux = {**work.aux, **WRONG_AUX.get(message, {})}
    work = replace(
        work,
        aux={name: t for name, t in aux.items() if t is not None},
        hints={**work.hints, **WRONG_HINTS.get(message, {})},
    )
    with pytest.raises(ProtocolError, match=message):
        TRAINER(Normed(0), work, "p")


@pytest.mark.slow
def test_a_language_model_learns_from_a_few_thousand_numbers():
    """12 steps of each of two speaking parts; 0.85 million weights, 4096 numbers."""
    flags = {"window": 32, "batch_size": 8, "most_held_out": 50}
    dataset = load_task("lm-shakespeare", flags)
    tasks = federate(dataset, Natural(min_examples=40), clients=2, seed=0)
    begin = dataset.start(seed=0)
    state = run_rounds(Ferret(steps=2), SGD(lr=0.3), tasks, begin, 6)
    before, after = (
        dataset.whole().evaluate(load(dataset.new_model(), params))["loss"]
        for params in (begin, state.params)
    )
    assert after < before - 0.05
