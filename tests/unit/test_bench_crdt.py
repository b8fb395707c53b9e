"""The benchmark of replicated state: both sides do the same work, and it is counted."""

import pytest

from sims.bench import crdt_rivals
from sims.bench.crdt_rivals import Ring, Size, counted
from sims.bench.frame import Options
from sims.bench.peers.crdt_docs import (
    Docs,
    YDoc,
    batches_of,
    flipped,
    name,
    parted,
)
from sims.bench.peers.crdt_log import Replicas, entries

pytest.importorskip("pycrdt")
ENGINES = {"ours": Replicas(), "pycrdt": Docs(YDoc)}


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_do_all_that_they_are_asked_for(engine):
    """``check`` raises if an entry is missing."""
    one = ENGINES[engine]
    assert one.write(20, 8, 30) >= 0
    assert one.check(20, 8, 30) >= 0
    assert one.keep(20, 30) == 20
    new_bytes = 20 * 30
    assert new_bytes < one.join(20, 30) < 4 * new_bytes
    found = one.gossip(4, 5, 30)
    assert found["bytes"] > 3 * new_bytes
    assert 2 <= found["rounds"] < 100


def test_one_id_that_writes_twice_parts_their_replicas_and_not_ours():
    assert ENGINES["ours"].clone(6, 5) == {"apart": 0, "missing": 0}
    found = ENGINES["pycrdt"].clone(6, 5)
    assert found["apart"] >= 1
    assert found["missing"] == 10


def test_they_believe_forgers_and_we_do_not():
    assert ENGINES["ours"].forge(5) == 0
    assert ENGINES["pycrdt"].forge(5) == 5


def test_they_believe_wrong_bits_and_we_do_not():
    assert ENGINES["ours"].flip(120) == 0
    assert ENGINES["pycrdt"].flip(120) > 60


def test_what_became_of_entries_by_hand():
    """Three hold {a, b}, one holds {a, c}: one is apart, b and c are not everywhere."""
    states = [frozenset("ab")] * 3 + [frozenset("ac")]
    assert parted(states, 3) == {"apart": 1, "missing": 2}
    assert parted([frozenset("ab")] * 2, 2) == {"apart": 0, "missing": 0}


def test_each_copy_has_one_wrong_bit():
    data = bytes(range(50))
    for copy in flipped(data, 20):
        wrong = [a ^ b for a, b in zip(data, copy, strict=True) if a != b]
        assert len(wrong) == 1
        assert wrong[0].bit_count() == 1


def test_entries_have_names_of_their_own_and_the_size_asked_for():
    batches = batches_of(1000, 16, 40)
    names = [each for batch in batches for each in batch]
    assert len(set(names)) == 1000
    assert {len(batch) for batch in batches} == {16, 1000 % 16}
    [entry] = entries([name(7, 40)])
    assert len(entry.body) == 40


def test_who_is_missing_is_skipped_with_a_reason_and_zero_has_no_ratio():
    ring = Ring(absent={"loro": "not here"})
    found = {"fedcore": 0.0, "pycrdt": 3.0}
    pycrdt, loro = ring.beside("lost", "work", found, "count", "note", counted)
    assert (pycrdt.ours, pycrdt.other, pycrdt.ratio) == (0, 3, None)
    assert (loro.ratio, loro.note) == (None, "skipped: not here")
    row, _ = ring.beside("write", "work", {"fedcore": 4.0, "pycrdt": 2.0}, "µs")
    assert (row.name, row.ratio) == ("write vs pycrdt", 0.5)


@pytest.mark.slow
def test_a_whole_run_with_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(crdt_rivals, "QUICK", Size(64, 1, 4, 5))
    monkeypatch.setattr(crdt_rivals, "KEPT", 2000)
    rows = list(crdt_rivals.rows(Options(quick=True, figures=tmp_path)))
    named = {row.name: row for row in rows}
    assert len(named) == len(rows)
    assert named["write, 16 at a time, vs pycrdt"].ratio > 0
    assert named["forged entries believed vs pycrdt"].ours == 0
    assert "merges" in named["all of it vs automerge"].note
    absent = [r for r in rows if r.name.endswith("loro") and r.ratio is None]
    assert all("pip install loro" in r.note for r in absent if "skipped" in r.note)
    slugs = {path.stem for path in tmp_path.glob("*.svg")}
    assert slugs == {"bench-crdt-write", "bench-crdt-check"}
