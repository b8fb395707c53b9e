"""Unmodified Flower apps: in process as on Flower's own engine, from the shell."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import peer_name
from sims.flower.ray import train_on_ray
from sims.flower.simulation import main
from sims.line import Line
from strategies.fedavg import FedAvg
from strategies.fedopt import FedAdam
from tests.e2e.flower_stage import QUIET, ROOT

pytestmark = pytest.mark.slow

APPS = Path(__file__).parents[1] / "flower_apps"
NODES = {"krum": 6}
EXACT = {"custom", "krum", "queries"}  # no sum whose order could matter
START = {"weight": torch.zeros(1, 4)}


def simulate(name, out, *more):
    """Run the app ``name`` from a shell; return its arrays and what it printed."""
    nodes = str(NODES.get(name, 4))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sims.flower.simulation", "--quiet"),
            *("--app", APPS / name, "--num-supernodes", nodes),
            *("--run-config", f"out='{out}'", *more),
        ],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(out) as arrays:
        return [arrays[key] for key in arrays.files], done.stdout


def simulate_here(name, out, *more):
    """Run the app ``name`` without a shell in between, and return its arrays."""
    words = ["--app", str(APPS / name), "--num-supernodes", str(NODES.get(name, 4))]
    words += ["--quiet", "--run-config", f"out='{out}'"]
    assert main([*words, *more]) == 0
    with np.load(out) as arrays:
        return [arrays[key] for key in arrays.files]


@pytest.mark.parametrize("name", sorted(p.name for p in APPS.iterdir() if p.is_dir()))
def test_the_result_is_that_of_flowers_own_engine(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    ours = simulate_here(name, tmp_path / "ours.npz")
    again = simulate_here(name, tmp_path / "again.npz", "--workers", "0")
    flowers, _ = simulate(name, tmp_path / "ray.npz", "--backend", "ray")
    assert len(ours) == len(flowers)
    for a, b, c in zip(ours, again, flowers, strict=True):
        if name == "legacy":  # adds up in the order in which its threads finish
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        else:
            assert a.tobytes() == b.tobytes()
        np.testing.assert_allclose(a, c, rtol=0, atol=0 if name in EXACT else 1e-6)


def test_json_lines_from_a_shell(tmp_path):
    _, out = simulate("fedavg", tmp_path / "o.npz", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["kind"] for e in events[:-1]] == ["train", "evaluate"] * 3
    assert [e["round"] for e in events[:-1]] == ["1", "1", "2", "2", "3", "3"]
    assert events[-1]["event"] == "done"


def share(context):
    return Line(seed=int(context.node_config["partition-id"]))


def test_our_strategies_on_ray_have_the_bits_of_the_loop():
    tasks = {peer_name(i): Line(seed=i) for i in range(3)}
    strategy, trainer = FedAdam(steps=3), SGD(lr=0.05)
    want = run_rounds(strategy, trainer, tasks, START, 2)
    got = train_on_ray(
        strategy,
        Synchronous(cohort=3),
        START,
        2,
        load_task=share,
        trainer=trainer,
        nodes=3,
    )
    assert digest(got.params) == digest(want.params)


def test_a_semi_asynchronous_pacer_on_ray():
    got = train_on_ray(
        FedAvg(steps=3),
        Buffered(size=2),
        START,
        4,
        load_task=share,
        trainer=SGD(lr=0.05),
        nodes=3,
    )
    assert got.version == 4


SLOW = """
import os
import time
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
server, client = ServerApp(), ClientApp()
@server.main()
def main(grid, context):
    messages = [Message(RecordDict(), n, "query") for n in grid.get_node_ids()]
    grid.send_and_receive(messages)
@client.query()
def query(message, context):
    os.write(1, b"working\\n")  # one call: two processes never mix their lines
    time.sleep(600)
"""
PROJECT = """
[tool.flwr.app.components]
serverapp = "slow_app:server"
clientapp = "slow_app:client"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running(number, tmp_path):
    (tmp_path / "slow_app.py").write_text(SLOW)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    program = subprocess.Popen(
        [
            *(sys.executable, "-m", "sims.flower.simulation", "--app", tmp_path),
            *("--num-supernodes", "2", "--workers", "2"),
        ],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert [program.stdout.readline() for _ in range(2)] == ["working\n"] * 2
    workers = psutil.Process(program.pid).children(recursive=True)
    assert len(workers) == 2
    program.send_signal(number)
    _, told = program.communicate(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    if number == signal.SIGINT:
        assert program.returncode == 130
        assert "Traceback" not in told
