"""Engines: the same bits from all, errors told as they were, nothing left behind."""

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clients.tasks.dataset import Dataset, Federation
from clients.trainers.adamw import AdamW
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.params import digest
from fedcore.strategy import Update, Work
from privacy.local import LocalGaussian
from sims.engine import Job, make_engine
from sims.engine.batched import Batched, cohort_size
from sims.engine.forked import Forked
from sims.engine.loop import Loop
from sims.engine.mail import (
    Reader,
    Sheaf,
    error_of,
    error_words,
    job_of,
    job_words,
    receive,
    send,
    update_of,
    update_words,
)
from sims.engine.slab import FIRST_BYTES, Slab
from sims.line import Line

LINES = {f"p{i}": Line(seed=i) for i in range(12)}
START = {"weight": torch.zeros(1, 4)}
real = pytest.mark.slow  # forks processes


def small():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def federation(peers=40):
    """Ragged peers, 1 to 40 examples."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(400, 6, generator=g), torch.randint(0, 3, (400,), generator=g)
    data = Dataset("noise", (x, y), (x, y), small, batch_size=8)
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 400, rng.integers(1, 41)) for _ in range(peers)]
    return Federation(data, parts)


def told(updates):
    return [
        (u.peer, u.version, u.examples, dict(u.metrics), digest(u.payload))
        for u in updates
    ]


def jobs_of(tasks, **settings):
    work = Work(3, tasks.dataset.start(1), **settings)
    return [Job(peer, work) for peer in tasks]


def lines(**settings):
    return [Job(peer, Work(0, START, 2, **settings)) for peer in LINES]


def echo(task, work, peer):
    return Update(peer, work.version, work.params, 1)


@dataclass(frozen=True)
class Troubled:
    """Does what the peer's trouble is; otherwise echoes."""

    troubles: dict

    def __call__(self, task, work, peer):
        trouble = self.troubles.get(peer)
        if isinstance(trouble, Exception):
            raise trouble
        if trouble is not None:
            trouble()
        return echo(task, work, peer)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


# --- choice ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "workers", "told"),
    [("threads", 1, "auto, batched, forked, loop"), ("auto", -1, "workers")],
)
def test_impossible_engines_are_refused(kind, workers, told):
    with pytest.raises(ConfigError, match=told):
        make_engine(SGD(), LINES, workers, kind)


def test_choice():
    assert type(make_engine(SGD(), LINES, 1, "loop")) is Loop
    assert type(make_engine(SGD(), LINES, 4, "batched")) is Batched
    assert type(make_engine(SGD(), LINES, 1)) is Batched
    assert type(make_engine(SGD(device="auto"), LINES, 4)) is Batched
    for trainer in (SGD(device="cuda"), LocalGaussian(SGD(device="cuda"), 1.0, 0.0)):
        with pytest.raises(ConfigError, match="GPU"):
            make_engine(trainer, LINES, 2, "forked")


# --- one process -------------------------------------------------------------


def test_any_trainer_runs_on_one_thread():
    def count(task, work, peer):
        threads = float(torch.get_num_threads())
        return Update(peer, 0, {}, 1, {"threads": threads})

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    got = make_engine(count, LINES, kind="loop").run(lines()[:1])
    assert got[0].metrics["threads"] == 1.0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_loop_is_the_trainer_job_by_job():
    jobs = lines()
    got = make_engine(SGD(), LINES, kind="loop").run(jobs)
    assert told(got) == told(SGD()(LINES[j.peer], j.work, j.peer) for j in jobs)


@pytest.mark.parametrize("trainer", [SGD(), SGD(momentum=0.9), AdamW(), echo])
def test_batched_is_the_loop(trainer):
    tasks = federation()
    jobs = jobs_of(tasks, epochs=2)
    jobs += [replace(jobs[5], work=replace(jobs[5].work, version=4, hints={"mu": 0.1}))]
    got = make_engine(trainer, tasks, kind="batched").run(jobs)
    assert told(got) == told(make_engine(trainer, tasks, kind="loop").run(jobs))


def test_units_group_what_may_train_together():
    tasks = federation(60)
    jobs = jobs_of(tasks)
    odd = [3, 30]
    for i in odd:
        jobs[i] = Job(jobs[i].peer, replace(jobs[i].work, hints={"mu": 1.0}))
    later = Job(jobs[0].peer, replace(jobs[0].work, version=4))
    units = Batched(SGD(), tasks).units([*jobs, later])
    assert sorted(i for unit in units for i in unit.jobs) == list(range(61))
    assert sorted(len(unit.jobs) for unit in units) == [1, 1, 1, 19, 19, 20]
    assert {u.jobs[0] for u in units if len(u.jobs) == 1} == {3, 30, 60}
    for unit in units:
        steps = [tasks[jobs[i % 60].peer].epoch_steps for i in unit.jobs]
        assert steps == sorted(steps, reverse=True)
        assert unit.steps == sum(steps)
    alone = [(unit.jobs, unit.steps) for unit in Batched(echo, tasks).units(jobs)]
    assert alone == [([i], tasks[j.peer].epoch_steps) for i, j in enumerate(jobs)]


def test_the_bigger_the_model_the_smaller_the_cohort():
    big = Dataset(
        "big",
        (torch.zeros(2, 784), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 784), torch.zeros(2, dtype=torch.int64)),
        lambda: nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    )
    plan = SGD().cohort(big.whole(), Work(0, big.start(0)))
    assert plan.numbers == 784 * 1024 + 1024 + 1024 * 10 + 10
    assert cohort_size(plan) == 1
    assert cohort_size(replace(plan, shapes=(("w", (128, 794)),))) == 5
    assert cohort_size(replace(plan, shapes=(("w", (10, 10)),))) == 25
    assert cohort_size(None) == 1


@pytest.mark.parametrize("kind", ["loop", "batched"])
def test_an_error_names_the_peer(kind):
    trainer = Troubled({"p4": ValueError("four"), "p7": ValueError("seven")})
    with pytest.raises(ValueError, match="four") as raised:
        make_engine(trainer, LINES, kind=kind).run(lines())
    assert "while training p4" in raised.value.__notes__


def test_an_unknown_peer_is_named():
    with pytest.raises(KeyError) as raised:
        make_engine(SGD(), LINES).run([Job("nobody", Work(0, START, 1))])
    assert "while training nobody" in raised.value.__notes__


def test_no_jobs_no_updates():
    assert make_engine(SGD(), LINES).run([]) == []


# --- memory and mail ---------------------------------------------------------

TREE = {
    "floats": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0).view(2, 3).T,
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor(0.1, dtype=torch.float64),
    "ring": torch.tensor([-(2**62)]),
    "byte": torch.tensor([-3], dtype=torch.int8),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 3),
}


def test_slab_keeps_every_kind_of_tensor():
    slab, sent = Slab(), TREE
    sheaf = Sheaf(slab, 0)
    first, again = sheaf.put(sent), sheaf.put(sent)
    assert first != again  # written twice: sharing is decided by the engine
    assert len(sheaf.forms) == 1
    got = Reader([slab], {0: sheaf.forms}).get(first)
    assert list(got) == list(sent)
    assert digest(got) == digest(sent)
    slab.close()


def test_slab_grows_and_keeps_what_it_holds():
    slab = Slab()
    sheaf = Sheaf(slab, 0)
    small = sheaf.put({"a": torch.ones(3)})
    large = sheaf.put({"b": torch.full((FIRST_BYTES,), 2.0)})
    assert slab.size >= 4 * FIRST_BYTES
    reader = Reader([slab], {0: sheaf.forms})
    assert reader.get(small)["a"].tolist() == [1.0, 1.0, 1.0]
    assert bool((reader.get(large)["b"] == 2.0).all())
    assert reader.get(small) is reader.get(small)
    slab.close()


def test_work_and_update_survive_the_mail():
    slab, (left, right) = Slab(), socket.socketpair()
    sheaf = Sheaf(slab, 0)
    hints = {"mu": 0.1, "kind": "größer", "cluster": 2}
    job = Job("p", Work(3, TREE, 0, 2, {"c": torch.ones(2)}, hints))
    metrics = {"loss": np.float32(0.1), "nan": float("nan"), "t": torch.tensor(2.0)}
    update = Update("p", 3, TREE, np.int64(7), metrics)
    words = {"job": job_words(job, sheaf.put), "up": update_words(update, sheaf.put)}
    send(left, words | {"forms": sheaf.forms})
    got = receive(right)
    reader = Reader([slab], {0: got["forms"]})
    back = job_of(got["job"], reader)
    assert (back.peer, back.work.version, back.work.epochs) == ("p", 3, 2)
    assert dict(back.work.hints) == hints
    assert digest(back.work.params) == digest(TREE)
    assert digest(back.work.aux) == digest({"c": torch.ones(2)})
    up = update_of(got["up"], reader)
    assert (up.examples, up.metrics["loss"]) == (7, float(np.float32(0.1)))
    assert type(up.examples) is int
    assert up.metrics["nan"] != up.metrics["nan"]
    sheaf = Sheaf(slab, 0)
    sheaf.put({"x": torch.zeros(200)})
    assert digest(up.payload) == digest(TREE)  # a copy, not a view
    left.close()
    assert receive(right) is None
    right.close()
    slab.close()


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("bad", 3), ValueError, "('bad', 3)"),
        (KeyError("name"), KeyError, "'name'"),
        (ProtocolError("broken"), ProtocolError, "broken"),
        (OddError("a", "b"), RuntimeError, "OddError: a b"),
        (ValueError(object), ValueError, "<class 'object'>"),
    ],
)
def test_errors_survive_the_mail(error, kind, text):
    error.add_note("while training p")
    got = error_of(error_words(error))
    assert type(got) is kind
    assert str(got) == text
    assert got.__notes__[0] == "while training p"


# --- processes ---------------------------------------------------------------


@real
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["forked", "auto"])
def test_the_number_of_workers_changes_no_bit(kind, workers):
    tasks = federation()
    jobs = jobs_of(tasks, epochs=2)
    want = told(make_engine(SGD(), tasks, kind="loop").run(jobs))
    with make_engine(SGD(), tasks, workers, kind) as engine:
        for _ in range(2):
            assert told(engine.run(jobs)) == want
        assert told(engine.run(jobs[::-1])) == want[::-1]


@real
def test_each_peer_may_have_its_own_model_and_correction():
    jobs = [
        Job(p, Work(i, {"weight": torch.full((1, 4), i / 10)}, 2, 1, aux))
        for i, p in enumerate(LINES)
        for aux in [{"weight": torch.full((1, 4), -i / 100)} if i % 2 else {}]
    ]
    want = told(make_engine(SGD(), LINES, kind="loop").run(jobs))
    with make_engine(SGD(), LINES, 2, "forked") as engine:
        assert told(engine.run(jobs)) == want


@real
def test_updates_stay_what_they_were():
    with make_engine(echo, LINES, 2, "forked") as engine:
        first = engine.run(lines())
        before = told(first)
        ones = {"weight": torch.ones(1, 4)}
        engine.run([Job(p, Work(1, ones, 1)) for p in LINES])
        assert told(first) == before
    assert told(first) == before


@real
def test_models_larger_than_the_first_slab():
    tree = {f"t{i}": torch.full((300_000,), float(i)) for i in range(3)}
    jobs = [Job(p, Work(0, tree, 1)) for p in LINES]
    jobs += [Job("p0", Work(1, {"t": torch.ones(2_000_000)}, 1))]
    with make_engine(echo, LINES, 2, "forked") as engine:
        got = engine.run(jobs)
    assert {digest(u.payload) for u in got[:-1]} == {digest(tree)}
    assert digest(got[-1].payload) == digest(jobs[-1].work.params)


@real
def test_a_workers_error_is_the_loops_error():
    trainer = Troubled({"p9": ValueError("nine"), "p4": ProtocolError("four")})
    with make_engine(trainer, LINES, 2, "forked") as engine:
        for _ in range(3):
            with pytest.raises(ProtocolError, match="four") as raised:
                engine.run(lines())
            notes = "\n".join(raised.value.__notes__)
            assert "while training p4" in notes
            assert "in __call__" in notes  # the worker's traceback
        good = [j for j in lines() if j.peer not in ("p4", "p9")]
        assert len(engine.run(good)) == 10


@real
def test_what_is_no_update_is_told_too():
    with (
        make_engine(lambda task, work, peer: None, LINES, 2, "forked") as engine,
        pytest.raises(AttributeError) as raised,
    ):
        engine.run(lines())
    assert "while training p0" in raised.value.__notes__


@real
def test_a_worker_killed_once_costs_only_time(tmp_path):
    mark = tmp_path / "died"

    def die_once():
        if not mark.exists():
            mark.touch()
            die()

    with make_engine(Troubled({"p5": die_once}), LINES, 2, "forked") as engine:
        before = engine.pids
        got = engine.run(lines())
        assert [u.peer for u in got] == list(LINES)
        assert len(set(before) & set(engine.pids)) == 1


@real
def test_a_peer_that_kills_its_worker_twice_is_lost():
    with make_engine(Troubled({"p5": die}), LINES, 2, "forked") as engine:
        with pytest.raises(PeerLostError, match="p5 died twice"):
            engine.run(lines())
        assert len(engine.run([j for j in lines() if j.peer != "p5"])) == 11


@real
def test_a_worker_killed_between_rounds_is_replaced():
    with make_engine(echo, LINES, 2, "forked") as engine:
        engine.run(lines())
        os.kill(engine.pids[0], signal.SIGKILL)
        assert [u.peer for u in engine.run(lines())] == list(LINES)


@real
def test_an_interrupted_run_leaves_a_working_engine():
    def interrupt():
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    trainer = Troubled({"p0": interrupt})
    with make_engine(trainer, LINES, 2, "forked") as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.run(lines())
        assert len(engine.run(lines()[1:])) == 11


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@real
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_close_leaves_no_process_file_or_memory():
    gc.collect()
    before, shared = open_files(), set(Path("/dev/shm").glob("*fedcore*"))
    engine = make_engine(Troubled({"p5": die}), LINES, 3, "forked")
    with engine:
        pids = engine.pids
        with pytest.raises(PeerLostError):
            engine.run(lines())
        pids += engine.pids
    gc.collect()
    assert open_files() == before
    assert set(Path("/dev/shm").glob("*fedcore*")) == shared
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    engine.close()  # again: nothing to do
    with pytest.raises(RuntimeError, match="closed"):
        engine.run(lines())


PARENT = """
import os, sys, threading, time, torch
from clients.trainers.sgd import SGD
from fedcore.strategy import Work
from sims.engine import Job, make_engine
from sims.line import Line

def train(task, work, peer):
    time.sleep({busy_s})

def run():
    engine = make_engine(train, {{"p": Line(seed=0)}}, 2, "forked")
    print(*engine.pids, flush=True)
    try:
        engine.run([Job("p", Work(0, {{"weight": torch.zeros(1, 4)}}, 1))] * 2)
    finally:
        time.sleep(60)

{start}
"""
IN_MAIN = "run()"
IN_THREAD = "threading.Thread(target=run).start()"


def gone(pid, within_s):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@real
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("start", "busy_s"),
    [(IN_MAIN, 60.0), (IN_THREAD, 0.5)],
    ids=["busy, main thread", "hang-up, other thread"],
)
def test_workers_die_with_their_parent(start, busy_s):
    program = PARENT.format(start=start, busy_s=busy_s)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    assert all(gone(pid, within_s=20.0) for pid in pids)


@real
def test_forked_is_chosen_for_several_workers_on_linux():
    with make_engine(SGD(), LINES, 2) as engine:
        expected = Forked if sys.platform == "linux" else Batched
        assert type(engine) is expected
