import json
import sys

import numpy as np
import pytest

from fedcore.cli import main
from fedcore.errors import ConfigError
from sims.bench import page
from sims.bench.case import SHAPES, Case, Data, first_weights, read_data, write_data
from sims.bench.cli import pythons
from sims.bench.contest import Contest, Turns
from sims.bench.examples import drawn
from sims.bench.frame import (
    BENCHES,
    Options,
    Row,
    load_bench,
    middle,
    skipped,
    versus,
)
from sims.bench.peers.known import LOOP, OTHERS, OURS, PFL
from sims.bench.process import MissingError, Peer, Process
from sims.bench.sim import event_rows, events


def test_a_ratio_above_one_means_ours_is_better():
    row = versus("a vs b", "some work", ours=2.0, other=5.0, unit="ms")
    assert row.ratio == 2.5
    assert row.plain()["ratio"] == 2.5


def test_what_was_not_measured_has_no_figures():
    row = skipped("a vs b", "some work", "ms", "no module 'b' here")
    assert (row.ours, row.other, row.ratio) == (None, None, None)
    assert row.note == "skipped: no module 'b' here"
    assert json.loads(json.dumps(row.plain()))["ratio"] is None
    assert "-" in page.line(row)


def test_the_middle_is_the_median():
    assert middle([9.0, 1.0, 2.0]) == 2.0
    assert middle([4.0, 1.0, 2.0, 100.0]) == 3.0


def test_figures_are_shortened_for_people_and_programs():
    assert page.number(1234.5) == "1234"
    assert page.number(0.012345) == "0.0123"
    assert Row("a", "w", 1.23456789, None, None, "s").plain()["ours"] == 1.235


def test_a_section_is_added_once_and_then_replaced(tmp_path):
    path = tmp_path / "benchmarks.md"
    for name, ours in [("sim", 1.0), ("mesh", 2.0), ("sim", 3.0)]:
        rows = [versus(f"{name} row", "w", ours, 6.0, "ms")]
        text = page.section(name, f"fedcore bench {name}", ["a fact"], rows)
        assert page.write(tmp_path, name, text) == path
    kept = path.read_text()
    assert kept.count("## sim\n") == kept.count("## mesh\n") == 1
    assert "| sim row | w | 3 | 6 | 2x | ms |  |" in kept
    assert "| mesh row | w | 2 | 6 | 3x | ms |  |" in kept
    assert kept.startswith("# Benchmarks\n")
    assert [p.name for p in tmp_path.iterdir()] == ["benchmarks.md"]


def test_text_written_by_hand_around_sections_stays():
    old = page.section("sim", "c", [], [])
    text = page.merged(f"# Mine\n\nHello.\n\n{old}\nBye.\n", "sim", "NEW\n")
    assert text == "# Mine\n\nHello.\n\nNEW\n\nBye.\n"


def test_every_benchmark_loads_and_has_a_line_of_help():
    for name in BENCHES:
        assert load_bench(name).help
    with pytest.raises(ConfigError, match=r"'simm'; known: .*sim"):
        load_bench("simm")


def test_the_command_lists_and_refuses(capsys):
    assert main(["bench", "--list"]) == 0
    assert "\nsim " in "\n" + capsys.readouterr().out
    assert main(["bench", "simm"]) == 1
    assert "'simm'" in capsys.readouterr().err


def test_peer_pythons_are_checked():
    assert pythons([f"pfl={sys.executable}"]) == {"pfl": sys.executable}
    for word in ("pfl", "=x", "pfl=/no/such/python"):
        with pytest.raises(ConfigError, match="--peer-python"):
            pythons([word])


def test_clients_hold_their_rows_and_share_when_there_are_more_than_rows():
    case = Case("c", "mlp", clients=4, cohort=2, rows=3, folder="")
    assert case.rows_of(1, total=10).tolist() == [3, 4, 5]
    assert case.rows_of(3, total=10).tolist() == [9, 0, 1]


@pytest.mark.parametrize("model", sorted(SHAPES))
def test_every_engine_starts_from_the_same_bounded_weights(model):
    first, again = first_weights(model), first_weights(model)
    for name, shape in SHAPES[model].items():
        assert first[name].shape == shape
        assert np.array_equal(first[name], again[name])
        fan_in = np.prod(SHAPES[model][name.split(".")[0] + ".weight"][1:])
        assert np.abs(first[name]).max() <= fan_in**-0.5


def test_data_come_back_as_they_were_kept(tmp_path):
    data = drawn(50, 20, 64, sharpness=0.5)
    write_data(str(tmp_path), "tiny", data)
    back = read_data(Case("c", "tiny", 4, 2, 3, str(tmp_path)))
    for name in Data.__slots__:
        assert np.array_equal(getattr(back, name), getattr(data, name))
    assert data.x.min() >= 0.0
    assert data.x.max() <= 1.0


def test_an_engine_that_is_not_installed_is_named_with_the_remedy(tmp_path):
    peer = Peer("other", "sims.bench.peers.none", needs=["no_such_engine"])
    with pytest.raises(MissingError, match=r"'no_such_engine'.*--peer-python other="):
        Process(peer, {}, str(tmp_path))


def test_rows_of_engines_that_did_not_run_say_why(tmp_path):
    event = events(str(tmp_path))[0]
    contest = Contest(Options(), str(tmp_path))
    contest.absent[PFL.name] = "no module 'pfl' here"
    rows = {r.name: r for r in event_rows(contest, event, "MNIST", late=False)}
    assert len(rows) == len(OTHERS)
    assert rows["mlp-big vs pfl"].note == "skipped: no module 'pfl' here"
    assert all(r.ratio is None for r in rows.values())


def test_a_quick_run_that_is_late_leaves_cases_out_by_name(tmp_path):
    event = events(str(tmp_path))[0]
    contest = Contest(Options(quick=True), str(tmp_path))
    rows = list(event_rows(contest, event, "MNIST", late=True))
    assert {r.note for r in rows} == {"skipped: no time left in --quick"}


@pytest.mark.slow
def test_engines_in_processes_do_the_same_work_and_a_broken_one_is_told(tmp_path):
    write_data(str(tmp_path), "tiny", drawn(400, 200, 64, sharpness=0.5))
    case = Case("c", "tiny", 10, 5, 40, str(tmp_path), batch=20, epochs=5)
    broken = Peer("broken", "sims.bench.peers.torch_loops")  # its argument is missing
    with Contest(Options(), str(tmp_path)) as contest:
        contest.start([OURS[1], OURS[2], LOOP, broken])
        names = [OURS[1].name, OURS[2].name, LOOP.name, broken.name]
        results = contest.run(case, names, Turns(2, 5))
    assert results.keys() == {OURS[1].name, OURS[2].name, LOOP.name}
    assert "IndexError" in contest.absent["broken"]
    ours, ours_2, loop = (results[n] for n in names[:3])
    assert ours.accuracy == ours_2.accuracy  # the same bits with two workers
    assert ours.accuracy == pytest.approx(loop.accuracy, abs=0.05)
    assert loop.accuracy > 0.9
    assert 0 < ours.memory_bytes < 2e9
    assert "torch" in contest.versions
