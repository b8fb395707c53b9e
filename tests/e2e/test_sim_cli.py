"""The researcher's commands, as a user types them; most run in this process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from fedcore.cli import main
from fedcore.params import digest
from sims.runs.finding import all_runs
from sims.runs.folder import RunFolder

Run = Callable[..., str]
QUICK = ("-q", "--no-report", "--set", "run.workers=1")

pytestmark = pytest.mark.slow


@pytest.fixture
def sim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs ``fedcore sim ...`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def act(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["sim", *words]) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        return out if code == 0 else out + err

    return act


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def only_run() -> RunFolder:
    (run,) = all_runs(Path("runs"))
    return run


def test_a_run_leaves_a_whole_folder(sim: Run) -> None:
    out = sim("run", "-q", "--set", "run.rounds=3", "--set", "run.workers=1")
    folder = only_run()
    assert str(folder.path) in out
    files = {p.relative_to(folder.path).as_posix() for p in folder.path.rglob("*")}
    assert {
        "config.toml",
        "manifest.json",
        "clients.json",
        "metrics.jsonl",
        "metrics.csv",
        "model.safetensors",
        "report.html",
        "figures/accuracy.png",
        "journal/journal.db",
        "run.log",
    } <= files
    manifest = folder.manifest()
    model = safetensors.torch.load_file(folder.path / "model.safetensors")
    assert digest(model) == manifest.sha256 == folder.rows()[-1].sha256
    assert (manifest.status, manifest.done) == ("finished", 3)
    page = folder.read("report.html")
    assert page.count("<svg") >= 5
    assert not re.search(r"(src|href)=.(?!data:,)|https?://", page)
    assert len(page) < 1_000_000
    assert len(folder.rows()) == 3


def test_list_show_compare_report(sim: Run) -> None:
    for name in ("one", "two"):
        sim("run", *QUICK, "--set", "run.rounds=2", "--name", name)
    assert [r["status"] for r in objects(sim("list", "--json"))] == ["finished"] * 2
    assert "two" in sim("list")
    (shown,) = objects(sim("show", "one", "--json"))
    assert [row["round"] for row in shown["rows"]] == [1, 2]
    assert shown["sha256"] in sim("show", "one")
    compared = objects(sim("compare", "one", "two", "--json", "--figure", "c.svg"))
    assert len({value["sha256"] for value in compared}) == 1  # same seed, same bits
    assert Path("c.svg").read_text().startswith("<svg xmlns=")
    sim("report", "two", "--no-figures")
    assert "<svg" in all_runs(Path("runs"))[-1].read("report.html")


def test_json_tells_every_round_and_the_end(sim: Run) -> None:
    told = objects(sim("run", *QUICK[1:], "--json", "--set", "run.rounds=2"))
    assert [t["event"] for t in told] == ["start", "round", "round", "end"]
    assert told[-1]["sha256"] == told[-2]["sha256"]


def test_dry_run_writes_nothing(sim: Run) -> None:
    assert "2410 parameters" in sim("run", "--dry-run")
    assert not Path("runs").exists()


def test_a_dry_run_for_programs(sim: Run) -> None:
    (plan,) = objects(sim("run", "--dry-run", "--json", "--set", "run.clients=5"))
    assert (plan["clients"], plan["training_examples"]) == (5, 1438)
    assert plan["model_bytes"] == 4 * plan["parameters"]
    assert plan["config"]["strategy"]["name"] == "fedavg"


def test_compare_names_the_settings_that_differ(sim: Run) -> None:
    for lr in ("0.05", "0.1"):
        sim("run", *QUICK, "--set", "run.rounds=1", "--set", f"trainer.lr={lr}")
    names = [run.name for run in all_runs(Path("runs"))]
    best, other = objects(sim("compare", *names, "--json"))
    assert best["accuracy"] >= other["accuracy"]
    assert {r["settings"]["trainer.lr"] for r in (best, other)} == {"0.05", "0.1"}
    assert best["settings"].keys() == {"trainer.lr"}
    assert "trainer.lr" in sim("compare", *names, "--figure", "both.html")
    assert "Settings that differ" in Path("both.html").read_text()


def test_init_makes_a_file_that_runs(sim: Run) -> None:
    sim("init", "a.toml", "--task", "mine.py", "--set", "run.rounds=2")
    text = Path("a.toml").read_text()
    assert "rounds = 2" in text
    assert "# follows [run] unless set: cohort" in text
    sim("run", "a.toml", *QUICK, "--set", "run.clients=4", "--set", "task.hidden=8")
    assert only_run().manifest().seed == 0
    assert 'name = "./mine.py"' in only_run().read("config.toml")


def test_catalog_knows_every_section(sim: Run) -> None:
    names = {(i["section"], i["name"]) for i in objects(sim("catalog", "--json"))}
    assert {
        ("task", "digits"),
        ("strategy", "scaffold"),
        ("partition", "iid"),
        ("pacer", "buffered"),
        ("network", "uniform"),
    } <= names
    assert "strategy.mu" in sim("catalog", "strategy", "--keys")


def test_verify_says_which_round_differs(sim: Run) -> None:
    sim("run", *QUICK, "--set", "run.rounds=3")
    assert "3 rounds have the same bits" in sim("verify", "fedavg", "-q")
    folder = only_run()
    lines = folder.read("metrics.jsonl").replace(folder.rows()[1].sha256, "0" * 64)
    folder.write("metrics.jsonl", lines)
    assert "round 2 differs" in sim("verify", "fedavg", "-q", code=1)


@pytest.mark.parametrize(
    "settings",
    [
        ("pacer=buffered", "pacer.size=3", "devices=exponential"),
        ("strategy=scaffold", "availability=dropout", "partition=dirichlet"),
        ("privacy=local-gaussian", "network=uniform", "network.loss=0.1"),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    sim: Run, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    words = [*QUICK, "--set", "run.rounds=8"]
    for setting in settings:
        words += ["--set", setting]
    sim("run", *words, "--name", "whole")
    add = RunFolder.add

    def add_and_interrupt(folder: RunFolder, row: Any) -> None:
        add(folder, row)
        if row.round == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "add", add_and_interrupt)
        told = sim("run", *words, "--name", "cut", code=130)
    assert "fedcore sim resume" in told
    assert "stopped" in sim("list")
    sim("resume", "-q", "--no-report")
    cut, whole = sorted(all_runs(Path("runs")), key=lambda r: r.name.split("-")[-1])
    assert cut.manifest().sha256 == whole.manifest().sha256
    assert [r.sha256 for r in cut.rows()] == [r.sha256 for r in whole.rows()]
    assert [r.up_bytes for r in cut.rows()] == [r.up_bytes for r in whole.rows()]


def test_target_ends_a_run_early(sim: Run) -> None:
    sim("run", *QUICK, "--set", "run.target=0.3")
    manifest = only_run().manifest()
    assert manifest.status == "finished"
    assert 1 < manifest.done < manifest.rounds
    assert "have the same bits" in sim("verify", "fedavg", "-q")


def test_a_sweep_runs_once(sim: Run) -> None:
    grid = ["--grid", "strategy.name=fedavg,median", "--set", "run.rounds=2"]
    Path("s.toml").write_text("[sweep]\ntrainer.lr = [0.05, 0.1]\n")
    words = ["sweep", "s.toml", *grid, "--set", "run.workers=1", "--name", "s", "-q"]
    first = objects(sim(*words, "--json"))
    assert len(first) == 4
    assert {c["settings"]["trainer.lr"] for c in first} == {"0.05", "0.1"}
    started = [c["started"] for c in first]
    assert [c["started"] for c in objects(sim(*words, "--json"))] == started
    assert Path("runs/s/compare.html").exists()
    again = objects(sim(*words, "--json", "--fresh"))
    assert {c["sha256"] for c in again} == {c["sha256"] for c in first}
    assert Path("runs/s/cells/000-0.05-fedavg/report.html").exists()
    assert "another sweep" in sim(*words, "--grid", "trainer.lr=1,2", code=1)
    assert len(objects(sim("list", "--json"))) == 4


def test_a_sweep_goes_on_after_a_cell_that_fails(sim: Run) -> None:
    grid = ["--grid", "trainer.lr=1e12,0.1", "--set", "run.rounds=1", "--name", "s"]
    told = sim("sweep", *grid, "--set", "run.workers=1", "-q", code=1)
    assert "000-1e12 failed" in told
    assert "lower trainer.lr" in told
    states = {r.name: r.manifest().status for r in all_runs(Path("runs"))}
    assert states == {"000-1e12": "failed", "001-0.1": "finished"}


def test_a_killed_run_is_resumed_to_the_same_bits(sim: Run) -> None:
    words = ["--set", "run.rounds=300", "--set", "run.checkpoint_every=5"]
    sim("run", *QUICK, *words, "--name", "whole")
    command = [sys.executable, "-m", "fedcore.cli", "sim", "run", *QUICK, *words]
    child = subprocess.Popen([*command, "--name", "cut"])
    while not any(r.rows()[20:] for r in all_runs(Path("runs")) if "cut" in r.name):
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert "killed" in sim("list")
    sim("resume", "-q", "--no-report")
    digests = {r.manifest().sha256 for r in all_runs(Path("runs"))}
    assert len(digests) == 1
    assert all(len(r.rows()) == 300 for r in all_runs(Path("runs")))


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "median"])
def test_workers_change_no_bit(sim: Run, strategy: str) -> None:
    words = [
        "-q",
        "--no-report",
        "--set",
        "run.rounds=3",
        "--set",
        f"strategy={strategy}",
    ]
    for workers in (1, 2, 3):
        flags = ["--set", f"run.workers={workers}", "--set", "run.rounds=3"]
        sim("run", *words, *flags, "--name", str(workers))
    assert len({r.manifest().sha256 for r in all_runs(Path("runs"))}) == 1
