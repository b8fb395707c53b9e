"""A federation that learns language, from the command line: same bits, and text."""

import json

import pytest

from fedcore.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def rhymes(tmp_path):
    lines = [
        {"text": f"the {word} sat on the mat, " * 6, "user": word}
        for word in ("cat", "dog", "hen", "fox", "pig")
    ]
    path = tmp_path / "rhymes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(capsys, tmp_path, name, *settings):
    words = ["--no-report", "--json", "--out", str(tmp_path / "runs"), "--name", name]
    flags = [part for text in settings for part in ("--set", text)]
    assert main(["sim", "run", *words, *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


COMMON = (
    *("task.name=lm-own", "task.window=16", "partition.name=natural"),
    *("run.clients=4", "run.rounds=2", "trainer.lr=0.1"),
)


@pytest.mark.parametrize(
    "how",
    [
        ("strategy.name=fedavg", "task.tune=lora", "task.rank=2"),
        ("strategy.name=ferret", "strategy.budget=1024"),
    ],
    ids=["lora", "ferret"],
)
def test_a_language_model_gets_the_same_bits_from_any_number_of_workers(
    how, rhymes, tmp_path, capsys
):
    given = (*COMMON, f"task.data={rhymes}", *how)
    ended = [run(capsys, tmp_path, f"w{n}", *given, f"run.workers={n}") for n in (1, 2)]
    assert ended[0]["sha256"] == ended[1]["sha256"]
    assert ended[0]["up_bytes"] == ended[1]["up_bytes"]
    assert ended[0]["personal"] == {}  # the held-out rows are another owner's
    out = ["--out", str(tmp_path / "runs")]
    told = []
    for _ in range(2):
        assert main(["sim", "write", "w1", *out, "--json", "--prompt", "the"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    before, after = told[0]["before"], told[0]["after"]
    assert after["perplexity"] < before["perplexity"]
    assert after["perplexity"] == pytest.approx(ended[0]["perplexity"])
    assert told[0]["up_bytes"] * 8 == ended[0]["up_bytes"]
    assert told[0]["model_bytes"] == 4 * 852_608
    assert main(["sim", "write", "w1", *out, "--greedy", "--tokens", "3"]) == 0
    assert "averaging whole models takes 3.41 MB" in capsys.readouterr().out


def test_what_was_tuned_offsite_writes_as_the_whole_model(rhymes, tmp_path, capsys):
    out, before = ["--out", str(tmp_path / "runs"), "--json", "--greedy"], []
    for name, share in (("whole", 0.0), ("cut", 0.5)):
        given = (f"task.data={rhymes}", f"task.offsite={share}", "run.rounds=1")
        run(capsys, tmp_path, name, *COMMON, *given)
        assert main(["sim", "write", name, *out, "--tokens", "12"]) == 0
        before.append(json.loads(capsys.readouterr().out)["before"])
    assert before[0]["text"] == before[1]["text"]  # half a model writes something else
    assert before[0]["loss"] == pytest.approx(before[1]["loss"])


def test_a_run_that_writes_no_text_is_explained(tmp_path, capsys):
    run(capsys, tmp_path, "digits", "run.rounds=1", "run.clients=2")
    assert main(["sim", "write", "--out", str(tmp_path / "runs")]) == 1
    assert "whose model writes no text" in capsys.readouterr().err
