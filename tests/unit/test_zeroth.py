"""The duty ``zeroth``: probes and steps, worked out by hand where that is possible."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch
from torch import nn

from clients.trainers.asking import asked
from clients.trainers.sgd import SGD
from fedcore import onebyte
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.pool import Pool, direction, expand
from fedcore.ring import ONE
from fedcore.seeds import seed_of
from fedcore.strategy import Update
from fedcore.task import params_of
from strategies.fedkseed import FedKSeed, FedKSeedPro
from strategies.mezo import MeZO, fresh
from strategies.one_byte import OneByte
from strategies.seeded import drawn, indices
from tests.e2e.normed import Normed
from tests.probed import START, Quadratic, line_of

BASIC = {"lr": 0.25, "eps": 0.5, "steps": 1, "clip": 1000.0}
SEEDED = {**BASIC, "size": 8}


def answer(rules, task=None, turn=0, peer="p0"):
    """Return the state before, and what the peer answers to its work."""
    state = rules.init(START)
    work = rules.work(state, peer)
    if turn:
        work = replace(work, hints={**work.hints, "turn": turn})
    return state, SGD()(task or Quadratic(), work, peer)


def directions_of(state, count, peer="p0", turn=0):
    """Return the directions of a peer's probes, as it must draw them."""
    random = drawn(state.pool, peer, state.version, turn, count)
    return indices(random, state.pool.size).tolist()


def slope_at(w, z):
    return float(Quadratic().gradient(w) @ z)


def test_one_step_on_a_quadratic_is_exact():
    state, update = answer(FedKSeed(**SEEDED))
    (k,) = directions_of(state, 1)
    z = direction(state.pool, k, 4)
    wanted = torch.zeros(8)
    wanted[k] = slope_at(line_of(START), z)  # two-point differences have no error here
    assert update.payload["coefficients"].tolist() == wanted.tolist()
    w = line_of(START)
    ends = [loss_at(w + e * z) for e in (0.5, -0.5)]
    assert update.metrics == {"steps": 1.0, "loss": sum(ends) / 2}


def loss_at(w):
    model = Quadratic().model()
    model.a.data, model.b.data = w[:3], w[3:]
    return float(Quadratic().loss(model, 1.0).detach())


def test_the_next_step_starts_where_the_first_one_went():
    state, update = answer(FedKSeed(**{**SEEDED, "steps": 2}))
    w, wanted = line_of(START), torch.zeros(8)
    for k in directions_of(state, 2):
        z = direction(state.pool, k, 4)
        g = slope_at(w, z)
        wanted[k] += g
        w = w - 0.25 * g * z
    assert update.payload["coefficients"].tolist() == wanted.tolist()


def test_directions_of_one_step_are_averaged_at_one_place():
    state, update = answer(FedKSeed(**{**SEEDED, "directions": 4}))
    wanted = torch.zeros(8)
    for k in directions_of(state, 4):
        wanted[k] += slope_at(line_of(START), direction(state.pool, k, 4)) / 4
    assert update.payload["coefficients"].tolist() == wanted.tolist()


def test_halvings_of_the_step_are_in_the_scalars():
    rules = FedKSeed(**SEEDED, halve=2)
    state = replace(rules.init(START), version=5)  # twice halved by then
    update = SGD()(Quadratic(), rules.work(state, "p0"), "p0")
    (k,) = directions_of(state, 1)
    slope = slope_at(line_of(START), direction(state.pool, k, 4))
    assert update.payload["coefficients"][k] == slope / 4


def test_a_large_scalar_is_cut_and_counted():
    state, update = answer(FedKSeed(**{**SEEDED, "clip": 0.125}))
    (k,) = directions_of(state, 1)
    assert abs(update.payload["coefficients"][k]) == 0.125
    assert update.metrics["cut"] == 1.0


@pytest.mark.parametrize("bad", [nan, inf])
def test_a_probe_without_a_finite_loss_moves_nothing_and_is_counted(bad):
    rules = FedKSeed(**{**SEEDED, "steps": 2})
    state, update = answer(rules, Quadratic(factors=(bad, 1.0)))
    _, k = directions_of(state, 2)
    wanted = torch.zeros(8)
    wanted[k] = slope_at(line_of(START), direction(state.pool, k, 4))
    assert update.payload["coefficients"].tolist() == wanted.tolist()
    assert update.metrics["skipped"] == 1.0


def test_no_finite_loss_at_all_leaves_no_figure_for_it():
    _, update = answer(FedKSeed(**SEEDED), Quadratic(factors=(nan,)))
    assert not update.payload["coefficients"].any()
    assert update.metrics == {"steps": 1.0, "skipped": 1.0}


def test_pro_tells_sizes_and_counts():
    state, update = answer(FedKSeedPro(**{**SEEDED, "steps": 3}))
    random = drawn(state.pool, "p0", 0, 0, 3)
    even = torch.full((8,), 93, dtype=torch.uint8)  # nothing is known yet
    which = indices(random, 8, even).tolist()
    counts = [float(which.count(k)) for k in range(8)]
    assert update.payload["counts"].tolist() == counts
    assert (update.payload["sizes"] >= update.payload["coefficients"].abs()).all()
    assert bool((update.payload["sizes"] > 0).eq(torch.tensor(counts) > 0).all())


def test_a_byte_says_what_the_peer_walked_by():
    rules = OneByte(**{**SEEDED, "steps": 5})
    state, update = answer(rules)
    assert {n: t.dtype for n, t in update.payload.items()} == {"bytes": torch.uint8}
    noise = onebyte.draws(5, "byte", "p0", 0, 0)
    w, codes = line_of(START), []
    for i, k in enumerate(directions_of(state, 5)):
        z = direction(state.pool, k, 4)
        g = torch.tensor([loss_at(w + 0.5 * z) - loss_at(w - 0.5 * z)])
        code = onebyte.encode(g, 1.0, noise[i : i + 1]).codes
        codes += code.tolist()
        w = w - (0.25 * (onebyte.decode(code, 1.0) / ONE) * z).float()
    assert update.payload["bytes"].tolist() == codes
    after = line_of(rules.apply(state, [update]).params)
    assert torch.allclose(after, w, rtol=0, atol=1e-5)


def test_a_mezo_round_that_goes_nowhere_changes_no_bit_of_any_type():
    thirds = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    start = {"w": thirds, "half": thirds.bfloat16(), "scale": thirds[0].clone()}
    rules = MeZO(steps=2)
    still = Update("p0", 0, {"scalars": torch.zeros(2)}, 1)
    assert digest(rules.apply(rules.init(start), [still]).params) == digest(start)


def test_mezo_is_the_papers_loop():
    rules = MeZO(**{**BASIC, "steps": 3})
    state, update = answer(rules)
    pool = fresh(Pool(2), "p0", 0, 0, 3)
    w, scalars = line_of(START), []
    for k in range(3):
        z = direction(pool, k, 4)
        scalars.append(slope_at(w, z))
        w = w - 0.25 * scalars[-1] * z
    assert update.payload["scalars"].tolist() == scalars
    assert line_of(rules.apply(state, [update]).params).tolist() == w.tolist()


@pytest.mark.parametrize("make", [OneByte, MeZO])
def test_a_second_answer_takes_other_directions_and_the_server_knows(make):
    settings = BASIC if make is MeZO else SEEDED
    rules = make(**{**settings, "steps": 8, "lr": 2**-5})
    state, first = answer(rules)
    _, second = answer(rules, turn=1)
    assert second.metrics["turn"] == 1.0
    assert "turn" not in first.metrics
    silent = replace(second, metrics={})
    right, wrong = (
        loss_at(line_of(rules.apply(state, [u]).params)) for u in (second, silent)
    )
    assert right < min(wrong, loss_at(line_of(START)))


def test_peers_draw_different_directions():
    state = FedKSeed(size=1024).init(START)
    drawn_by = [directions_of(state, 20, peer=f"p{i}") for i in range(5)]
    assert len({tuple(ks) for ks in drawn_by}) == 5


class Dropped(Quadratic):
    """Its model drops half of everything out while it trains."""

    def model(self):
        return _Dropping()


class _Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Quadratic().model()
        self.drop = nn.Dropout(0.5)

    def line(self):
        return self.drop(self.inner.line())


def test_the_model_is_in_evaluation_mode():
    rules = FedKSeed(**SEEDED)
    state = rules.init({f"inner.{name}": t for name, t in START.items()})
    update = SGD()(Dropped(), rules.work(state, "p0"), "p0")
    (k,) = directions_of(state, 1)
    slope = slope_at(line_of(START), direction(state.pool, k, 4))
    assert update.payload["coefficients"][k] == slope


def test_the_work_and_its_tensors_stay_as_they_are():
    rules = FedKSeed(size=16, steps=3)
    state = rules.init(params_of(Normed(0).model()))
    work = rules.work(state, "p0")
    before = digest(work.params), digest(work.aux)
    SGD()(Normed(0), work, "p0")
    assert (digest(work.params), digest(work.aux)) == before


@pytest.mark.parametrize(
    ("hints", "aux", "told"),
    [
        ({"answer": "all"}, {}, "answer"),
        ({"lr": 0.0}, {}, "lr"),
        ({"eps": inf}, {}, "eps"),
        ({"clip": "much"}, {}, "clip"),
        ({"directions": 0}, {}, "directions"),
        ({"directions": 1 << 20}, {}, "directions"),
        ({"share": 1.0}, {}, "share"),
        ({"turn": -1}, {}, "turn"),
        ({"pool": "hadamard:shift:9:0"}, {}, "pool"),
        ({"pool": "hadamard:shift:16:0"}, {}, "16"),
        ({"answer": "weighed"}, {}, "chances"),
        ({"answer": "bytes"}, {}, "sigma"),
        ({}, {"coefficients": torch.zeros(1, 8)}, "int64"),
        ({}, {"coefficients": torch.zeros(8, dtype=torch.int64)}, "shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(hints, aux, told):
    rules = FedKSeed(**SEEDED)
    work = rules.work(rules.init(START), "p0")
    odd = replace(work, hints={**work.hints, **hints}, aux={**work.aux, **aux})
    with pytest.raises(ProtocolError, match=told):
        SGD()(Quadratic(), odd, "p0")


def test_chances_of_nought_are_refused():
    rules = FedKSeedPro(**SEEDED)
    work = rules.work(rules.init(START), "p0")
    aux = {**work.aux, "chances": torch.zeros(8, dtype=torch.uint8)}
    with pytest.raises(ProtocolError, match="above 0"):
        asked(Quadratic(), replace(work, aux=aux), "p0")


class Tied(Quadratic):
    """Its model has two names for one tensor."""

    def model(self):
        model = super().model()
        model.again = model.a
        return model


def test_two_names_for_one_tensor_are_refused():
    rules = FedKSeed(**SEEDED)
    state = rules.init({**START, "again": START["a"]})
    with pytest.raises(ConfigError, match="'a' and 'again'"):
        SGD()(Tied(), rules.work(state, "p0"), "p0")


def test_another_models_tensor_is_refused():
    rules = FedKSeed(**SEEDED)
    state = rules.init({**START, "c": torch.zeros(1)})
    with pytest.raises(ProtocolError, match="'c'"):
        SGD()(Quadratic(), rules.work(state, "p0"), "p0")


# What the estimate is worth.


def test_over_all_directions_the_mean_step_is_the_gradient():
    """A model no larger than the pool: the rows of one block are orthogonal."""
    pool, w = Pool(8, tie="tile"), line_of(START)
    gradient = Quadratic().gradient(w)
    total = torch.zeros(4)
    for k in range(8):
        z = direction(pool, k, 4)
        total += slope_at(w, z) * z
    assert (total / 8).tolist() == gradient.tolist()


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("signs", "gaussian")]


@pytest.mark.parametrize("kind", ["hadamard", *SLOW])
def test_steps_of_many_peers_average_to_the_gradient_even_in_bytes(kind):
    """z-scores of the mean over 100 pools, each with one probe."""
    peers, steps = 100, []
    for i in range(peers):
        rules = OneByte(**{**SEEDED, "lr": 1.0}, pool=kind, seed=i)
        state, update = answer(rules)
        after = line_of(rules.apply(state, [update]).params)
        steps.append((line_of(START) - after).double())
    rows = torch.stack(steps)
    error = rows.mean(0) - Quadratic().gradient(line_of(START))
    scores = error.abs() / (rows.std(0) / peers**0.5)
    assert scores.max() < 4, scores


def test_an_honest_byte_is_never_cut_by_the_server():
    """The clip of a scalar leaves room for being rounded up to the next byte."""
    rules = OneByte(**{**SEEDED, "clip": 3.0, "steps": 40})
    state, update = answer(rules, Quadratic(slope=(50.0, 50.0, 50.0, 50.0)))
    assert update.metrics["cut"] > 0  # by the peer, which says so
    assert rules.apply(state, [update]).cut == 0


def test_a_liars_bytes_are_held_at_the_clip_and_counted():
    rules = OneByte(**{**SEEDED, "clip": 1.0, "steps": 4})
    state = rules.init(START)
    loud = torch.full((4,), 127, dtype=torch.uint8)  # 1448 each
    after = rules.apply(state, [Update("p0", 0, {"bytes": loud}, 1)])
    assert after.cut == 4
    assert after.coefficients.abs().sum() <= 4 * 1.125 * ONE


def test_mezo_holds_a_liars_scalars_at_the_clip_and_counts_them():
    rules = MeZO(**{**BASIC, "clip": 1.0, "steps": 2})
    state = rules.init(START)
    loud = Update("p0", 0, {"scalars": torch.tensor([900.0, -0.5])}, 1)
    held = Update("p0", 0, {"scalars": torch.tensor([1.0, -0.5])}, 1)
    after = rules.apply(state, [loud])
    assert after.cut == 1
    assert digest(after.params) == digest(rules.apply(state, [held]).params)


def test_fresh_directions_are_named_by_pool_round_peer_and_turn():
    seeds = {
        fresh(pool, peer, version, turn, 5).seed
        for pool in (Pool(2), Pool(2, seed=1))
        for peer in ("a", "b")
        for version in (0, 1)
        for turn in (0, 1)
    }
    assert len(seeds) == 16
    word = Pool(2).word()
    assert fresh(Pool(2), "a", 0, 1, 5) == Pool(
        8, seed=seed_of("fresh", word, "a", 0, 1)
    )


def test_a_walk_ends_where_the_server_expands_to():
    rules = FedKSeed(**{**SEEDED, "steps": 3})
    state, update = answer(rules)
    after = rules.apply(state, [update])
    line = (update.payload["coefficients"].double() * ONE).long().unsqueeze(0)
    assert torch.equal(after.coefficients, line)
    assert digest(after.params) == digest(expand(state.pool, line, -0.25, START))
