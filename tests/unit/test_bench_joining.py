from sims.bench import joining
from sims.bench.frame import Options


def test_a_log_grows_and_the_sum_does_not(monkeypatch):
    monkeypatch.setattr(joining, "QUICK", 5_000)
    monkeypatch.setattr(joining, "ROUNDS", (1, 3))
    rows = list(joining.rows(Options(quick=True)))
    log = [r.other for r in rows if r.name.endswith("a log") and r.unit == "bytes"]
    assert log == [1 * 10 * 200, 3 * 10 * 200]
    ours = {r.ours for r in rows if r.unit == "bytes"}
    assert max(ours) < 8 * 1024 + 200
    assert [r.unit for r in rows] == ["s", "bytes"] * 2 + ["s"] + ["s", "bytes"]
    assert all(r.ratio > 0 for r in rows)
