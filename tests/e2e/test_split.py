"""Split learning between real processes."""

import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clients.split.channel import Visit
from clients.split.cut import Cut
from clients.split.far import Far
from clients.split.pareto import Place, Point, alike, front_of, predicted
from clients.split.profile import profiled
from clients.split.server import SplitServer
from clients.split.slow import Net
from clients.split.sockets import Listening
from clients.split.stage import Speed, measured
from clients.tasks import load_task
from clients.trainers.sgd import SGD
from fedcore.cli import main
from fedcore.params import digest
from fedcore.task import load
from tests.split_cases import start_of, task_of, unsplit

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "split.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLE, ROUNDS = (text for kind, text in BLOCKS if kind == "python")


def run(text, folder):
    (folder / "example.py").write_text(text)
    return runpy.run_path(str(folder / "example.py"))


def test_the_example_of_the_page_prints_what_it_says(capsys, tmp_path):
    run(EXAMPLE, tmp_path)
    assert capsys.readouterr().out == dict(BLOCKS)["text"]


def test_the_second_example_trains_a_whole_model(tmp_path):
    names = run(ROUNDS, tmp_path)
    model = names["data"].new_model()
    figures = names["data"].whole().evaluate(load(model, names["params"]))
    assert figures["accuracy"] > 0.3


class Deadly:
    """Kills the client at one message: before it is taken, or instead of answering."""

    def __init__(self, visit: Visit, murder) -> None:
        self.visit, self.murder = visit, murder

    def take(self, data: bytes) -> bytes:
        self.murder.seen += 1
        if self.murder.seen == self.murder.before:
            self.murder.kill()
        answer = self.visit.take(data)
        if self.murder.seen == self.murder.after:
            self.murder.kill()
        return answer


class Murder:
    """Who is killed, and when."""

    def __init__(self, before: int = 0, after: int = 0) -> None:
        self.before, self.after, self.seen = before, after, 0
        self.child: subprocess.Popen[str]

    def kill(self) -> None:
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait()


@pytest.mark.slow
def test_a_client_killed_in_the_middle_of_a_batch_changes_no_bit(tmp_path):
    """Once before the server has taken step 2, and once after it has taken step 4."""
    trainer, start, steps = SGD(lr=0.1, momentum=0.9), start_of("conv"), 6
    server = SplitServer(task_of("conv"), Cut(3), start, trainer)
    murder = Murder()
    line = [sys.executable, "-m", "tests.e2e.split_killed"]
    with Listening(lambda: Deadly(server.visit(), murder)) as listening:
        for murder in (Murder(before=3), Murder(after=4), Murder()):
            words = [str(listening.port), str(steps), str(tmp_path)]
            murder.child = subprocess.Popen(
                line + words, cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            told, _ = murder.child.communicate(timeout=120)
    assert murder.child.returncode == 0
    whole, _ = unsplit(task_of("conv"), start, steps, trainer)
    front = {k: t for k, t in whole.items() if k.startswith(("0.", "1.", "2."))}
    back = {k: t for k, t in whole.items() if k not in front}
    assert told == digest(front)
    assert digest(server.params()) == digest(back)


TRIES = 6  # on a machine with other things to do, some cut is disturbed each time


def nearest(ours: Point, tries: list[list[Speed]]) -> Point:
    """Return what was measured for a cut, of each figure the least disturbed."""
    latencies = [speeds[ours.at].latency_s for speeds in tries]
    rates = [speeds[ours.at].per_s for speeds in tries]
    return Point(
        ours.at,
        min(latencies, key=lambda x: abs(x - ours.latency_s)),
        min(rates, key=lambda x: abs(x - ours.per_s)),
    )


def close(ours: Point, theirs: Point) -> bool:
    wanted = (ours.latency_s, ours.per_s)
    return (theirs.latency_s, theirs.per_s) == pytest.approx(wanted, rel=0.35)


@pytest.mark.slow
def test_the_front_predicted_is_the_front_of_two_processes():
    """Blocks take known times, far more than the messages between them."""
    file = str(ROOT / "tests" / "e2e" / "split_sleepy.py")
    dataset, net = load_task(file), Net(delay_s=0.01, bytes_per_s=1e6)
    x, tries = dataset.train[0], []
    profiles = [profiled(dataset.new_model(), x, repeats=3) for _ in range(3)]
    blocks = zip(*(p.blocks for p in profiles), strict=True)
    quickest = tuple(min(block, key=lambda b: b.forward_s) for block in blocks)
    profile = replace(profiles[0], blocks=quickest)
    points = predicted(profile, Place(client=2.0, net=net))
    assert {p.at for p in front_of(points)} == {0, 2}
    with Far([f"--set=task.name={file}"], net) as far:
        for _ in range(TRIES):
            model = dataset.new_model()
            tries.append(measured(model, far.dial, x, slowdown=2.0, repeats=3))
            real = [nearest(p, tries) for p in points]
            if all(map(close, points, real)):
                break
    assert list(map(close, points, real)) == [True] * 5, (points, real)
    assert alike(points, real, tie=0.2)
    first = min(real, key=lambda p: p.latency_s)
    assert first.at != max(real, key=lambda p: p.per_s).at


@pytest.mark.slow
def test_two_terminals(tmp_path, capsys):
    """What the page types: a server in one process, the client in another."""
    with Far(["--set=trainer.lr=0.2", "--at=2"], Net()) as far:
        words = ["--set=trainer.lr=0.2", "--at=2", f"--port={far.port}"]
        out = tmp_path / "front.safetensors"
        line = ["split", "train", *words, "--steps=5", f"--out={out}"]
        assert main(line) == 0
        assert capsys.readouterr().out.startswith("5 steps, mean loss ")
        assert out.stat().st_size > 1000
        assert main(["split", "train", *words, "--set=trainer.lr=0.3"]) == 1
        assert "terms: trainer.lr is 0.3 with the client" in capsys.readouterr().err


PARENT = """
import sys, time
from clients.split.far import Far
from clients.split.slow import Net
far = Far(["--set=trainer.lr=0.2"], Net())
print(far.port, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_of_ours_ends_when_we_are_killed():
    line = [sys.executable, "-c", PARENT]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as parent:
        port = int(parent.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        parent.kill()
    until_s = time.monotonic() + 60.0
    while time.monotonic() < until_s:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("it is still there")
