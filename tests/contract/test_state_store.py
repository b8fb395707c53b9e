"""Every store of logs keeps what was committed, and gives it back as it was."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, StorageError
from p2p.state.chain import Entry, Kind
from p2p.state.sqlite import FILE, SqliteLogStore
from p2p.state.store import MemoryLogStore, Stored
from tests.state_cases import count, counts, logs, pen_of, said

ROWS = [(Entry(Kind.NOTE, bytes([n]) * n), bytes([n]) * 32) for n in range(1, 6)]


class Memory:
    """A store in memory, and what its disk holds."""

    def __init__(self, folder):
        self.store = MemoryLogStore()

    def again(self):
        self.store.crash()
        return self.store


class Sqlite:
    """A store on disk; ``again`` opens what a killed program leaves."""

    def __init__(self, folder):
        self.folder = folder
        self.store = SqliteLogStore(RealDisk(folder))

    def again(self):
        self.store._database.close()  # without a commit
        self.store = SqliteLogStore(RealDisk(self.folder))
        return self.store


@pytest.fixture(params=[Memory, Sqlite])
def kept(request, tmp_path):
    found = request.param(tmp_path / "state")
    yield found
    if isinstance(found.store, SqliteLogStore):
        found.store.close()


def test_rows_and_links_come_back(kept):
    kept.store.append("anna", 0, ROWS[:3], {3: b"s" * 64}, [])
    kept.store.append("anna", 3, ROWS[3:], {5: b"t" * 64}, [3])
    assert kept.store.rows("anna", 1, 4) == ROWS[1:4]
    assert kept.store.rows("anna", 0, 0) == []
    assert kept.store.link("anna", 5) == bytes([5]) * 32
    assert kept.store.load() == {"anna": Stored(5, 15, {5: b"t" * 64})}


def test_what_was_committed_survives_and_the_rest_may_not(kept):
    kept.store.append("anna", 0, ROWS[:3], {3: b"s" * 64}, [])
    kept.store.commit()
    kept.store.append("anna", 3, ROWS[3:], {5: b"t" * 64}, [3])
    kept.store.append("ben", 0, ROWS[:1], {1: b"u" * 64}, [])
    kept.store.keep_key(b"k" * 32, b"o")
    again = kept.again()
    assert again.load() == {"anna": Stored(3, 6, {3: b"s" * 64})}
    assert again.own() == []
    again.append("ben", 0, ROWS[:2], {2: b"u" * 64}, [])
    again.commit()
    assert kept.again().rows("ben", 0, 2) == ROWS[:2]


def test_a_frozen_log_is_cut_and_what_was_ours_is_owed(kept):
    kept.store.append("anna", 0, ROWS, {5: b"s" * 64}, [])
    kept.store.append("ben", 0, ROWS, {5: b"s" * 64}, [])
    owed = [entry for entry, _ in ROWS[2:]]
    kept.store.freeze("anna", 2, b"proof", b"tail", owed)
    kept.store.freeze("ben", 0, b"proof", b"", ())
    kept.store.freeze("cleo", 0, b"proof", b"", ())
    kept.store.set_tail("ben", b"later")
    kept.store.commit()
    again = kept.again()
    assert again.load() == {
        "anna": Stored(2, 3, {}, b"proof", b"tail"),
        "ben": Stored(0, 0, {}, b"proof", b"later"),
        "cleo": Stored(0, 0, {}, b"proof", b""),
    }
    assert again.owed() == owed
    again.settle(2)
    again.commit()
    assert kept.again().owed() == [ROWS[4][0]]


def test_a_log_that_is_dropped_leaves_nothing_and_may_begin_anew(kept):
    for name in ("anna", "ben"):
        kept.store.append(name, 0, ROWS, {5: b"s" * 64}, [])
    kept.store.drop("anna")
    kept.store.append("cleo", 0, ROWS[:1], {1: b"s" * 64}, [])
    kept.store.commit()
    again = kept.again()
    assert again.load().keys() == {"ben", "cleo"}
    assert again.rows("ben", 0, 9) == ROWS
    again.append("anna", 0, ROWS[:2], {2: b"t" * 64}, [])
    again.commit()
    assert kept.again().load()["anna"] == Stored(2, 3, {2: b"t" * 64})


def test_keys_are_kept_in_order(kept):
    for number in range(3):
        kept.store.keep_key(bytes([number]) * 32, bytes([number]))
    kept.store.commit()
    keys = [(bytes([n]) * 32, bytes([n])) for n in range(3)]
    assert kept.again().own() == keys


def test_logs_are_the_same_on_every_store(kept):
    held, other, pen = logs(kept.store), logs(), pen_of(1)
    for target in (held, other):
        said(target, pen, *counts(range(400)))
    assert held.root() == other.root()
    kept.store.commit()
    assert logs(kept.again()).root() == other.root()


def test_another_program_keeps_out(tmp_path):
    store = SqliteLogStore(RealDisk(tmp_path))
    with pytest.raises(ConfigError, match="another"):
        SqliteLogStore(QuickDisk(tmp_path))
    store.close()


class QuickDisk(RealDisk):
    """A disk that does not wait for locks."""

    def connect(self, path):
        connection = super().connect(path)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection


class FullDisk(RealDisk):
    """A disk on which nothing more fits as soon as somebody says so."""

    def connect(self, path):
        connection = super().connect(path)
        connection.execute("PRAGMA max_page_count = 20")
        return connection


def test_after_a_failed_write_nothing_of_it_is_kept(tmp_path):
    store = SqliteLogStore(FullDisk(tmp_path))
    held = logs(store)
    said(held, pen_of(1), *counts(range(3)))
    store.commit()
    root = held.root()
    with pytest.raises(StorageError, match="free some space"):
        said(held, pen_of(1), *[Entry(Kind.NOTE, bytes(60_000))] * 3)
    assert held.root() == root
    for again in (store.commit, lambda: said(held, pen_of(1), count(1))):
        with pytest.raises(StorageError, match="start again"):
            again()
    store.close()
    assert logs(SqliteLogStore(RealDisk(tmp_path))).root() == root


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA application_id = 7", "is not a state of Fedcore"),
        ("PRAGMA user_version = 99", "a newer Fedcore wrote it"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path, statement, words):
    store = SqliteLogStore(RealDisk(tmp_path))
    store._database.run(statement)
    store.close()
    with pytest.raises(ConfigError, match=words):
        SqliteLogStore(RealDisk(tmp_path))


def test_the_file_is_for_its_owner_only(tmp_path):
    store = SqliteLogStore(RealDisk(tmp_path / "new"))
    assert (tmp_path / "new" / FILE).stat().st_mode & 0o077 == 0
    store.close()


WRITER = """
    import sys
    from pathlib import Path
    from fedcore.disk import RealDisk
    from p2p.state.sqlite import SqliteLogStore
    from tests.state_cases import count, logs, pen_of, said

    store = SqliteLogStore(RealDisk(Path(sys.argv[1])))
    held, pen = logs(store), pen_of(1)
    number = held.tip(pen.writer).length
    while True:
        said(held, pen, count(number))
        store.commit()
        number = held.tip(pen.writer).length
        print(number, held.root().hex(), flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill(tmp_path):
    known, roots = 0, {}
    for life in range(6):
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(20 + 7 * life):
            number, root = program.stdout.readline().split()
            known, roots[int(number)] = int(number), root
        os.kill(program.pid, signal.SIGKILL)
        rest = program.communicate()[0].split("\n")
        whole = [line.split() for line in rest if len(line.split()) == 2]
        for number, root in (line for line in whole if len(line[1]) == 64):
            known, roots[int(number)] = int(number), root
        store = SqliteLogStore(RealDisk(tmp_path))
        held = logs(store)
        length = held.tip(pen_of(1).writer).length
        assert length >= known
        if length == known:
            assert held.root().hex() == roots[known]
        store.close()
    assert known > 150


def test_a_reopened_store_forgets_what_was_not_committed_and_goes_on(kept):
    store = kept.store
    store.append("w", 0, ROWS[:2], {2: b"s"}, [])
    store.commit()
    store.append("w", 2, ROWS[2:], {5: b"t"}, [2])
    store.reopen()
    store.check_room()
    assert store.load()["w"].length == 2
    store.append("w", 2, ROWS[2:3], {3: b"u"}, [])
    store.commit()
    assert kept.again().rows("w", 0, 9) == ROWS[:3]


def test_much_is_committed_before_it_is_more_and_little_may_wait(tmp_path):
    kept = Sqlite(tmp_path / "state")
    kept.store.append("w", 0, ROWS[:2], {2: b"s"}, [])
    kept.store.commit(4)  # three bytes of entries wait
    assert not kept.again().load()
    kept.store.append("w", 0, ROWS, {5: b"s"}, [])
    kept.store.commit(4)
    assert kept.again().load()["w"].length == 5
    kept.store.close()


def test_a_store_on_a_full_disk_is_used_again_when_there_is_room(tmp_path):
    kept = Sqlite(tmp_path / "state")
    kept.store.append("w", 0, ROWS[:2], {2: b"s"}, [])
    kept.store.commit()
    pages = kept.store._run("PRAGMA page_count")[0][0]
    kept.store._run(f"PRAGMA max_page_count = {pages}")
    large = [(Entry(Kind.NOTE, bytes(1 << 20)), bytes(32))]
    with pytest.raises(StorageError, match="free some space"):
        kept.store.append("w", 2, large, {3: b"t"}, [])
    with pytest.raises(StorageError, match="start again"):
        kept.store.commit()
    kept.store.reopen()
    kept.store.append("w", 2, large, {3: b"t"}, [])
    kept.store.commit()
    assert kept.again().load()["w"].length == 3
    kept.store.close()
