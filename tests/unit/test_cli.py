import argparse
import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedcore import cli
from fedcore.checks import Check, parsed
from fedcore.cli import Parser, explained, guarded, main, nearest
from fedcore.errors import ConfigError, StorageError
from sims.cli import docs as cli_docs
from sims.cli.doctor import checks

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Fake:
    """A command that does whatever a test wants; also its own entry point."""

    act: Callable[[argparse.Namespace], int]
    name: str = "fake"
    help: str = "do as told"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int)

    def run(self, args: argparse.Namespace) -> int:
        return self.act(args)

    def load(self) -> "Fake":
        return self


def run(monkeypatch: pytest.MonkeyPatch, act: Callable[..., int], *words: str) -> int:
    monkeypatch.setattr(cli, "commands", lambda: {"fake": Fake(act)})
    return main(["fake", *words])


def test_a_command_gets_its_arguments_and_the_common_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[argparse.Namespace] = []

    def act(args: argparse.Namespace) -> int:
        seen.append(args)
        return 7

    assert run(monkeypatch, act, "--number", "3", "-q") == 7
    assert (seen[0].number, seen[0].quiet, seen[0].debug) == (3, True, False)


def test_verbose_logs_what_happens(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def act(args: argparse.Namespace) -> int:
        logging.getLogger("fedcore.somewhere").info("it happened")
        return 0

    run(monkeypatch, act)
    assert "it happened" not in capsys.readouterr().err
    run(monkeypatch, act, "-v")
    assert "it happened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fake", "--numbr", "3"], "did you mean --number?"),
        (["fake", "--number", "x"], "invalid int value"),
        (["fakee"], "did you mean fake?"),
        ([], "required"),
        (["fake", "-q", "-v"], "not allowed with"),
    ],
)
def test_a_wrong_line_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: list[str], told: str
) -> None:
    monkeypatch.setattr(cli, "commands", lambda: {"fake": Fake(lambda args: 0)})
    assert main(words) == 2
    assert told in capsys.readouterr().err


@dataclass(frozen=True)
class Broken:
    """An entry point of a plug-in that cannot be imported, or ends when it is."""

    error: BaseException
    value: str = "elsewhere:COMMAND"
    dist: None = None

    def load(self) -> object:
        raise self.error


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("no elsewhere"), SystemExit(3), ZeroDivisionError()]
)
def test_a_broken_plug_in_stops_no_other_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: BaseException
) -> None:
    found = {"bad": Broken(error), "fake": Fake(lambda args: 7)}
    monkeypatch.setattr(cli, "commands", lambda: found)
    assert main(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "do as told" in out
    assert f"cannot be loaded: {type(error).__name__}" in out
    assert main(["fake"]) == 7
    assert main(["fakee"]) == 2
    capsys.readouterr()
    assert main(["bad", "--x"]) == 1
    told = capsys.readouterr().err
    assert "bad cannot be loaded" in told
    assert "reinstall or remove elsewhere:COMMAND" in told


def raising(error: BaseException) -> Callable[[], int]:
    def act() -> int:
        raise error

    return act


def test_our_errors_are_one_line(capsys: Capture) -> None:
    assert guarded(raising(ConfigError("bad\n  key; use good"))) == 1
    assert capsys.readouterr().err == "fedcore: bad key; use good\n"


def test_ctrl_c_is_130(capsys: Capture) -> None:
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "fedcore: stopped\n"


def test_an_unexpected_error_names_its_place_and_keeps_its_traceback(
    capsys: Capture,
) -> None:
    error = ZeroDivisionError("by zero")
    error.add_note("while training peer-000003")
    assert guarded(raising(error)) == 1
    told = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: by zero; while training peer-000003" in told
    assert "test_cli.py:" in told
    assert "Traceback" not in told
    kept = Path(told.rpartition("traceback in ")[2].strip())
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()


def test_debug_shows_the_traceback(capsys: Capture) -> None:
    assert guarded(raising(ConfigError("bad")), debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left", "a/b"), "a/b: No space left; check"),
        (StorageError("disk full; free some"), "disk full; free some"),
        (ValueError(""), "unexpected ValueError: ValueError"),
    ],
)
def test_errors_in_words(error: Exception, told: str) -> None:
    assert explained(error).startswith(told)


def test_nearest() -> None:
    assert nearest("fedavgg", ["fedavg", "krum"]) == " (did you mean fedavg?)"
    assert nearest("zzz", ["fedavg"]) == ""


def test_an_error_of_a_leaf_shows_its_usage(capsys: Capture) -> None:
    assert main(["sim", "run", "--nam", "x", "--dryrun"]) == 2
    told = capsys.readouterr().err
    assert "usage: fedcore sim run" in told
    assert "did you mean --dry-run?" in told


@pytest.mark.parametrize(
    "words", [["--help"], ["sim", "--help"], ["sim", "run", "--help"], ["--version"]]
)
def test_help_loads_no_torch(words: list[str]) -> None:
    code = (
        "import sys; from fedcore.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'flwr', 'sklearn', 'matplotlib', 'rich', 'numpy'}; "
        "print(heavy & sys.modules.keys()); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_reader_that_goes_away_is_no_error() -> None:
    """Like ``fedcore ... | head``: the pipe is closed while we write."""
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "import sys; from fedcore.cli import guarded; "
        "sys.exit(guarded(lambda: (print('x' * 100000), sys.stdout.flush(), 0)[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_page_of_commands_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == cli_docs.text(), (
        "run: python -m sims.cli.docs > docs/cli.md"
    )


def test_every_command_of_the_page_is_known() -> None:
    progs = [leaf.prog for leaf in cli_docs.leaves(cli.full_parser(cli.commands()))]
    assert "fedcore sim run" in progs
    assert "fedcore doctor" in progs
    assert all(isinstance(p, str) for p in progs)


def test_parser_is_an_argument_parser() -> None:
    assert Parser(prog="x").parse_args([]) == argparse.Namespace()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("1.41", (1, 41)), ("3.0rc1", (3, 0)), ("x", ())],
)
def test_versions_are_compared_as_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert parsed(text) == numbers


def test_doctor_writes_an_object_a_line(tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "runs")
    assert main(["doctor", "--json", "--out", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {json.loads(line)["verdict"] for line in lines} <= {"PASS", "WARN"}
    assert main(["doctor", "--out", out]) == 0
    assert capsys.readouterr().out.endswith(" 0 FAIL\n")


def test_doctor_looks_at_everything(tmp_path: Path) -> None:
    found = {check.name: check for check in checks(tmp_path / "runs", tmp_path)}
    assert found["torch"].verdict == "PASS"
    assert found["disk"].found
    assert found["writable"] == Check("writable", "PASS", str(tmp_path))
    assert found["data digits"].verdict == "PASS"
    assert found["data mnist"].fix == "fedcore data get mnist"
    assert {"python", "torch works", "cores", "memory", "clock"} <= found.keys()
    assert all(check.fix for check in found.values() if check.verdict != "PASS")
