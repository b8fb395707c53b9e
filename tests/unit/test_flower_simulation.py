import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import ConfigError
from sims.flower.loader import flat, load_app, overridden, read_app
from sims.flower.simulation import main

APPS = Path(__file__).parents[1] / "flower_apps"
PROJECT = """
[tool.flwr.app.components]
serverapp = "{name}.server:app"
clientapp = "{name}.client:app"
[tool.flwr.app.config]
rounds = 2
fail = "nobody"
[tool.flwr.app.config.model]
width = 8
"""
SERVER = """
import time
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    for i in range(context.run_config["rounds"]):
        grid.send_and_receive(
            [Message(RecordDict(), n, "query", group_id=f"{i}")
             for n in grid.get_node_ids()]
        )
    if context.run_config["fail"] == "server":
        raise RuntimeError("the disk is full")
"""
CLIENT = """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context):
    part = context.node_config["partition-id"]
    if context.run_config["fail"] == "client" and part == 1:
        raise OSError("no data here")
    width = context.run_config["model.width"]
    metrics = MetricRecord({"num-examples": 1 + part, "width": width, "part": part})
    return Message(RecordDict({"m": metrics}), reply_to=message)
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Return the folder of a small good app whose package has a name of its own."""
    name = f"app_{abs(hash(tmp_path))}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "server.py").write_text(SERVER)
    (package / "client.py").write_text(CLIENT)
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(name=name))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for tracebacks
    yield tmp_path
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


def run(folder, *more):
    return main(["--app", str(folder), "--num-supernodes", "3", "--quiet", *more])


def test_a_good_app(app, capsys):
    assert run(app, "--workers", "0") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("round 0, query: 3 answers, width 8, part 1.333")
    assert out[2].startswith("done: 6 messages, 0 failed")


def test_json_for_programs(app, capsys):
    more = ["--run-config", "rounds=1 model.width=5", "--json", "--seed", "3"]
    assert run(app, *more) == 0
    phase, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert (phase["kind"], phase["answers"], phase["metrics"]["width"]) == (
        "query",
        3,
        5,
    )
    assert (done["event"], done["messages"], done["failed"]) == ("done", 3, 0)


def test_a_client_that_fails_is_named_and_fails_the_run(app, capsys):
    config = ["--run-config", "fail='client'"]
    assert run(app, *config) == 1
    said = capsys.readouterr()
    assert said.err.count("no data here") == 3  # the reason, and its traceback once
    assert "(partition 1), round 0, query: OSError" in said.err
    assert 'raise OSError("no data here")' in said.err
    assert "2 of 6 client messages failed" in said.err
    assert run(app, *config, "--max-failures", "2") == 0
    assert run(app, *config, "--json") == 1
    events = [json.loads(t) for t in capsys.readouterr().out.splitlines()[-5:]]
    assert [e["event"] for e in events].count("failure") == 2


def test_a_server_that_fails_says_where(app, capsys):
    assert run(app, "--run-config", "fail='server'") == 1
    err = capsys.readouterr().err
    assert "RuntimeError: the disk is full" in err
    assert "server.py:14" in err
    assert "Traceback" not in err


def write(path, text):
    return lambda folder: next(folder.glob(path)).write_text(text)


MISTAKES = {  # what to do to a good app -> what must be said
    "no pyproject": (lambda f: (f / "pyproject.toml").unlink(), "no pyproject.toml"),
    "broken toml": (write("pyproject.toml", "[tool"), "cannot be read: Expected ']'"),
    "no components": (write("pyproject.toml", "[tool.flwr]"), "names no serverapp"),
    "odd reference": (
        write(
            "pyproject.toml",
            '[tool.flwr.app.components]\nserverapp="x"\nclientapp="y:z"',
        ),
        "not of the form module:attribute",
    ),
    "no such module": (
        write(
            "pyproject.toml",
            '[tool.flwr.app.components]\nserverapp="nowhere_x:a"\nclientapp="y:z"',
        ),
        "No module named 'nowhere_x'",
    ),
    "import error": (write("*/client.py", "import os\n1 / 0"), "client.py:2"),
    "syntax error": (write("*/server.py", "def :"), "SyntaxError"),
    "missing attribute": (
        write(
            "*/client.py", CLIENT.replace("app = ", "apps = ").replace("@app", "@apps")
        ),
        'ClientApps: the nearest is "apps"',
    ),
    "another type": (write("*/client.py", "app = 3"), "is a int, not a ClientApp"),
    "exit while importing": (write("*/client.py", "import sys; sys.exit(4)"), "4"),
    "a list in the config": (
        lambda f: (f / "pyproject.toml").write_text(
            (f / "pyproject.toml").read_text().replace("width = 8", "width = [8]")
        ),
        "'model.width' is a list; Flower has none",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_cause(name, app, capsys):
    spoil, said = MISTAKES[name]
    spoil(app)
    assert run(app) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--run-config", "round=1"], 1, "the nearest is"),
        (["--run-config", "fail=client"], 1, "put quotes around"),
        (["--run-config", "rounds 3"], 1, "key=value"),
        (["--run-config", "no/such.toml"], 1, "no/such.toml"),
        (["--num-supernodes", "0"], 1, "--num-supernodes must be >= 1"),
        (["--workers", "-1"], 1, "--workers"),
        (["--num-supernodes", "many"], 2, "invalid int"),
        (["--backend", "rai"], 2, "did you mean ray"),
        (["--num-supernode", "3"], 2, "did you mean --num-supernodes"),
    ],
)
def test_wrong_command_lines(app, more, code, said, capsys):
    assert run(app, *more) == code
    assert said in capsys.readouterr().err


def test_run_config_from_a_file_and_flags(tmp_path):
    config = {"lr": 0.1, "name": "a", "on": False, "model.width": 8}
    (tmp_path / "c.toml").write_text("lr = 0.5\n[model]\nwidth = 9\n")
    got = overridden(config, [str(tmp_path / "c.toml"), "name='b c' on=true"])
    assert got == {"lr": 0.5, "name": "b c", "on": True, "model.width": 9}
    assert flat({"a": {"b": {"c": 1}}}) == {"a.b.c": 1}


def test_nodes_of_older_apps(app):
    with (app / "pyproject.toml").open("a") as file:
        file.write('[tool.flwr.federations]\ndefault = "local"\n')
        file.write("[tool.flwr.federations.local]\noptions.num-supernodes = 7\n")
    assert read_app(app).nodes == 7


def test_an_app_whose_module_is_somebody_elses_is_not_run(app):
    (app / "json.py").write_text(CLIENT)
    text = (app / "pyproject.toml").read_text()
    start = text.index("clientapp")
    end = text.index("\n", start)
    (app / "pyproject.toml").write_text(
        text[:start] + 'clientapp = "json:app"' + text[end:]
    )
    with pytest.raises(ConfigError, match="rename the app's"):
        load_app(read_app(app))


@pytest.mark.parametrize("name", ["custom", "queries", "state", "krum"])
def test_upstream_style_apps_repeat_bit_for_bit(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    results = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}.npz"
        argv = ["--app", str(APPS / name), "--num-supernodes", "6", "--quiet"]
        argv += ["--workers", str(workers), "--run-config", f"out='{out}'"]
        assert main(argv) == 0
        with np.load(out) as arrays:
            results.append([arrays[k].tobytes() for k in arrays.files])
    assert results[0] == results[1]
