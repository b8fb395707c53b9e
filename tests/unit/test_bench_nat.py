"""The benchmark of ways through routers: its pairs, rows, sums and matrix."""

import pytest

from sims.bench import nat
from sims.bench.frame import Options
from sims.bench.nat import Met, all_pairs, row_of, summed, table
from sims.natlab.routers import KINDS

PUNCHED, DIRECT = Met("direct (punched)", 0.5), Met("direct", 1.0)
RELAYED = Met("relayed by 12D3Koo", 2.0)
REFUSED = Met(why="Only relayed connection available for peer 12D3Koo")
PAIR = ("symmetric", "double")


def test_every_kind_calls_every_kind_and_symmetric_ones_both_ways():
    pairs = list(all_pairs())
    met = {frozenset(pair) for pair in pairs}
    assert len(met) == len(KINDS) * (len(KINDS) + 1) // 2
    assert len(pairs) == len(set(pairs)) == len(met) + len(KINDS) - 1
    assert {("symmetric", "open"), ("open", "symmetric")} < set(pairs)


def test_a_pair_is_compared_if_both_connect():
    row = row_of(PAIR, PUNCHED, DIRECT)
    assert (row.ours, row.other, row.ratio) == (0.5, 1.0, 2.0)
    assert row.note == "direct (punched); lattica: direct"
    row = row_of(PAIR, RELAYED, REFUSED)
    assert (row.ours, row.other, row.ratio) == (2.0, None, None)
    assert row.note == "relayed; lattica: Only relayed connection available"


def test_all_pairs_are_counted():
    a, b, c = ("open", "open"), ("open", "double"), PAIR
    ours = {a: PUNCHED, b: DIRECT, c: RELAYED}
    silent, indirect, both = summed(ours, {a: DIRECT, b: DIRECT, c: REFUSED})
    assert (silent.name, silent.ours, silent.other) == (
        "pairs that cannot talk vs lattica",
        0,
        1,
    )
    assert (indirect.ours, indirect.other, indirect.unit) == (1, 1, "pairs")
    assert (both.ours, both.other) == (0.75, 1.0)
    [gone] = summed(ours, dict.fromkeys(ours, Met(why="skipped: no module")))
    assert (gone.ratio, gone.note) == (None, "skipped: no module")


def test_the_matrix_has_both_halves():
    lines = list(table("us", {PAIR: RELAYED, ("open", "double"): Met()}))
    assert [line.split() for line in lines[1:]] == [
        ["open", "symmetric", "double"],
        ["open", "-"],
        ["symmetric", "R", "2.0"],
        ["double", "-", "R", "2.0"],
    ]
    assert list(table("us", {PAIR: Met(why="skipped: no module")})) == []


def test_who_hears_nothing_is_given_another_try(monkeypatch):
    tries = [REFUSED, PUNCHED, DIRECT]
    monkeypatch.setattr(nat.Town, "met", lambda *_: tries.pop(0))
    assert object.__new__(nat.Town).meet(nat.OURS, PAIR) is PUNCHED
    assert object.__new__(nat.Town).meet(nat.OURS, PAIR) is DIRECT


def test_where_no_laboratory_can_be_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(nat, "why_not", lambda: "network namespaces need root")
    [row] = nat.BENCH.rows(Options())
    assert row.note == "skipped: network namespaces need root"


def test_a_library_that_is_not_installed_is_skipped(monkeypatch, tmp_path):
    class Home:
        name, ip = "a-open", "192.0.2.7"

    town = object.__new__(nat.Town)
    town.folder, town.options, town.relay = tmp_path, Options(), "/ip4/192.0.2.9"
    monkeypatch.setattr(nat.Town, "home", lambda *_: Home())
    town.lab = type("Lab", (), {"inside": lambda self, place: []})()
    met = town.meet(nat.LATTICA, PAIR)
    assert met.why.startswith("skipped: no module 'lattica' here")
    assert "--peer-python lattica=PATH" in met.why


@pytest.mark.parametrize("quick", nat.QUICK)
def test_what_is_quick_is_among_all(quick):
    assert frozenset(quick) in {frozenset(pair) for pair in all_pairs()}
