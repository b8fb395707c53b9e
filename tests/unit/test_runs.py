import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from fedcore.config import dump, from_flags, from_toml
from fedcore.errors import ConfigError, StorageError
from fedcore.metrics import Row, line_of
from fedcore.pacing import Buffered, Synchronous
from sims.cli.sweep import cells_of, over_seeds
from sims.report.write import carried
from sims.runs.config import RunConfig, configured
from sims.runs.finding import (
    all_runs,
    differing,
    find,
    newest_unfinished,
    status,
    summary,
)
from sims.runs.folder import (
    FORMAT,
    Clients,
    Manifest,
    RunFolder,
    check_name,
    new_folder,
)
from sims.runs.lock import held, is_held
from sims.runs.run import Watcher, prepare, simulate
from strategies.fedavg import FedAvg
from strategies.scaffold import Scaffold

NOW = datetime(2026, 1, 2, 3, 4, 5)
ROW = Row(1, 2, 40, 0.5, 0.0, 0, {}, 0, 100, 50, 2.0, 0.25, "ab", ("a",), {"loss": 1.0})
MANIFEST = Manifest(
    name="x",
    status="finished",
    started="2026-01-02T03:04:05+00:00",
    seed=0,
    rounds=3,
    config_sha256="c",
    data_sha256="d",
    engine="auto",
    workers=0,
    versions={"python": "3"},
    machine={"cores": 2},
    sha256="ab",
)


def made(out: Path, name: str, **changes: object) -> RunFolder:
    folder = new_folder(out, name, NOW)
    folder.note(replace(MANIFEST, name=folder.name, **changes))  # type: ignore[arg-type]
    return folder


def test_folders_are_named_by_time_and_never_shared(tmp_path: Path) -> None:
    first, second = made(tmp_path, "x"), made(tmp_path, "x")
    assert first.name == "2026-01-02-030405-x"
    assert second.name == "2026-01-02-030405-x-2"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0", "-x", ".x", "ü", "a" * 61])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be part"):
        check_name(name)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = made(tmp_path, "x")
    assert folder.manifest() == replace(MANIFEST, name=folder.name)
    clients = Clients(2, 40, {"a": {"0": 3}})
    folder.write("clients.json", json.dumps({"count": 2, "examples": 40, "labels": {}}))
    assert folder.clients() == replace(clients, labels={})
    rows = [replace(ROW, round=i) for i in (1, 2, 3)]
    for row in rows:
        folder.add(row)
    assert folder.rows() == rows
    assert folder.keep_rows(2) == rows[:2] == folder.rows()
    folder.write_csv()
    assert folder.read("metrics.csv").count("\n") == 3


def test_a_folder_without_rows_has_none(tmp_path: Path) -> None:
    assert made(tmp_path, "x").rows() == []


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda f: f.write("manifest.json", "{"), StorageError, "damaged"),
        (lambda f: f.write("manifest.json", "[]"), StorageError, "not an object"),
        (lambda f: f.write("manifest.json", b"\xff"), StorageError, "damaged"),
        (lambda f: f.write("manifest.json", '{"name": "x"}'), StorageError, "damaged"),
        (
            lambda f: f.write("manifest.json", f'{{"format": {FORMAT + 1}}}'),
            ConfigError,
            "newer Fedcore",
        ),
        (lambda f: (f.path / "manifest.json").unlink(), ConfigError, "not a run"),
    ],
)
def test_damage_is_told(
    tmp_path: Path,
    change: Callable[[RunFolder], None],
    error: type[Exception],
    told: str,
) -> None:
    folder = made(tmp_path, "x")
    change(folder)
    with pytest.raises(error, match=told):
        folder.manifest()


def test_keys_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    folder = made(tmp_path, "x")
    value = json.loads(folder.read("manifest.json")) | {"colour": "red"}
    folder.write("manifest.json", json.dumps(value))
    assert folder.manifest().seed == 0


def test_runs_are_found_by_name_part_or_path(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one"), made(tmp_path, "two")
    cell = RunFolder(tmp_path / "sweep" / "cells" / "000-a")
    cell.note(MANIFEST)
    assert [r.path for r in all_runs(tmp_path)] == [one.path, two.path, cell.path]
    assert find(tmp_path, "one") == one == find(tmp_path, str(one.path))
    assert find(tmp_path, "000-a") == cell
    again = RunFolder(tmp_path / "other" / "cells" / "000-a")
    again.note(MANIFEST)
    assert find(tmp_path, "other/cells/000") == again
    with pytest.raises(ConfigError, match="part of 2 runs"):
        find(tmp_path, "000-a")
    with pytest.raises(ConfigError, match="part of 2 runs"):
        find(tmp_path, "2026")
    with pytest.raises(ConfigError, match="no run 'three'"):
        find(tmp_path, "three")


def test_without_a_name_the_run_started_last_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no runs in"):
        find(tmp_path, None)
    new = made(tmp_path, "a", started="2026-02-01")
    made(tmp_path, "b", started="2026-01-01")
    assert find(tmp_path, None) == new


def test_settings_that_differ(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one"), made(tmp_path, "two")
    one.write("config.toml", dump(config("trainer.lr=0.5")))
    two.write("config.toml", dump(config("strategy=fedadam", "trainer.lr=0.25")))
    assert differing([one, two]) == {
        "strategy.name": ["fedavg", "fedadam"],
        "strategy.server_lr": ["1.0", "0.1"],
        "trainer.lr": ["0.5", "0.25"],
    }


def test_the_newest_unfinished_run_is_found(tmp_path: Path) -> None:
    made(tmp_path, "done", started="2026-03-01")
    old = made(tmp_path, "old", status="failed", started="2026-01-01")
    new = made(tmp_path, "new", status="stopped", started="2026-02-01")
    assert newest_unfinished(tmp_path) == new
    with held(new.path):
        assert newest_unfinished(tmp_path) == old
    with pytest.raises(ConfigError, match="no unfinished run"):
        newest_unfinished(tmp_path / "elsewhere")


def test_a_lock_is_for_one_and_shows_who_was_killed(tmp_path: Path) -> None:
    folder = made(tmp_path, "x", status="running")
    with held(folder.path):
        assert status(folder, folder.manifest()) == "running"
        with pytest.raises(ConfigError, match="another process"), held(folder.path):
            pass
    assert not is_held(folder.path)
    assert status(folder, folder.manifest()) == "killed"


def test_a_summary_adds_up(tmp_path: Path) -> None:
    folder = made(tmp_path, "x", status="finished", wall_s=1.5)
    text = line_of(ROW) + line_of(replace(ROW, round=2, eval={}))
    folder.write("metrics.jsonl", text)
    value = summary(folder)
    assert (value["rounds"], value["down_bytes"], value["up_bytes"]) == (2, 200, 100)
    assert (value["loss"], value["accuracy"], value["wall_s"]) == (1.0, None, 1.5)
    assert carried(value, "down") == "200 B, 50 B a client and round"
    assert carried(value, "up") == "100 B, 25 B a client and round"


def config(*flags: str) -> RunConfig:
    return configured(from_flags(flags))


def test_a_configuration_reads_back_equal() -> None:
    made = config("task.model=cnn", "pacer=buffered", "run.clients=3", "gate.ring=true")
    assert configured(from_toml(dump(made))) == made
    assert made.task.settings == {"model": "cnn"}


def test_the_cohort_and_its_draw_follow_the_run_unless_set() -> None:
    assert config("run.clients=4", "run.seed=7").pacer == Synchronous(4, seed=7)
    assert config("run.clients=40").pacer == Synchronous(10)
    assert config("pacer.name=buffered", "run.clients=4").pacer == Buffered(4)
    assert config("pacer.cohort=2", "pacer.seed=1").pacer == Synchronous(2, seed=1)


def test_the_step_of_scaffold_follows_the_trainers_unless_set() -> None:
    assert config("strategy=scaffold", "trainer.lr=0.5").strategy == Scaffold(0.5)
    both = config("strategy=scaffold", "trainer.lr=0.5", "strategy.local_lr=0.25")
    assert both.strategy == Scaffold(0.25)
    assert config("trainer.lr=0.5").strategy == FedAvg()


def test_a_run_says_where_it_goes_on() -> None:
    began: list[int] = []
    setup = prepare(config("run.rounds=1", "run.workers=1"))
    simulate(setup, Watcher(begin=began.append))
    assert began == [0]


def test_a_grid_is_every_combination_checked_first() -> None:
    grid = {
        "strategy.name": list(from_flags(["a=fedavg"]).values()),
        "run.rounds": [*from_flags(["a=2"]).values(), *from_flags(["a=3"]).values()],
    }
    cells = list(cells_of(grid, []))
    assert [c.name for c in cells] == ["000-fedavg-2", "001-fedavg-3"]
    assert [c.config.run.rounds for c in cells] == [2, 3]
    grid["run.rounds"] = list(from_flags(["a=0"]).values())
    with pytest.raises(ConfigError, match="rounds must be"):
        list(cells_of(grid, []))


def test_accuracy_is_averaged_over_seeds() -> None:
    found = {"a": ("x", 0.5), "b": ("x", 0.7), "c": ("y", 0.9), "d": ("y", 0.9)}
    values = [{"run": run, "accuracy": figure} for run, (_, figure) in found.items()]
    settings = {
        run: {"strategy": name, "run.seed": str(i)}
        for i, (run, (name, _)) in enumerate(found.items())
    }
    assert over_seeds(values, settings) == [
        ["y", "2", "0.9000", "0.0000"],
        ["x", "2", "0.6000", "0.1414"],  # sqrt(2 * 0.1 ** 2)
    ]
    assert over_seeds(values[:1], settings) == []
    assert over_seeds(values, {run: {"strategy": "x"} for run in found}) == []


def test_a_run_in_memory_repeats_itself_and_hears_of_every_round() -> None:
    setup = prepare(config("run.rounds=3", "run.workers=1", "run.eval_every=2"))
    rows: list[Row] = []
    first = simulate(setup, Watcher(rows.append))
    assert first == replace(simulate(setup, Watcher()), params=first.params)
    assert [r.round for r in rows] == [1, 2, 3]
    assert [bool(r.eval) for r in rows] == [False, True, True]
    assert rows[-1].sha256 == first.sha256


def test_a_run_stops_after_the_round_in_which_it_is_asked_to() -> None:
    setup = prepare(config("run.rounds=5", "run.workers=1"))
    rows: list[Row] = []
    watcher = Watcher(rows.append, stop=lambda: len(rows) == 2)
    result = simulate(setup, watcher)
    assert (result.ending, result.rounds, len(rows)) == ("stopped", 2, 2)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("strategy.lr=1e20", "of its probes had no finite loss"),
        ("strategy.clip=1e-6", "of its probes were larger than can be told"),
    ],
)
def test_probes_that_went_wrong_are_told_of_once(flag: str, told: str) -> None:
    flags = ["run.rounds=3", "run.clients=2", "run.workers=1", "run.personal=0"]
    probing = ["strategy.name=fedkseed", "strategy.steps=5", flag]
    notes: list[str] = []
    config = configured(from_flags([*flags, *probing]))
    simulate(prepare(config), Watcher(note=notes.append, evaluated=False))
    assert len(notes) == 1
    assert notes[0].startswith("peer-00000")
    assert told in notes[0]
