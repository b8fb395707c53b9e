import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.config import (
    blamed,
    build,
    choice,
    describe,
    dump,
    flat,
    from_file,
    from_flags,
    from_flat,
    from_toml,
    layered,
    nearest,
)
from fedcore.errors import ConfigError
from fedcore.gate import Gate
from fedcore.pacing import Buffered, Synchronous

PACERS = {"buffered": "fedcore.pacing:Buffered", "synchronous": Synchronous}
Plain = int | float | str | bool


@dataclass(frozen=True)
class Box:
    """A section.

    Attributes:
        width: in metres, > 0;
            a second line of help.
    """

    width: float

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ConfigError(f"width must be > 0, not {self.width}")


@dataclass(frozen=True)
class Config:
    """All kinds of keys.

    Attributes:
        rounds: rounds to train.
        pacer: when updates are folded.
    """

    box: Box
    rounds: int = 5
    lr: float = 0.1
    fast: bool = False
    title: str = "a run"
    mode: Literal["slow", "quick"] = "slow"
    sizes: tuple[int, ...] = (8, 4)
    span: tuple[str, float] = ("a", inf)
    target: float | None = None
    out: Path = Path("runs")
    gate: Gate = field(default_factory=lambda: Gate(max_norm=7.0))
    extra: Mapping[str, Plain] = field(default_factory=dict)
    pacer: Any = choice(PACERS, "synchronous")
    strategy: Any = choice("strategies:STRATEGIES", "fedavg")


BOX = "box.width=2"


def made(*flags: str) -> Config:
    return build(Config, from_flags([BOX, *flags]))


def test_defaults_and_nested_defaults_hold():
    config = made()
    assert config == Config(Box(2.0))
    assert config.gate.max_norm == 7.0
    assert made("gate.max_value=3").gate == Gate(max_value=3.0, max_norm=7.0)


@pytest.mark.parametrize(
    ("flag", "key", "value"),
    [
        ("rounds=9", "rounds", 9),
        ("lr=1", "lr", 1.0),
        ("lr=1e-3", "lr", 0.001),
        ("lr=inf", "lr", inf),
        ("fast=true", "fast", True),
        ("fast=True", "fast", True),
        ("title=5", "title", "5"),
        ("title=a = b", "title", "a = b"),
        ('title="5"', "title", "5"),
        ("title=", "title", ""),
        ("mode=quick", "mode", "quick"),
        ("sizes=3,4", "sizes", (3, 4)),
        ("sizes=[3]", "sizes", (3,)),
        ("sizes=[]", "sizes", ()),
        ("span=left,2", "span", ("left", 2.0)),
        ("target=0.9", "target", 0.9),
        ("target=none", "target", None),
        ("out=a/b", "out", Path("a/b")),
        ("extra.deep-er=1.5", "extra", {"deep-er": 1.5}),
        ("pacer=buffered", "pacer", Buffered()),
        ("pacer.gather-s=3", "pacer", Synchronous(gather_s=3.0)),
    ],
)
def test_a_flag_sets_its_key(flag, key, value):
    got = getattr(made(flag), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("rouns=9", ['no setting "rouns"', '"rounds"', "--set rouns=9"]),
        ("pacer.quorom=1", ['"pacer.quorum"', "--set"]),
        ("pacer.size=1", ['"synchronous" has none', '"buffered" would']),
        ("pacer.name=bufered", ['no "bufered"', '"buffered"']),
        ("strategy=fedavgg", ['"fedavg"']),
        ("rounds=x", ["rounds must be a whole number", "'x'"]),
        ("rounds=1.0", ["a whole number", "1.0"]),
        ("rounds=true", ["a whole number", "True"]),
        ("lr=nan", ["a number", "nan"]),
        ("lr=true", ["a number"]),
        ("fast=1", ["true or false"]),
        ("mode=fast", ['one of "slow", "quick"', "'fast'"]),
        ("sizes=1,b", ["a list, each a whole number"]),
        ("span=a", ["a list of 2"]),
        ("target=x", ["a number or none"]),
        ("rounds.x=1", ["rounds is one value"]),
        ("gate=1", ["it is a section", '"gate.max_norm"']),
        ("box.width=-1", ["[box] width must be > 0", "--set box.width=-1"]),
        ("pacer.quorum=99", ["[pacer] quorum", "--set pacer.quorum=99"]),
        ("rounds", ["key=value"]),
        ("=1", ["key=value"]),
    ],
)
def test_a_mistake_is_named_with_its_cause_and_its_place(flag, words):
    with pytest.raises(ConfigError) as caught:
        made(flag)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_value_without_default_is_named():
    with pytest.raises(ConfigError, match=r"box.width is missing.*a number"):
        build(Config, {})


def test_errors_name_the_line_of_the_file(tmp_path):
    path = tmp_path / "run.toml"
    text = '# first\nbox = { width = 1 }\n[pacer]\nname = "buffered"\n\nsize = "x"\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"pacer.size .*\(run.toml, line 6\)"):
        build(Config, from_file(path))
    path.write_text("[box]\nwidth = 'x'")
    with pytest.raises(ConfigError, match=r"box.width .*\(run.toml, line 2\)"):
        build(Config, from_file(path))


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml is not"):
        from_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        from_file(tmp_path / "none.toml")


def test_flags_win_over_the_file_and_leave_the_old_choice_behind():
    file = from_toml('rounds = 3\n[pacer]\nname = "buffered"\nsize = 4\nseed = 5')
    flags = from_flags([BOX, "rounds=4", "pacer.name=synchronous"])
    config = build(Config, layered(file, flags))
    assert config.rounds == 4
    assert config.pacer == Synchronous(seed=5)  # which has a seed, but no size
    with pytest.raises(ConfigError, match="size"):  # said after the choice: a mistake
        build(Config, layered(flags, from_flags(["pacer.size=4"])))


@pytest.mark.parametrize("flag", ["pacer=synchronous", "pacer.name=synchronous"])
@pytest.mark.parametrize("line", ['pacer = "buffered"', '[pacer]\nname = "buffered"'])
def test_a_choice_by_a_flag_wins_however_both_are_written(flag, line):
    config = build(Config, layered(from_toml(line), from_flags([BOX, flag])))
    assert config.pacer == Synchronous()


@pytest.mark.parametrize("last", ["pacer", "pacer.name"])
def test_of_two_choices_the_last_wins_however_they_are_written(last):
    flags = ["pacer=buffered", "pacer.name=buffered"]
    flags.sort(key=lambda flag: flag.startswith(f"{last}="))
    flags[-1] = f"{last}=synchronous"
    assert made(BOX, *flags).pacer == Synchronous()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False)
CONFIGS = st.builds(
    Config,
    box=st.builds(Box, st.floats(min_value=1e-300, exclude_min=True)),
    rounds=st.integers(),
    lr=NUMBERS,
    fast=st.booleans(),
    title=TEXTS,
    mode=st.sampled_from(["slow", "quick"]),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    span=st.tuples(TEXTS, NUMBERS),
    target=st.none() | NUMBERS,
    extra=st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_-]{0,5}", fullmatch=True),
        st.integers() | NUMBERS | TEXTS | st.booleans(),
        max_size=3,
    ),
    pacer=st.sampled_from([Synchronous(cohort=3), Buffered(size=7)]),
)


@settings(deadline=None, max_examples=60)
@given(CONFIGS)
def test_what_is_written_reads_back_equal(config):
    assert build(Config, from_toml(dump(config))) == config
    assert build(Config, from_toml(dump(config, with_help=True))) == config
    assert build(Config, from_flat(flat(config))) == config


def test_dump_is_fixed():
    lines = dump(made(), with_help=True).splitlines()
    assert lines[:3] == ["# rounds to train.", "rounds = 5", "lr = 0.1"]
    at = lines.index("[box]")
    help_ = "# in metres, > 0; a second line of help."
    assert lines[at : at + 3] == ["[box]", help_, "width = 2.0"]
    at = lines.index("[pacer]")
    assert lines[at + 1 : at + 3] == [
        "# when updates are folded.",
        'name = "synchronous"',
    ]


def test_describe_lists_every_key_with_type_default_and_help():
    keys = {(k.key, k.only_for): k for k in describe(Config)}
    width = keys["box.width", ""]
    assert (width.type, width.default) == ("a number", "")
    assert width.help == "in metres, > 0; a second line of help."
    assert keys["gate.max_norm", ""].default == "7.0"
    name = keys["pacer.name", ""]
    assert (name.type, name.default) == ("buffered | synchronous", '"synchronous"')
    assert keys["pacer.size", "buffered"].default == "10"
    assert keys["strategy.server_lr", "fedavg"].help.startswith("step along")


def test_nearest_says_what_there_is():
    assert nearest("fedavgg", ["fedavg", "krum"]) == 'the nearest is "fedavg"'
    assert nearest("zzz", ["b", "a"]) == 'valid: "a", "b"'
    assert nearest("zzz", []) == "there are none"


def test_config_does_not_import_torch():
    code = "import sys, fedcore.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "(default box.a, default box.b, default box.c, ...)"),
        (["box.width=-1"], "(--set box.width=-1)"),
    ],
)
def test_who_set_what_does_not_go_together_is_named_and_not_every_default(given, told):
    made_up = {f"box.{name}": -1 for name in "abcd"}
    settings = {**from_flat(made_up, "default"), **from_flags(given)}
    inner = {key.partition(".")[2]: setting for key, setting in settings.items()}
    assert blamed(inner) == f" {told}"
