import io
import json

import pytest
from rich.console import Console

from fedcore.metrics import Row
from sims.cli.live import Live
from sims.cli.progress import JsonLines, Plain, Progress, Silent, progress_for

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
    assert row == ("round 1/2: loss 0.5 · 2 clients ↓1 kB ↑500 B · 1 refused · 3 lost")
    assert note == "hello"


def test_plain_says_when_it_goes_on() -> None:
    out = io.StringIO()
    Plain(out.write).start("mine", 5, 9)
    assert out.getvalue() == "mine goes on after round 5 of 9 rounds\n"


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
