"""Flower's own programs run our app: the same bits as the plain loop."""

import importlib
import json
import tomllib

import pytest

from fedcore.params import digest, size_bytes
from fedcore.rounds import run_rounds
from fedcore.strategy import peer_name
from sims.app import setup_of
from sims.flower.loader import flat
from tests.e2e.flower_stage import ROOT, Stage, free_port, make_keys, make_node_key

APP = ROOT / "tests" / "every_strategy"
SEED_APP = ROOT / "tests" / "seed_app"
pytestmark = pytest.mark.slow


def loop_digest(**changed):
    """Return the digest of the model that the plain loop makes of the app's keys."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = flat(project["tool"]["flwr"]["app"]["config"])
    setup = setup_of({**config, **{k.replace("_", "."): v for k, v in changed.items()}})
    chosen = setup.config
    trainer = chosen.privacy.around(chosen.trainer, chosen.run.seed)
    rounds = chosen.run.rounds
    state = run_rounds(chosen.strategy, trainer, setup.tasks, setup.start, rounds)
    return digest(state.params)


@pytest.mark.timeout(240)
def test_flwr_run_of_the_repository(tmp_path):
    port, out = free_port(), tmp_path / "out"
    with Stage(tmp_path) as stage:
        stage.start(
            "superlink",
            *("flower-superlink", "--insecure", "--simulation"),
            *("--host", "127.0.0.1", "--port", port),
        )
        stage.wait_for_port(port)
        stage.connect(port)
        stage.call(
            *("flwr", "run", ROOT, "loop"),
            *("--federation-config", "num-supernodes=4 client-resources-num-cpus=1"),
            *("--run-config", f"run.rounds=2 run.clients=4 out='{out}'"),
        )
        assert stage.finished(180) == "completed", stage.logs()
        result = json.loads((out / "result.json").read_text())
    assert result["rounds"] == 2
    assert result["sha256"] == loop_digest(run_rounds=2, run_clients=4)


def deploy(stage, nodes):
    """Start a SuperLink and ``nodes`` SuperNodes with TLS and registered keys.

    Node i keeps base models in the folder ``bases<i>`` of the stage.
    """
    folder, port = stage.folder, free_port()
    make_keys(folder)
    ca = folder / "ca.crt"
    tls = ["--ssl-ca-certfile", ca, "--ssl-certfile", folder / "server.crt"]
    tls += ["--ssl-keyfile", folder / "server.key"]
    stage.env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.05"
    stage.start(
        "superlink",
        *("flower-superlink", "--host", "127.0.0.1", "--port", port),
        *(*tls, "--enable-supernode-auth"),
    )
    stage.wait_for_port(port)
    stage.connect(port, ca)
    for i in range(nodes):
        key = make_node_key(folder, f"node{i}")
        stage.call("flwr", "supernode", "register", key.with_suffix(".pub"), "loop")
        stage.start(
            f"supernode{i}",
            *("flower-supernode", "--superlink", f"127.0.0.1:{port}"),
            *("--root-certificates", ca, *tls),
            *("--host", "127.0.0.1", "--port", free_port()),
            *(
                "--node-config",
                f"partition-id={i} num-partitions={nodes} bases='{folder}/bases{i}'",
            ),
            *("--auth-supernode-private-key", key),
        )


@pytest.mark.timeout(240)
def test_deployment_with_tls_and_node_authentication(tmp_path):
    out = tmp_path / "out"
    with Stage(tmp_path) as stage:
        deploy(stage, nodes=2)
        stage.call(
            *("flwr", "run", ROOT, "loop"),
            *("--run-config", f"run.rounds=2 run.clients=2 out='{out}'"),
        )
        assert stage.finished(180) == "completed", stage.logs()
        result = json.loads((out / "result.json").read_text())
    assert result["sha256"] == loop_digest(run_rounds=2, run_clients=2)


@pytest.mark.timeout(600)
def test_every_form_of_message_has_the_same_bits_in_a_deployment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(APP)
    rules = importlib.import_module("app_every.rules")
    tasks = {peer_name(i): rules.task_of(i) for i in range(rules.NODES)}
    out = tmp_path / "out.json"
    with Stage(tmp_path) as stage:
        deploy(stage, rules.NODES)
        stage.call(*("flwr", "run", APP, "loop", "--run-config", f"out='{out}'"))
        assert stage.finished(500) == "completed", stage.logs()
        done = json.loads(out.read_text())
    assert done == {
        name: digest(
            run_rounds(
                rules.rules_of(name),
                rules.TRAINER,
                tasks,
                rules.START,
                rounds,
            ).params
        )
        for name, rounds in rules.ROUNDS.items()
    }


@pytest.mark.timeout(400)
def test_a_deployed_model_goes_to_each_node_once_and_then_only_numbers(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(SEED_APP)
    rules = importlib.import_module("app_seed.rules")
    tasks = {peer_name(i): rules.Map(i) for i in range(rules.NODES)}
    out = tmp_path / "out.json"
    with Stage(tmp_path) as stage:
        deploy(stage, rules.NODES)
        stage.call(*("flwr", "run", SEED_APP, "loop", "--run-config", f"out='{out}'"))
        assert stage.finished(300) == "completed", stage.logs()
        done = json.loads(out.read_text())
    state = run_rounds(rules.RULES, rules.TRAINER, tasks, rules.START, rules.ROUNDS)
    assert done["sha256"] == digest(state.params) != digest(rules.START)
    assert (done["whole"], done["named"]) == ([1, 1], [rules.ROUNDS] * 2)
    names = [p.name for i in range(2) for p in (tmp_path / f"bases{i}").iterdir()]
    assert names == [f"{state.base_id}.safetensors"] * 2
    model = size_bytes(rules.START)
    assert all(model < sent < 1.1 * model for sent in done["size_bytes"])
