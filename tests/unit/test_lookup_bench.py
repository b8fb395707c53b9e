"""The benchmark of lookups, on few blobs: rows are complete, and lookups succeed."""

import pytest

from sims.bench import lookup
from sims.bench.frame import Options


@pytest.mark.slow
def test_the_rows_compare_with_asking_everybody(monkeypatch):
    monkeypatch.setattr(lookup, "PEERS", 60)
    monkeypatch.setattr(lookup, "QUICK", 12)
    rows = list(lookup.rows(Options(quick=True)))
    assert [r.name for r in rows] == [
        "find, 0% churn",
        "find, 10% churn",
        "find, 30% churn",
        "find, 50% liars: 2 paths vs 1",
    ]
    for row in rows[:3]:
        assert row.other == 59
        assert row.ratio > 2
        assert row.note.startswith("100.0 % found")
