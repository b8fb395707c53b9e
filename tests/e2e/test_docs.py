"""What README and docs tell a reader to type: it parses, and where cheap it runs."""

import argparse
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.peer.settings import PeerSettings
from clients.peer.training import read_keys
from clients.tasks import load_task
from fedcore.cli import commands, full_parser, main
from fedcore.config import build, from_flags
from sims.flower.simulation import parser as flower_parser
from sims.runs.config import read

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:    )?((?:fedcore|flower-simulation) .+)$", re.MULTILINE)
FILE = re.compile(r"`([\w.-]+/[\w/.-]*(?:\.py|\.toml|\.md|\.json|/))`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
QUICK = {
    "sim run": ("--set", "run.rounds=2"),
    "sim sweep": ("--set", "run.rounds=1"),
}


def blocks(page: Path) -> list[str]:
    return CODE.findall(page.read_text(encoding="utf-8"))


def typed(page: Path) -> Iterator[list[str]]:
    """Yield the commands of ``page``, without the words that explain them."""
    text = re.sub(r"\\\n +", "", page.read_text(encoding="utf-8"))
    for line in LINE.findall(text):
        yield shlex.split(re.split(r" {3,}|  #|`", line)[0], comments=True)


EVERY_LINE = [(page.name, words) for page in PAGES for words in typed(page)]
EVERY_BLOCK = [(page.name, text) for page in PAGES for text in blocks(page)]


@pytest.mark.parametrize(("page", "words"), EVERY_LINE)
def test_a_command_of_the_docs_is_understood(page: str, words: list[str]) -> None:
    if words[0] == "flower-simulation":
        assert flower_parser().parse_args(words[1:])
        return
    args: argparse.Namespace = full_parser(commands()).parse_args(words[1:])
    flags = getattr(args, "set", [])
    if args.command != "peer":
        file = getattr(args, "config", None)
        ours = file not in (None, "my.toml")
        assert read(ROOT / file if ours else None, flags)
    elif args.action == "train":
        assert read_keys(flags)
    else:
        assert build(PeerSettings, from_flags(flags))


@pytest.mark.parametrize(
    "page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda p: p.name
)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = [ROOT / name for name in FILE.findall(text)]
    links = [page.parent / name for name in LINK.findall(text)]
    assert [path for path in [*files, *links] if not path.exists()] == []


@pytest.mark.parametrize(("page", "text"), EVERY_BLOCK)
def test_a_code_block_of_the_docs_is_python(page: str, text: str) -> None:
    assert compile(text, page, "exec")


@pytest.mark.parametrize(
    ("page", "text"), [(p, t) for p, t in EVERY_BLOCK if "def task(" in t]
)
@pytest.mark.slow
def test_a_task_of_the_docs_is_a_task(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    dataset = load_task(str(file))
    assert len(dataset.train[0]) > len(dataset.test[0]) > 0
    assert dataset.start(seed=1)


def test_the_three_lines_of_the_tasks_page(tmp_path: Path) -> None:
    (text,) = (t for p, t in EVERY_BLOCK if p == "tasks.md" and "federate(" in t)
    (tmp_path / "three.py").write_text(text)
    names = runpy.run_path(str(tmp_path / "three.py"))
    assert len(names["peers"]) == 10
    assert names["start"]


def test_there_is_something_to_try() -> None:
    assert len(EVERY_LINE) >= 15
    assert len(EVERY_BLOCK) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "cli.md"])
def test_a_reader_types_one_command_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = next(p for p in PAGES if p.name == page)
    (tmp_path / "mine.py").write_text("".join(t for t in blocks(file) if "task(" in t))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for words in typed(file):
        action = " ".join(words[1:3])
        if words[1] != "sim" or action == "sim resume":
            continue  # benchmarks take long; there is no unfinished run here
        assert main(["-q", *words[1:], *QUICK.get(action, ())]) == 0, words
