import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from fedcore.metrics import Row
from sims.cli.live import Live
from sims.cli.progress import (
    JsonLines,
    Plain,
    Progress,
    Silent,
    figures,
    progress_for,
)

ROW = Row(1, 2, 40, 0.5, 0.0, 0, {"nan": 1}, 3, 1000, 500, 2.0, 0.25, "ab")


def told(progress: Progress) -> None:
    progress.start("mine", 0, 2)
    progress.row(ROW)
    progress.note("hello")
    progress.end()


def test_plain_writes_a_line_a_round() -> None:
    out = io.StringIO()
    told(Plain(out.write))
    start, row, note = out.getvalue().splitlines()
    assert start == "mine starts: 2 rounds"
    assert row == (
        "round 1/2: training loss 0.5000 · 2 clients ↓1 kB ↑500 B · 1 refused · 3 lost"
    )
    assert note == "hello"


def test_plain_says_when_it_goes_on() -> None:
    out = io.StringIO()
    Plain(out.write).start("mine", 5, 9)
    assert out.getvalue() == "mine goes on after round 5 of 9\n"


def test_held_out_and_training_loss_are_never_mixed_up() -> None:
    row = replace(ROW, eval={"loss": 0.25, "accuracy": 0.75}, staleness=1.5)
    assert figures(row).startswith(
        "accuracy 0.7500 · loss 0.2500 · training loss 0.5000 · 2 clients"
    )
    assert "staleness 1.5" in figures(row)


def test_live_keeps_held_out_figures_and_forgets_them_with_the_next_run() -> None:
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=80))
    live.start("one", 0, 2)
    live.row(replace(ROW, eval={"accuracy": 0.75}))
    live.row(replace(ROW, round=2))
    live.end()
    assert "accuracy 0.7500 · 2 clients" in out.getvalue().rpartition("2/2")[2]
    live.start("two", 1, 4)
    live.row(replace(ROW, round=2))
    live.end()
    last = out.getvalue().rpartition("two goes on after round 1 of 4")[2]
    assert "2/4" in last
    assert "accuracy" not in last
    assert "2/2" not in last


def test_json_writes_an_object_a_line() -> None:
    out = io.StringIO()
    told(JsonLines(out))
    values = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [v["event"] for v in values] == ["start", "round", "note"]
    assert values[1]["refused"] == {"nan": 1}


def test_live_shows_the_round_the_figures_and_the_notes() -> None:
    out = io.StringIO()
    told(Live(Console(file=out, force_terminal=True, width=120)))
    text = out.getvalue()
    assert "mine" in text
    assert "1/2" in text
    assert "3 lost" in text
    assert "hello" in text


def test_who_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(progress_for(json_lines=True, quiet=True), Silent)
    assert isinstance(progress_for(json_lines=True, quiet=False), JsonLines)
    assert isinstance(progress_for(json_lines=False, quiet=False), Plain)
    told(Silent())
    assert capsys.readouterr().err == ""
