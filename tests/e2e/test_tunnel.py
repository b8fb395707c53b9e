"""Flower's own SuperLink and SuperNode, unmodified, over a tunnel between peers."""

import json

import pytest

from p2p.channel.tunnel import Tunnel
from tests.channel_ends import B, pair
from tests.e2e.flower_stage import Stage, free_port

pytestmark = pytest.mark.slow
NUMBERS = 1 << 20  # of four bytes: much more than Flower sends about itself
PROJECT = """
[project]
name = "app-twice"
version = "1.0.0"
description = "Sends an array there and back"
license = "Apache-2.0"
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "fedcore"

[tool.flwr.app.components]
serverapp = "app_twice.apps:server"
clientapp = "app_twice.apps:client"

[tool.flwr.app.config]
out = ""
"""
APP = f"""
import json, time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()

@client.query()
def twice(message, context):
    array = message.content["x"].to_numpy_ndarrays()[0]
    return Message(RecordDict({{"x": ArrayRecord([2 * array])}}), reply_to=message)

@server.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    array = np.random.default_rng(0).random({NUMBERS}, np.float32)
    content = RecordDict({{"x": ArrayRecord([array])}})
    question = Message(content, nodes[0], MessageType.QUERY)
    (answer,) = grid.send_and_receive([question])
    same = np.array_equal(answer.content["x"].to_numpy_ndarrays()[0], 2 * array)
    Path(context.run_config["out"]).write_text(json.dumps(bool(same)))
"""


@pytest.fixture
def tunnels():
    ends = {}
    near = Tunnel(lambda _, *words: ends["near"].ask(*words))
    far = Tunnel(lambda _, *words: ends["far"].ask(*words))
    ends["near"], ends["far"] = pair(serve=(near, far))
    yield near, far, ends["near"]
    for each in (near, far, *ends.values()):
        each.close()


@pytest.mark.timeout(150)
def test_superlink_and_supernode_meet_through_a_tunnel(tmp_path, tunnels):
    near, far, carrier = tunnels
    port, out, app = free_port(), tmp_path / "out.json", tmp_path / "app"
    far.expose("superlink", "127.0.0.1", port)
    forward = near.forward(B.peer, "superlink")
    (app / "app_twice").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "app_twice" / "__init__.py").touch()
    (app / "app_twice" / "apps.py").write_text(APP)
    with Stage(tmp_path) as stage:
        stage.env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.05"
        stage.start(
            "superlink",
            *("flower-superlink", "--insecure"),
            *("--host", "127.0.0.1", "--port", port),
        )
        stage.wait_for_port(port)
        stage.connect(port)
        stage.start(
            "supernode",
            *("flower-supernode", "--insecure"),
            *("--superlink", f"127.0.0.1:{forward.port}"),
            *("--host", "127.0.0.1", "--port", free_port()),
        )
        stage.call("flwr", "run", app, "loop", "--run-config", f"out='{out}'")
        assert stage.finished(120) == "completed", stage.logs()
    assert json.loads(out.read_text()) is True
    # The array went through the channel, and nowhere else.
    assert carrier.sent_bytes > 4 * NUMBERS < carrier.received_bytes
