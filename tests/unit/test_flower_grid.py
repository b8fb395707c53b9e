import os
import random
import time

import numpy as np
import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedcore.errors import ConfigError
from sims.flower.grid import InProcessGrid
from sims.flower.node import Failure
from sims.flower.run import run_in_process

client = ClientApp()


@client.train()
def draw(message: Message, context: Context) -> Message:
    numbers = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    state = context.state
    calls = state["n"]["calls"] if "n" in state else 0
    state["n"] = ConfigRecord({"calls": calls + 1, "seen": [b"x", b""]})
    part = context.node_config["partition-id"]
    content = MetricRecord({"draws": numbers, "calls": calls, "part": part})
    return Message(RecordDict({"m": content, **message.content}), reply_to=message)


@client.query("boom")
def boom(message: Message, context: Context) -> Message:
    context.state["n"] = ConfigRecord({"calls": 41})
    raise ValueError("no such luck")


@client.query("leave")
def leave(message: Message, context: Context) -> Message:
    os._exit(3)


@client.query("error")
def error(message: Message, context: Context) -> Message:
    return Message(Error(6, "the mod says no"), reply_to=message)


@client.query("nothing")
def nothing(message: Message, context: Context) -> Message:
    return None


@client.query("wreck")
def wreck(message: Message, context: Context) -> Message:
    message.content["a"].pop("0")
    message.content["c"]["list"].append(2)
    return Message(RecordDict(), reply_to=message)


@client.query("nap")
def nap(message: Message, context: Context) -> Message:
    time.sleep(0.2)
    return Message(RecordDict(), reply_to=message)


def payload():
    return RecordDict(
        {
            "a": ArrayRecord([np.arange(3.0)]),
            "c": ConfigRecord(
                {"list": [1], "b": b"\x00", "t": True, "f": float("inf")}
            ),
        }
    )


def ask(grid, kind, nodes=None, **more):
    content = payload()
    nodes = nodes or grid.get_node_ids()
    return [Message(content, node, kind, **more) for node in nodes]


def two_rounds(workers, seed=1):
    with InProcessGrid(client, 5, seed=seed, workers=workers) as grid:
        rounds = [list(grid.send_and_receive(ask(grid, "train"))) for _ in range(2)]
        assert list(grid.get_node_ids()) == sorted(grid.get_node_ids())
        return grid.get_node_ids(), [r.content for one in rounds for r in one]


def test_runs_repeat_whatever_the_number_of_workers():
    ids, here = two_rounds(workers=0)
    assert [c["m"]["part"] for c in here] == [0, 1, 2, 3, 4] * 2
    assert [c["m"]["calls"] for c in here] == [0] * 5 + [1] * 5
    assert len({tuple(c["m"]["draws"]) for c in here}) == 10
    assert all(c["c"] == payload()["c"] for c in here)
    for workers in (1, 2):
        assert two_rounds(workers) == (ids, here)
    assert two_rounds(0, seed=2)[0] != ids


def test_the_servers_own_generators_are_left_alone():
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    want = random.random(), np.random.rand(), torch.rand(())
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    two_rounds(0)
    assert (random.random(), np.random.rand(), torch.rand(())) == want


@pytest.mark.parametrize("workers", [0, 2])
def test_failures_come_back_as_flower_says_them(workers):
    seen = []
    with InProcessGrid(client, 3, workers=workers, watch=seen.append) as grid:
        a, b, _ = grid.get_node_ids()
        (reply,) = grid.send_and_receive(ask(grid, "query.boom", [b], group_id="7"))
        assert reply.error.code == 2
        assert "no such luck" in reply.error.reason
        assert reply.metadata.src_node_id == b
        handled = seen[0]
        assert (handled.partition, handled.round) == (1, "7")
        assert handled.kind == "query.boom"
        assert isinstance(handled.outcome, Failure)
        assert "raise ValueError" in handled.outcome.trace
        assert "site-packages/flwr" not in handled.outcome.trace
        (reply,) = grid.send_and_receive(ask(grid, "train", [b]))
        assert reply.content["m"]["calls"] == 41  # as in Flower's deployment
        kinds = ["query.error", "query.nothing", "query.unknown", "evaluate"]
        asked = [ask(grid, kind, [a])[0] for kind in kinds]
        codes = [reply.error.code for reply in grid.send_and_receive(asked)]
        assert codes == [6, 2, 2, 2]


def test_absent_expired_and_unknown_nodes():
    with InProcessGrid(client, 2) as grid:
        a, b = grid.get_node_ids()
        grid.offline.add(a)
        assert list(grid.get_node_ids()) == [b]
        (reply,) = grid.send_and_receive(ask(grid, "train", [a]))
        assert reply.error.code == 5
        ids = grid.push_messages(ask(grid, "train", [b], ttl=0.01))
        time.sleep(0.02)
        (reply,) = grid.pull_messages(ids)
        assert reply.error.code == 3
        assert grid.push_messages(ask(grid, "train", [a ^ b])) == []
        assert grid.pull_messages(["no such"]) == []
        assert grid.handled == 0


def test_a_worker_that_dies_loses_only_its_message():
    with InProcessGrid(client, 4, workers=2) as grid:
        kinds = ["train", "query.leave", "train", "train"]
        asked = [
            ask(grid, kind, [node])[0]
            for kind, node in zip(kinds, grid.get_node_ids(), strict=True)
        ]
        replies = grid.send_and_receive(asked)
        assert [r.has_error() and r.error.code for r in replies] == [0, 8, 0, 0]
        assert "status 3" in replies[1].error.reason
        assert not any(r.has_error() for r in grid.send_and_receive(ask(grid, "train")))


@pytest.mark.parametrize("workers", [0, 2])
def test_two_messages_for_one_node_see_each_others_state(workers):
    with InProcessGrid(client, 2, workers=workers) as grid:
        a, b = grid.get_node_ids()
        asked = ask(grid, "train", [a, b, a, a])
        calls = [r.content["m"]["calls"] for r in grid.send_and_receive(asked)]
        assert calls == [0, 0, 1, 2]


def test_a_client_cannot_change_what_others_get():
    with InProcessGrid(client, 3) as grid:
        content = payload()
        asked = [Message(content, n, "query.wreck") for n in grid.get_node_ids()]
        assert not any(r.has_error() for r in grid.send_and_receive(asked))
        assert content == payload()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_timeout_leaves_can_be_pulled_later(workers):
    with InProcessGrid(client, 6, workers=workers) as grid:
        asked = ask(grid, "query.nap")
        first = list(grid.send_and_receive(asked, timeout=0.3))
        rest = list(grid.pull_messages([m.metadata.message_id for m in asked]))
        assert 0 < len(first) < 6
        assert len(first) + len(rest) == 6


def test_a_whole_app_finds_its_configuration():
    server = ServerApp()

    @server.main()
    def main(grid, context):
        context.state["got"] = ConfigRecord({"lr": context.run_config["lr"]})
        assert list(grid.get_nodes())[1].node_id == list(grid.get_node_ids())[1]
        assert grid.run.run_id == context.run_id
        grid.send_and_receive(ask(grid, "train"))

    done = run_in_process(server, client, 3, run_config={"lr": 0.5})
    assert done.context.state["got"]["lr"] == 0.5
    assert done.messages == 3


def test_what_the_server_raises_is_raised():
    server = ServerApp()

    @server.main()
    def main(grid, context):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_in_process(server, client, 2, workers=2)


@pytest.mark.parametrize(("nodes", "workers"), [(0, 0), (1, -1)])
def test_impossible_numbers(nodes, workers):
    with pytest.raises(ConfigError):
        InProcessGrid(client, nodes, workers=workers)
