import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.desk import Arrivals, Idle, Rules
from fedcore.errors import ConfigError
from fedcore.gate import Gate, Refusal
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.ring import ONE
from fedcore.strategy import Update, Work
from strategies.fedavg import FedAvg

LIKE = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.zeros(2)}
WORK = Work(version=5, params=LIKE, steps=4)
GOOD = Update("peer-000001", 5, LIKE, 10, {"loss": 0.5, "steps": 4.0})


def judged(update, work=WORK, gate=Gate(), stale_after=3):  # noqa: B008
    return gate.refusal(
        update, work, expects=lambda w: w.params, stale_after=stale_after
    )


def tensor(**changes):
    return replace(GOOD, payload={**LIKE, **changes})


def weight(t):
    return tensor(**{"layer.weight": t})


def bias(*values, dtype=torch.float32):
    return tensor(**{"layer.bias": torch.tensor(values, dtype=dtype)})


def metrics(**changes):
    return replace(GOOD, metrics={**GOOD.metrics, **changes})


def ring(value, name="layer.weight"):
    return {name: torch.full(LIKE[name].shape, value, dtype=torch.int64)}


class Sly(torch.Tensor):
    pass


RING = Gate(ring=True)
SUMS = {**ring(10 * ONE), **ring(10 * ONE, "layer.bias")}
LAST = {**LIKE, "layer.gain": torch.zeros(())}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch means to drop these; peers may not
    QUANTIZED = torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8)

# (kind, words of the reason, update), then what differs from the ordinary gate
BAD = [
    ("peer-type", "not text", replace(GOOD, peer=7)),
    ("peer-name", "0 characters", replace(GOOD, peer="")),
    ("peer-name", "257 characters", replace(GOOD, peer="p" * 257)),
    ("peer-name", "printed", replace(GOOD, peer="a\0b")),
    ("peer-name", '".."', replace(GOOD, peer="..")),
    ("peer-name", '"/"', replace(GOOD, peer="/etc/passwd")),
    ("version-type", "True", replace(GOOD, version=True)),
    ("version-type", "5.0", replace(GOOD, version=5.0)),
    ("version-type", "NoneType", replace(GOOD, version=None)),
    ("version-negative", "-1", replace(GOOD, version=-1)),
    ("version-future", "6, but 5", replace(GOOD, version=6)),
    ("version-future", "bits", replace(GOOD, version=10**5000)),
    ("version-old", "4, but 5", replace(GOOD, version=4)),
    ("weight-type", "True", replace(GOOD, examples=True)),
    ("weight-type", "1.5", replace(GOOD, examples=1.5)),
    ("weight-type", "nan", replace(GOOD, examples=math.nan)),
    ("weight-type", "'10'", replace(GOOD, examples="10")),
    ("weight-zero", "0", replace(GOOD, examples=0)),
    ("weight-negative", "-29", replace(GOOD, examples=-29)),
    ("weight-huge", "1000000000000", replace(GOOD, examples=10**12)),
    ("metrics-type", "list", replace(GOOD, metrics=[1.0])),
    ("metrics-many", "66", metrics(**{f"m{i}": 0.0 for i in range(64)})),
    ("metric-name", "300 characters", metrics(**{"m" * 300: 0.0})),
    ("metric-name", "printed", metrics(**{"a\nb": 0.0})),
    ("metric-name", "int", replace(GOOD, metrics={7: 0.0})),
    ("metric-type", "str", metrics(loss="low")),
    ("metric-type", "bool", metrics(loss=True)),
    ("metric-type", "Tensor", metrics(loss=torch.zeros(()))),
    ("metric-nan", "loss", metrics(loss=math.nan)),
    ("metric-infinite", "inf", metrics(loss=math.inf)),
    ("metric-infinite", "-inf", metrics(loss=-math.inf)),
    ("metric-huge", "1e300", metrics(loss=10**400)),
    ("steps-form", "0 steps", metrics(steps=0)),
    ("steps-form", "2.5 steps", metrics(steps=2.5)),
    ("steps-huge", "1e+09", metrics(steps=1e9)),
    ("steps-other", "5 steps reported, 4 asked", metrics(steps=5)),
    ("payload-type", "list", replace(GOOD, payload=[1.0])),
    ("payload-type", "Tensor", replace(GOOD, payload=torch.zeros(2))),
    ("payload-empty", "2 were expected", replace(GOOD, payload={})),
    ("name-form", "'../x'", tensor(**{"../x": torch.zeros(2)})),
    ("name-form", "NoneType", replace(GOOD, payload={None: torch.zeros(2)})),
    ("missing", "'layer.bias'", replace(GOOD, payload={"layer.weight": LIKE})),
    ("extra", "'layer.gain'", tensor(**{"layer.gain": torch.zeros(())})),
    ("renamed", "'b'", replace(GOOD, payload={"b": 0, "layer.weight": 0})),
    ("name-case", "Bias", replace(GOOD, payload={"layer.Bias": 0, "layer.weight": 0})),
    ("not-tensor", "ndarray", weight(np.zeros((2, 3), np.float32))),
    ("not-tensor", "list", weight([[0.0] * 3] * 2)),
    ("not-tensor", "NoneType", weight(None)),
    ("subclass", "Sly", weight(torch.zeros(2, 3).as_subclass(Sly))),
    ("subclass", "Parameter", weight(torch.nn.Parameter(torch.zeros(2, 3)))),
    ("quantized", "qint8", weight(QUANTIZED)),
    ("layout", "sparse_coo", weight(torch.zeros(2, 3).to_sparse())),
    ("device", "meta", weight(torch.zeros(2, 3, device="meta"))),
    ("requires-grad", "graph", weight(torch.zeros(2, 3, requires_grad=True))),
    ("complex", "complex64", weight(torch.zeros(2, 3, dtype=torch.complex64))),
    ("dtype", "float64", weight(torch.zeros(2, 3, dtype=torch.float64))),
    ("dtype", "bool", weight(torch.zeros(2, 3, dtype=torch.bool))),
    ("dtype", "int32", weight(torch.zeros(2, 3, dtype=torch.int32))),
    ("rank", "1 dimensions, not 2", weight(torch.zeros(6))),
    ("rank", "0 dimensions, not 2", weight(torch.zeros(()))),
    ("shape", "(3, 2), not (2, 3)", weight(torch.zeros(3, 2))),
    ("shape", "(0, 3), not (2, 3)", weight(torch.zeros(0, 3))),
    ("nan", "1 of its 2 numbers are NaN", bias(0.0, math.nan)),
    ("nan", "1 of its 2 numbers are NaN", bias(math.inf, math.nan)),
    ("infinite", "1 of its 2 numbers are infinite", bias(0.0, math.inf)),
    ("infinite", "2 of its 2 numbers are infinite", bias(math.inf, -math.inf)),
    ("subnormal", "not all are 0", bias(0.0, 1e-40)),
    ("value-huge", "1001, above 1000", bias(0.0, -1001.0)),
    ("value-huge", "3e+38", bias(0.0, 3e38)),
    ("ring", "int64", replace(GOOD, payload=SUMS)),
]
ODD = [
    ("unasked", "not asked", GOOD, {"work": None}),
    ("unasked", "not asked", bias(math.nan, 0.0), {"work": None}),
    ("peer-name", "characters", replace(GOOD, peer=""), {"work": None}),
    ("stale", "older than 6", GOOD, {"stale_after": 6}),
    ("norm-huge", "above 0.9", bias(0.0, 0.95), {"gate": Gate(max_norm=0.9)}),
    ("norm-huge", "above 0.9", bias(0.0, 2.0), {"gate": Gate(max_norm=0.9)}),
    (
        "weighted-huge",
        "500 times its weight 10000000",
        replace(bias(0.0, 500.0), examples=10**7),
        {},
    ),
    ("ring-mixed", "1 of 2", tensor(**ring(ONE)), {"gate": RING}),
    (
        "ring-huge",
        "mean of 1100, above 1000",
        replace(GOOD, payload={**SUMS, **ring(11_000 * ONE)}),
        {"gate": RING},
    ),
    (
        "ring-huge",
        "layer.weight",
        replace(GOOD, payload={**SUMS, **ring(-(2**63))}),
        {"gate": RING},
    ),
    (
        "norm-huge",
        "above 2",
        replace(GOOD, payload=SUMS),
        {"gate": Gate(max_norm=2.0, ring=True)},
    ),
]


@pytest.mark.parametrize(("kind", "words", "update"), BAD)
def test_the_ordinary_gate_refuses(kind, words, update):
    refusal = judged(update)
    assert refusal is not None
    assert refusal.kind == kind
    assert words in refusal.reason
    assert refusal.ends_work
    assert refusal.peer.isprintable()


@pytest.mark.parametrize(("kind", "words", "update", "changes"), ODD)
def test_a_gate_of_other_limits_refuses(kind, words, update, changes):
    refusal = judged(update, **changes)
    assert refusal is not None
    assert refusal.kind == kind
    assert words in refusal.reason
    assert refusal.ends_work == (changes.get("work", WORK) is not None)


def test_at_least_forty_kinds_are_told_apart():
    assert len({row[0] for row in BAD + ODD}) >= 40


GOOD_ONES = [
    GOOD,
    replace(GOOD, metrics={}),
    replace(GOOD, metrics={"loss": np.float64(1.0), "count": 3}),
    bias(1000.0, -1000.0),
    bias(0.0, 0.0),
    bias(1e-30, 1e-30),  # the squares vanish, the numbers are normal
    bias(1e-40, 0.5),
    weight(torch.zeros(3, 2).t()),
    replace(GOOD, examples=10_000_000),
]


@pytest.mark.parametrize("update", GOOD_ONES)
def test_what_is_unusual_but_good_passes(update):
    assert judged(update) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_pass_where_they_are_expected(dtype):
    like = {"w": torch.full((5,), 6e-5, dtype=dtype)}
    work = Work(5, like)
    assert judged(replace(GOOD, payload=like, metrics={}), work) is None
    bad = replace(GOOD, payload={"w": torch.full((5,), math.inf, dtype=dtype)})
    refusal = judged(replace(bad, metrics={}), work)
    assert refusal is not None
    assert refusal.kind == "infinite"


def test_integers_and_empty_tensors_pass_where_they_are_expected():
    like = {"slope": torch.tensor(-128, dtype=torch.int8), "none": torch.zeros(0)}
    assert judged(replace(GOOD, payload=like), Work(5, like)) is None


def test_sums_pass_where_they_are_welcome():
    assert judged(replace(GOOD, payload=SUMS), gate=RING) is None


def test_a_norm_at_its_limit_is_settled_exactly():
    gate = Gate(max_norm=5.0)
    assert judged(bias(3.0, 4.0), gate=gate) is None
    refusal = judged(bias(3.0, 4.00001), gate=gate)
    assert refusal is not None
    assert refusal.kind == "norm-huge"


@pytest.mark.parametrize("key", ["max_examples", "max_value", "max_norm", "max_steps"])
def test_limits_must_be_positive(key):
    with pytest.raises(ConfigError, match=key):
        Gate(**{key: 0})


def attacks(update):
    """Return what a hostile peer might send in place of ``update``."""
    weight = update.payload["weight"]
    for bad in (
        weight * math.nan,
        weight + math.inf,
        weight * 1e6,
        weight.double(),
        weight[0],
        weight.new_full(weight.shape, 1e-42),
    ):
        yield replace(update, payload={"weight": bad})
    for examples in (-29, 0, 10**12):
        yield replace(update, examples=examples)
    yield replace(update, version=update.version + 1)
    yield replace(update, payload={})
    yield replace(update, payload={**update.payload, "more": weight})


def trained(rules, start, tasks, answer):
    """Return the state after two rounds; ``answer`` is how peer2 misbehaves."""
    desk = rules.begin(start)
    refused: list[Refusal] = []
    for now_s in (0.0, 1.0):
        desk, out = rules.step_out(desk, Idle(sorted(tasks), now_s))
        updates = [SGD()(tasks[peer], work, peer) for peer, work in out]
        bad = [u for u in updates if u.peer == "peer2"]
        good = [u for u in updates if u.peer != "peer2"]
        arrivals = answer(bad[0]) if bad else Arrivals()
        mixed = Arrivals([*arrivals.updates, *good], arrivals.lost)
        desk, fold = rules.step_in(desk, rules.judge(desk, mixed, now_s + 0.5))
        refused += fold.refused
    assert desk.state.version == 2
    return desk.state, refused


@pytest.mark.parametrize("number", range(12))
def test_a_bad_peer_leaves_no_trace_in_the_model(number, start, tasks):
    rules = Rules(FedAvg(steps=2), Synchronous(cohort=3), Gate())
    lost, _ = trained(rules, start, tasks, lambda u: Arrivals(lost={u.peer: "gone"}))
    attacked, refused = trained(
        rules, start, tasks, lambda u: Arrivals([list(attacks(u))[number]])
    )
    assert len(refused) == 2
    assert digest(attacked.params) == digest(lost.params)


def test_a_repeated_update_counts_once(start, tasks):
    rules = Rules(FedAvg(steps=2), Synchronous(cohort=3), Gate())
    once, _ = trained(rules, start, tasks, lambda u: Arrivals([u]))
    twice, refused = trained(rules, start, tasks, lambda u: Arrivals([u, u]))
    assert [r.kind for r in refused] == ["unasked", "unasked"]
    assert digest(once.params) == digest(twice.params)


def test_judging_a_norm_near_its_limit_writes_into_nothing():
    like = {"w": torch.zeros(4, dtype=torch.float64)}
    payload = {"w": torch.full((4,), 4.9, dtype=torch.float64)}  # norm 9.8
    update = Update("peer-000001", 5, payload, 10)
    before = digest(payload)
    assert judged(update, Work(5, like, 4), Gate(max_norm=10.0)) is None
    assert digest(payload) == before
