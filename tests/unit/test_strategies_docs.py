"""The page on strategies names every strategy and every key with its default."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from strategies import STRATEGIES

DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "strategies.md").read_text("utf-8")
PAGES = [INDEX, *(p.read_text("utf-8") for p in (DOCS / "strategies").glob("*.md"))]
SECTIONS = [s for page in PAGES for s in re.split(r"^##+ ", page, flags=re.MULTILINE)]
NUMBER = r"\d[\d.]*(?:e-?\d+)?"


def section_of(name):
    found = [s for s in SECTIONS if name in re.split(r", | and |\n", s)[:3]]
    assert len(found) == 1, f"{name} has {len(found)} sections"
    return found[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_key_stands_there_with_its_default(name):
    section = section_of(name)
    for key in fields(STRATEGIES[name]):
        told = re.search(rf"`{key.name}`\s\(([^)]*)\)", section)
        assert told, f"{name}: {key.name} is missing"
        default = default_of(key)
        assert said(default, told.group(1)), f"{name}: {key.name} = {default}"


def default_of(key):
    """Return the default of a field, the name where it is picked from a registry."""
    return key.metadata["choice"].default if "choice" in key.metadata else key.default


def said(default, text):
    """Return whether ``text`` names the value ``default``."""
    if isinstance(default, bool | str):
        return str(default).lower() in text.lower()
    return float(default) in map(float, re.findall(NUMBER, text))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_stands_in_the_table_with_what_it_needs(name):
    row = next(line for line in INDEX.splitlines() if line.startswith(f"| [`{name}`]"))
    assert f"| {STRATEGIES[name].needs} |" in row


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "fedavg"])
def test_every_strategy_has_a_figure_of_its_own(name):
    figure = re.search(rf"\((\S*img/strategies-{name}\.svg)\)", section_of(name))
    assert figure
    assert (DOCS / "img" / f"strategies-{name}.svg").is_file()
