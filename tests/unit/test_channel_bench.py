"""The benchmark of channels measures what it says."""

import pytest

from sims.bench import channel as bench
from sims.bench.frame import Options

pytestmark = pytest.mark.slow


def test_every_way_moves_the_bytes_and_is_told_by_one_measure(monkeypatch):
    small = {name: (bench.WAYS[name][0], 1) for name in ("channel", "tls")}
    monkeypatch.setattr(bench, "WAYS", small)
    monkeypatch.setattr(bench, "LONG_MB", 2)
    rows = list(bench.rows(Options(quick=True)))
    assert [row.name for row in rows] == [
        *["channel vs raw TLS socket"] * 2,
        "4 connections vs 1",
        "cap kept vs cap set",
    ]
    assert all(row.ours > 0 < row.other and row.ratio > 0 for row in rows)
    assert "MB per CPU-second" in rows[0].note


def test_a_way_that_does_not_run_is_told(monkeypatch):
    def broken(_):
        raise OSError("no such way")

    ways = {"channel": (bench.WAYS["channel"][0], 1), "tls": (broken, 1)}
    monkeypatch.setattr(bench, "WAYS", ways)
    (row,) = bench._compared(bench._raced(1))
    assert (row.ratio, row.note) == (None, "skipped: no such way")
