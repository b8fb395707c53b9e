import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore import journal as journal_module
from fedcore.coordinator import Coordinator
from fedcore.desk import Desk, Event, Fold, Heard, Idle, Rules
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, StorageError
from fedcore.journal import FILE, FileJournal
from fedcore.pacing import Buffered, Synchronous, Waiting
from fedcore.params import digest
from fedcore.strategy import Update
from sims.line import Line
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg, Model

START = {"weight": torch.zeros(1, 4)}
TASKS = {f"peer{i}": Line(seed=i) for i in range(3)}
RULES = Rules(FedAvg(steps=1), Synchronous(cohort=3))
BEGIN = RULES.begin(START)


def journal(folder: Path, **changes: Any) -> FileJournal:
    return replace(FileJournal(RealDisk(folder), "config-a", gap_s=0.0), **changes)


def run(folder: Path, rounds: int, **changes: Any) -> tuple[str, list[Fold[Model]]]:
    folds: list[Fold[Model]] = []
    link = VirtualLink(SGD(), TASKS, {p: 1.0 + i for i, p in enumerate(TASKS)})
    kept = journal(folder, **changes)
    state = Coordinator(RULES, link, kept, folds.append).run(START, rounds)
    return digest(state.params), folds


def idle(now_s: float) -> Idle:
    return Idle(("peer0",), now_s)


def test_events_come_back_in_order(tmp_path: Path) -> None:
    update = Update("peer1", 0, {"weight": torch.ones(1, 4)}, 64, {"loss": 0.5})
    events: list[Event] = [idle(0.5), Heard((update,), (), {"peer2": "gone"}, 1.5)]
    with closing(journal(tmp_path)) as first:
        desk, before = first.open(BEGIN)
        assert (desk.serial, list(before)) == (0, [])
        for serial, event in enumerate(events):
            first.record(serial, event)
    with closing(journal(tmp_path)) as second:
        _, after = second.open(BEGIN)
        back = list(after)
    assert back[0] == events[0]
    assert isinstance(back[1], Heard)
    assert back[1].lost == {"peer2": "gone"}
    assert back[1].updates[0].metrics == {"loss": 0.5}
    assert digest(back[1].updates[0].payload) == digest(update.payload)


def test_one_serial_is_recorded_once(tmp_path: Path) -> None:
    with closing(journal(tmp_path)) as kept:
        kept.open(BEGIN)
        kept.record(0, idle(0.0))
        with pytest.raises(StorageError, match="UNIQUE"):
            kept.record(0, idle(1.0))


def test_a_checkpoint_prunes_what_even_the_older_desk_does_not_need(
    tmp_path: Path,
) -> None:
    with closing(journal(tmp_path)) as kept:
        kept.open(BEGIN)
        for serial in range(10):
            kept.record(serial, idle(float(serial)))
            if serial in (3, 7):
                kept.save(replace(BEGIN, serial=serial + 1))
    with sqlite3.connect(tmp_path / FILE) as base:
        serials = [row[0] for row in base.execute("SELECT serial FROM event")]
    base.close()
    assert serials == [4, 5, 6, 7, 8, 9]


def test_a_damaged_newest_desk_costs_nothing(tmp_path: Path) -> None:
    want, _ = run(tmp_path / "whole", 6)
    run(tmp_path / "hurt", 4)
    newest = sorted((tmp_path / "hurt").glob("desk-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    got, folds = run(tmp_path / "hurt", 6)
    assert got == want
    assert folds[0].replayed


def test_a_missing_event_is_noticed(tmp_path: Path) -> None:
    with closing(journal(tmp_path)) as kept:
        kept.open(BEGIN)
        for serial in range(3):
            kept.record(serial, idle(float(serial)))
    with closing(sqlite3.connect(tmp_path / FILE)) as base:
        base.execute("DELETE FROM event WHERE serial = 1")
        base.commit()
    with closing(journal(tmp_path)) as kept:
        _, events = kept.open(BEGIN)
        with pytest.raises(StorageError, match="lacks events 1 to 1"):
            list(events)


def test_two_coordinators_cannot_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedcore.disk.BUSY_S", 0.05)
    with closing(journal(tmp_path)) as first:
        first.open(BEGIN)
        second = journal(tmp_path)
        with closing(second), pytest.raises(ConfigError, match="another program"):
            second.open(BEGIN)
        first.record(0, idle(0.0))
    with closing(journal(tmp_path)) as third:
        assert len(list(third.open(BEGIN)[1])) == 1


def test_another_configuration_is_refused_and_both_are_named(tmp_path: Path) -> None:
    run(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"'config-a'.*'config-b'"):
        run(tmp_path, 1, fingerprint="config-b")


def test_a_newer_schema_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / FILE)) as base:
        base.execute(f"PRAGMA user_version = {journal_module.SCHEMA + 1}")
    with pytest.raises(ConfigError, match=r"schema 2 .* upgrade"):
        run(tmp_path, 1)


def test_files_that_are_not_ours_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not a journal of Fedcore"):
        run(tmp_path, 1)
    assert path.read_bytes() == before
    path.write_bytes(b"plain text, longer than a header" * 40)
    with pytest.raises(StorageError, match="not a database"):
        run(tmp_path, 1)


def test_checkpoints_without_their_journal_are_refused(tmp_path: Path) -> None:
    run(tmp_path, 1)
    (tmp_path / FILE).unlink()
    with pytest.raises(StorageError, match=r"no journal\.db"):
        run(tmp_path, 1)


def test_checkpoints_are_due_by_folds_and_by_time(tmp_path: Path) -> None:
    now = [0.0]
    kept = journal(tmp_path, every_folds=2, gap_s=10.0, clock=lambda: now[0])
    saved = []
    with closing(kept):
        kept.open(BEGIN)
        for serial, now_s in enumerate([0.0, 1.0, 5.0, 10.5, 11.0, 11.5, 20.5], 1):
            now[0] = now_s
            kept.folded(replace(BEGIN, serial=serial))
            saved.append(f"desk-{serial:012d}.safetensors" in kept.disk.names())
    # Two folds are enough at first; then also 10 s must pass since the last one.
    assert saved == [False, True, False, False, True, False, False]


@dataclass(frozen=True)
class Vague:
    version: int
    params: Any


def test_a_state_that_cannot_be_read_back_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    begin: Desk[Any, Waiting] = replace(BEGIN, state=Vague(0, START))
    with closing(journal(tmp_path)) as kept, pytest.raises(ConfigError, match="Any"):
        kept.open(begin)


@contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond ``size_bytes``; like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [0, 300, 5000, 9000, 20000, 40000])
def test_a_full_disk_ends_the_run_and_loses_nothing(
    tmp_path: Path, size_bytes: int
) -> None:
    want, _ = run(tmp_path / "whole", 8)
    with files_up_to(size_bytes), pytest.raises(StorageError, match="then resume"):
        run(tmp_path / "full", 8)
    drafts = [p for p in (tmp_path / "full").iterdir() if p.name.endswith(".tmp")]
    assert drafts == []
    got, _ = run(tmp_path / "full", 8)
    assert got == want


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="choose another folder"):
        run(tmp_path / "file" / "run", 1)
    with pytest.raises(StorageError, match="open"):
        run(Path("/proc/nothing/here"), 1)


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="closed"):
        journal(tmp_path).record(0, idle(0.0))


def test_checkpoints_only_keeps_no_events(tmp_path: Path) -> None:
    want, _ = run(tmp_path / "events", 5)
    run(tmp_path / "none", 3, payloads=False, gap_s=inf)
    with closing(sqlite3.connect(tmp_path / "none" / FILE)) as base:
        assert base.execute("SELECT count(*) FROM event").fetchone() == (0,)
    got, folds = run(tmp_path / "none", 5, payloads=False)
    assert got == want
    assert not any(f.replayed for f in folds)


def test_buffered_work_in_flight_is_taken_up_again(tmp_path: Path) -> None:
    rules = Rules(FedAvg(steps=1), Buffered(size=2))

    def go(folder: Path, rounds: int) -> str:
        link = VirtualLink(SGD(), TASKS, {p: 1.0 + i for i, p in enumerate(TASKS)})
        state = Coordinator(rules, link, journal(folder)).run(START, rounds)
        return digest(state.params)

    want = go(tmp_path / "once", 7)
    for rounds in (2, 3, 7):
        got = go(tmp_path / "thrice", rounds)
    assert got == want
