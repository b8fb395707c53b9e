"""Many meshes in which everything goes wrong, and the command that plays them."""

import json
import os
import subprocess
import sys

import pytest

from fedcore.cli import commands, full_parser
from p2p.identity.chain import read_chain
from p2p.identity.openings import Opening, check_opening
from sims.cli.mesh import mesh
from sims.mesh.campaign import reports
from sims.mesh.catalog import SCENES, run_case
from sims.mesh.register import NumberStore
from sims.mesh.scene import Case

SEEDS = {  # at each commit; `fedcore sim mesh --seeds 10000` plays more on demand
    "register": 40,
    "door": 60,
    "swarm": 60,
    "pulse": 12,
    "state": 14,
    "lookup": 4,
    "mesh": 10,
}


def fedcore(*words: str) -> int:
    return mesh(full_parser(commands()).parse_args(["sim", "mesh", *words]))


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_whatever_goes_wrong_all_is_well_in_the_end(scene: str):
    broken = [
        f"{report.violation.what}\nagain: {report.case.command}"
        for report in map(run_case, [Case(scene, seed) for seed in range(SEEDS[scene])])
        if report.violation
    ]
    assert broken == []


@pytest.mark.slow
def test_two_hundred_peers_that_come_and_go_find_what_others_have():
    report = run_case(Case("lookup", 0, nodes=200, minutes=0.4))
    assert report.violation is None
    assert report.figures["peers asked in a search, at most"] < 50


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.slow
def test_two_or_three_peers_are_a_mesh(scene: str):
    cases = [Case(scene, seed, nodes, 0.2) for nodes in (2, 3) for seed in range(2)]
    assert not any(report.violation for report in map(run_case, cases))


@pytest.mark.slow
def test_a_door_that_takes_the_opening_of_any_network_is_found(
    monkeypatch: pytest.MonkeyPatch,
):
    def careless(data: bytes, _network: str) -> Opening:
        return check_opening(data, read_chain(data).founding.network)

    monkeypatch.setattr("p2p.members.judging.check_opening", careless)
    reports = (run_case(Case("mesh", seed, minutes=0.4)) for seed in range(16))
    assert any(r.violation and "has let in" in r.violation.what for r in reports)


@pytest.mark.slow
def test_a_seed_is_one_run_in_processes_that_hash_differently():
    code = (
        "from sims.mesh.scene import Case; from sims.mesh.catalog import run_case;"
        f"print(*(run_case(Case(name, 11, minutes=.5)).digest for name in {[*SCENES]}))"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": other},
    ).stdout.split()
    here = {name: run_case(Case(name, 11, minutes=0.5)).digest for name in SCENES}
    assert dict(zip(SCENES, found, strict=True)) == here


@pytest.mark.slow
def test_runs_are_the_same_in_many_processes():
    cases = [Case("register", seed, minutes=0.2) for seed in range(12)]
    alone = {report.case: report.digest for report in reports(cases, 1)}
    assert {r.case: r.digest for r in reports(cases, 2)} == alone


@pytest.mark.slow
def test_the_command_says_what_happened_and_what_held(
    capsys: pytest.CaptureFixture[str],
):
    assert fedcore("--only", "register", "--seeds", "6", "--minutes", "0.3") == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split()[:3] == ["register", "6", "0"]
    assert "power cut" in said
    assert fedcore("--only", "register", "--seeds", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scene"], found["runs"], found["broken"]) == ("register", 2, 0)
    assert found["tally"]["connections"] > 10


@pytest.mark.slow
def test_one_seed_is_shown_with_its_faults_its_trace_and_its_command(
    capsys: pytest.CaptureFixture[str],
):
    words = ("--only", "register", "--seed", "5", "--minutes", "0.2", "--trace")
    assert fedcore(*words) == 0
    one = capsys.readouterr().out
    assert fedcore(*words) == 0
    assert capsys.readouterr().out == one
    assert "asked" in one
    assert f"again: fedcore sim mesh {' '.join(words)}" in one


@pytest.mark.slow
def test_a_broken_seed_is_made_small_told_and_ends_with_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NumberStore, "commit", lambda _: None)
    assert fedcore("--only", "register", "--seeds", "8") == 1
    said, told = capsys.readouterr()
    assert "had promised" in told
    again = next(line for line in said.splitlines() if line.startswith("again: "))
    assert fedcore(*again.removeprefix("again: fedcore sim mesh ").split()) == 1
    assert "BROKEN" in capsys.readouterr().out
