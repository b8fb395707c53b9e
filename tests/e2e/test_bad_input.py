"""What users get wrong: each ends at once, with cause and fix, and no traceback."""

import json
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from functools import cache
from pathlib import Path

import pytest

from fedcore.cli import main
from sims.cli.doctor import port_check
from sims.flower.simulation import main as flower
from sims.runs.finding import all_runs
from sims.runs.lock import held

LIMIT_S = 60  # a hang, on a busy machine; the mistakes end in a second or two

TASK = """
import torch
from torch import nn
from clients.tasks.dataset import Dataset

{extra}

def task():
    x = torch.arange(80.0).reshape(40, 2) / 80
    y = torch.arange(40) % 2
    return Dataset("mine", {train}, (x, y), model=lambda: {model})
"""
GOOD = {"extra": "", "train": "(x, y)", "model": "nn.Linear(2, 2)"}
RAISES = """
class Model(nn.Linear):
    calls = 0
    def forward(self, x):
        Model.calls += 1
        if Model.calls > 3:
            raise RuntimeError("the sensor is offline")
        return super().forward(x)
"""


def write_task(**parts: str) -> None:
    Path("mine.py").write_text(TASK.format(**{**GOOD, **parts}))


def write(name: str, text: str) -> Callable[[], None]:
    return lambda: (Path(name).write_text(text), None)[1]


@cache
def a_run() -> dict[Path, bytes]:
    """Return the files of a finished run, relative to where it was started."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        assert main(["sim", "run", "-q", "--no-report", *sets("run.rounds=2")]) == 0
        return {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}


def finished() -> None:
    for path, content in a_run().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def stopped() -> None:
    """Leave a run as kill -9 after its second round does."""
    finished()
    change_manifest(status="running", done=2, rounds=4)
    folder = all_runs(Path("runs"))[0].path
    config = (folder / "config.toml").read_text().replace("rounds = 2", "rounds = 4")
    (folder / "config.toml").write_text(config)


def change_manifest(**changes: object) -> None:
    file = all_runs(Path("runs"))[0].path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def in_run(name: str, content: bytes) -> Callable[[], None]:
    """Return what overwrites files of a finished run."""

    def act() -> None:
        finished()
        change_manifest(status="stopped")
        for file in all_runs(Path("runs"))[0].path.glob(name):
            file.write_bytes(content)

    return act


def newer() -> None:
    finished()
    change_manifest(format=99)


@contextmanager
def locked() -> Iterator[None]:
    finished()
    change_manifest(status="stopped")
    with held(all_runs(Path("runs"))[0].path):
        yield


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def run(*settings: str) -> list[str]:
    return ["sim", "run", "-q", "--no-report", *sets("run.workers=1", *settings)]


MINE = run("task.name=./mine.py")
TOML = ["sim", "run", "-q", "bad.toml"]

# name -> (what is there before, the command line, what the message must say)
MISTAKES: dict[str, tuple[Callable[[], object] | None, list[str], list[str]]] = {
    "key": (None, run("run.rouns=3"), ["run.rouns", "run.rounds"]),
    "section": (None, run("strat.name=krum"), ["strat.name", "strategy"]),
    "strategy": (None, run("strategy=fedavgg"), ["fedavgg", "fedavg"]),
    "partition": (None, run("partition=dirichelt"), ["dirichelt", '"dirichlet"']),
    "task": (None, run("task.name=digit"), ["digit", "digits"]),
    "setting": (None, run("task.modle=cnn"), ["modle", "model"]),
    "engine": (None, run("run.engine=lop"), ["run.engine", "loop", "lop"]),
    "type": (None, run("run.rounds=ten"), ["run.rounds", "whole number", "ten"]),
    "form": (None, run("run.rounds"), ["key=value"]),
    "no config": (None, TOML, ["bad.toml", "No such file"]),
    "toml": (write("bad.toml", "[run]\nrounds = = 3\n"), TOML, ["line 2", "TOML"]),
    "line": (write("bad.toml", "[run]\n\nrunds = 3\n"), TOML, ["line 3", "run.rounds"]),
    "no data": (None, run("task.name=mnist", "task.data_dir=."), ["data get mnist"]),
    "no file": (None, MINE, ["mine.py", "does not exist"]),
    "import": (
        lambda: write_task(extra="import pandaz"),
        MINE,
        ["mine.py", "pandaz"],
    ),
    "syntax": (write("mine.py", "def task(:\n"), MINE, ["mine.py", "line 1"]),
    "no function": (write("mine.py", "x = 1\n"), MINE, ["mine.py", "task"]),
    "no dataset": (write("mine.py", "def task(): return 3"), MINE, ["int", "Dataset"]),
    "lengths": (lambda: write_task(train="(x, y[:7])"), MINE, ["40", "7"]),
    "shape": (lambda: write_task(model="nn.Linear(3, 2)"), MINE, ["model", "2"]),
    "model raises": (
        lambda: write_task(extra=RAISES, model="Model(2, 2)"),
        MINE,
        ["the sensor is offline", "peer-00000", "mine.py:"],
    ),
    "diverges": (None, run("trainer.lr=1e12"), ["refused", "lower trainer.lr"]),
    "no clients": (None, run("run.clients=0"), ["client"]),
    "fewer clients": (None, run("run.clients=-2"), ["clients must be >= 0"]),
    "many clients": (None, run("run.clients=5000"), ["5000", "1438"]),
    "cohort": (None, run("run.clients=5", "pacer.cohort=9"), ["cohort is 9", "5"]),
    "few for krum": (
        None,
        run("strategy.name=krum", "pacer.cohort=3"),
        ["Krum", "needs 5", "pacer.cohort is 3"],
    ),
    "median of a buffer": (
        None,
        run("strategy.name=median", "pacer.name=buffered"),
        ["CoordinateMedian", "one vote", "pacer.name=synchronous"],
    ),
    "krum by compass": (
        None,
        run("strategy.name=krum", "pacer.name=compass"),
        ["Krum", "one vote", "Compass", "pacer.name=synchronous"],
    ),
    "copies in private": (
        None,
        run("strategy.name=gradient-coding", "privacy.name=local-gaussian"),
        ["GradientCoding", "copies every example", "privacy.name=none"],
    ),
    "unlike copies": (
        None,
        run("strategy.name=m-sgc", "partition.name=dirichlet"),
        ["MSGC", "partition.name=replicated"],
    ),
    "krum above a tree": (
        None,
        run("strategy.name=krum", "hierarchy.leaves=2"),
        ["Krum", "every update", "hierarchy.leaves = 0"],
    ),
    "clusterer": (
        None,
        run("strategy.name=ocfl", "strategy.clusterer.name=hdscan"),
        ["hdscan", "hdbscan"],
    ),
    "trigger": (
        None,
        run("strategy.name=ocfl", "strategy.trigger=rond:3"),
        ["'rond:3'", "'round:3'"],
    ),
    "steps of compass": (
        None,
        run("strategy.name=fedcompass", "pacer.min_steps=200"),
        ["max_steps must be at least min_steps"],
    ),
    "personal": (None, run("run.personal=-1"), ["personal must be >= 0"]),
    "scaffold with adamw": (
        None,
        run("strategy.name=scaffold", "trainer.name=adamw"),
        ["scaffold", "AdamW", "trainer.name=sgd"],
    ),
    "quorum": (None, run("pacer.quorum=11"), ["quorum 11", "cohort 10"]),
    "lr": (None, run("trainer.lr=-0.1"), ["lr", "-0.1"]),
    "workers": (None, run("run.workers=-1"), ["workers must be >= 0"]),
    "rounds": (None, run("run.rounds=0"), ["rounds must be >= 1"]),
    "network": (
        None,
        run("network=uniform", "network.loss=1", "pacer.quorum=10"),
        ["0 of 10 answers"],
    ),
    "trace": (None, run("devices=trace", "devices.file=no.csv"), ["no.csv"]),
    "bad trace": (
        write("t.csv", "peer,step_s\na,-1\n"),
        run("devices=trace", "devices.file=t.csv"),
        ["t.csv", "line 2"],
    ),
    "name": (None, [*run(), "--name", "../x"], ["'../x'", "letters"]),
    "out is a file": (write("runs", ""), run(), ["is a file", "--out"]),
    "out": (None, [*run(), "--out", "/proc/none/runs"], ["/proc/none", "--out"]),
    "finished": (finished, ["sim", "resume", "fedavg"], ["finished", "sim show"]),
    "nothing": (None, ["sim", "resume"], ["no unfinished run", "sim run"]),
    "unknown run": (finished, ["sim", "show", "fedavgg"], ["fedavgg", "sim list"]),
    "no run": (None, ["sim", "verify", "."], ["manifest.json", "sim list"]),
    "locked": (locked, ["sim", "resume", "fedavg"], ["another process", "stop it"]),
    "checkpoints": (
        in_run("journal/desk-*.safetensors", b"torn"),
        ["sim", "resume"],
        ["none of the checkpoints can be read", "backup"],
    ),
    "journal": (
        in_run("journal/journal.db", b"not a database"),
        ["sim", "resume"],
        ["journal.db", "folder"],
    ),
    "config edited": (stopped, ["sim", "resume"], ["was changed", "put it back"]),
    "newer": (newer, ["sim", "show", "fedavg"], ["newer Fedcore", "upgrade"]),
    "manifest": (
        in_run("manifest.json", b"{"),
        ["sim", "show", "fedavg"],
        ["manifest.json is damaged"],
    ),
    "metrics": (
        in_run("metrics.jsonl", b"{}\n{}\n"),
        ["sim", "report", "fedavg"],
        ["line 1"],
    ),
    "no grid": (None, ["sim", "sweep"], ["--grid"]),
    "bad grid": (None, ["sim", "sweep", "--grid", "run.rounds=2,x"], ["'x'"]),
    "figure": (
        finished,
        ["sim", "compare", "fedavg", "--figure", "a.bmp"],
        [".png", ".bmp"],
    ),
    "init": (write("run.toml", ""), ["sim", "init"], ["exists", "--force"]),
    "command": (None, ["simm"], ["invalid choice", "did you mean sim?"]),
    "flag": (None, ["sim", "run", "--jsn"], ["did you mean --json?"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_explained(
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, words, told = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for kept tracebacks
    with ExitStack() as stack:
        if before is locked:
            stack.enter_context(locked())
        elif before is not None:
            before()
        capsys.readouterr()
        assert main(words) in (1, 2)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "unexpected" not in message or mistake == "model raises"
    for part in told:
        assert part in message


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 50


def test_a_folder_that_is_no_flower_app(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flower(["--app", str(tmp_path), "--num-supernodes", "2"]) == 1
    message = capsys.readouterr().err
    assert "no Flower app" in message
    assert "--app" in message


def test_a_busy_port_is_found_by_the_doctor() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        check = port_check(busy.getsockname()[1])
    assert check.verdict == "WARN"
    assert "other ports" in check.fix


def test_nothing_is_left_where_nothing_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("key", "many clients", "no file", "no data"):
        main(MISTAKES[name][1])
    assert list(tmp_path.iterdir()) == []


def process(*words: str, file_bytes: int = 0) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        if file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(
        [sys.executable, "-m", "fedcore.cli", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        preexec_fn=limit,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("file_bytes", [2_000, 12_000, 40_000])
def test_a_full_disk_ends_a_run_that_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int
) -> None:
    """A limit on file sizes fails writes as a full disk does, at different places."""
    monkeypatch.chdir(tmp_path)
    words = run("run.rounds=300")
    done = process(*words, file_bytes=file_bytes)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr or "disk" in done.stderr
    assert "limit" in done.stderr or "free some" in done.stderr or "full" in done.stderr
    if file_bytes > 20_000:
        assert process("sim", "resume", "-q", "--no-report").returncode == 0
        assert all_runs(Path("runs"))[0].manifest().done == 300


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake", ["key", "no config", "import", "diverges", "many clients"]
)
def test_a_mistake_in_a_process_of_its_own(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, words, told = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    if before is not None:
        before()
    done = process(*words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(part in done.stderr for part in told)
    assert "Traceback" in process(*words, "--debug").stderr
