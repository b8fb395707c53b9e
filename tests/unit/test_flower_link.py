import time

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator
from fedcore.desk import Rules, Sent
from fedcore.errors import PeerLostError, QuorumError
from fedcore.flower import FlowerLink, LinkLimits, client_app, pack_update
from fedcore.flower.roster import Roster, own_name, reason_of
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work, peer_name
from sims.flower.grid import InProcessGrid
from sims.line import Line
from strategies.fedavg import FedAvg

START = {"weight": torch.zeros(1, 4)}
QUICK = LinkLimits(poll_s=0.001, look_s=0.0, grace_s=0.05, patience_s=0.05)
NAMES = [peer_name(i) for i in range(3)]


def line_client(trainer=None):
    return client_app(
        lambda c: Line(seed=int(c.node_config["partition-id"])),
        trainer or SGD(lr=0.05),
    )


def no_nan(task, work, peer):
    if peer == NAMES[1]:
        raise ArithmeticError("my loss is NaN")
    return SGD(lr=0.05)(task, work, peer)


def named(names):
    """Return a client that claims the name ``names[partition]``."""
    app = ClientApp()

    @app.query("whoami")
    def whoami(message, context):
        name = names[context.node_config["partition-id"]]
        return Message(
            RecordDict({"whoami": ConfigRecord({"peer": name})}), reply_to=message
        )

    @app.train()
    def train(message, context):
        update = Update("somebody else", 0, {"weight": torch.ones(1, 4)}, 1)
        return Message(pack_update(update), reply_to=message)

    return app


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_has_the_bits_of_the_loop(workers):
    tasks = {name: Line(seed=i) for i, name in enumerate(NAMES)}
    want = run_rounds(FedAvg(), SGD(lr=0.05), tasks, START, rounds=3)
    with InProcessGrid(line_client(), 3, workers=workers) as grid:
        rules = Rules(FedAvg(), Synchronous(cohort=3))
        got = Coordinator(rules, FlowerLink(grid)).run(START, 3)
    assert digest(got.params) == digest(want.params)


def test_a_semi_asynchronous_pacer():
    folds = []
    with InProcessGrid(line_client(), 3) as grid:
        rules = Rules(FedAvg(), Buffered(size=2))
        state = Coordinator(rules, FlowerLink(grid), watch=folds.append).run(START, 4)
    assert state.version == 4
    assert [len(f.folded) for f in folds if f.folded] == [2] * 4


def test_who_raises_or_leaves_is_lost_and_the_others_go_on():
    folds = []
    with InProcessGrid(line_client(no_nan), 4) as grid:
        last = list(grid.get_node_ids())[3]
        rules = Rules(FedAvg(), Synchronous(cohort=4, quorum=2, gather_s=0.0))
        link = FlowerLink(grid, QUICK)
        assert len(link.idle()) == 4
        link.send(peer_name(3), Work(0, START, steps=1))
        grid.offline.add(last)
        lost = link.receive(link.now_s() + 1).lost
        assert lost == {
            peer_name(3): "is not online any more: Node Unavailable - "
            "the node is not online"
        }
        Coordinator(rules, link, watch=folds.append).run(START, 2)
    assert [sorted(u.peer for u in f.folded) for f in folds] == [
        [NAMES[0], NAMES[2]]
    ] * 2
    assert "ArithmeticError: my loss is NaN" in folds[0].lost[NAMES[1]]


def test_work_that_expires_is_lost():
    with InProcessGrid(line_client(), 1) as grid:
        link = FlowerLink(grid, LinkLimits(ttl_s=1e-6))
        link.idle()
        link.send(NAMES[0], Work(0, START, steps=1))
        lost = link.receive(link.now_s() + 1).lost
    assert "expired" in lost[NAMES[0]]


def test_the_sender_is_who_was_asked_whatever_the_answer_says():
    with InProcessGrid(named(["a", "b"]), 2) as grid:
        link = FlowerLink(grid)
        assert link.idle() == ["a", "b"]
        link.send("b", Work(0, START, steps=1))
        assert link.idle() == ["a"]
        (update,) = link.receive(link.now_s() + 1).updates
        assert update.peer == "b"
        assert link.idle() == ["a", "b"]


def test_a_taken_name_is_refused_until_its_holder_leaves(caplog):
    with InProcessGrid(named(["a", "a", "b"]), 3) as grid:
        first, second, third = grid.get_node_ids()
        roster = Roster(grid)
        assert roster.look() == {"a": first, "b": third}
        assert "taken" in roster.refused[second]
        assert caplog.text.count("takes no part") == 1
        grid.offline.add(first)
        assert roster.look() == {"a": second, "b": third}
        assert not roster.refused


def test_pinned_names_are_not_asked_and_nobody_else_gets_them():
    with InProcessGrid(named(["a", "b", "c"]), 3) as grid:
        first, second, third = grid.get_node_ids()
        roster = Roster(grid, pinned={third: "a"})
        assert roster.look() == {"a": third, "b": second}
        assert first in roster.refused
        assert grid.handled == 2


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../up", "-x"])
def test_odd_names_are_refused(name):
    with InProcessGrid(named([name, "b"]), 2) as grid:
        assert list(Roster(grid).look()) == ["b"]


def test_nodes_that_do_not_know_their_name_take_no_part():
    plain = ClientApp()
    with InProcessGrid(plain, 1) as grid:
        roster = Roster(grid)
        assert roster.look() == {}
        roster.look()
        assert grid.handled == 1  # asked once
        (reason,) = roster.refused.values()
        assert "whoami" in reason


def test_no_work_starts_before_all_that_are_waited_for_were_there():
    with InProcessGrid(line_client(), 3) as grid:
        last = list(grid.get_node_ids())[2]
        grid.offline.add(last)
        link = FlowerLink(grid, LinkLimits(wait_for=3, poll_s=0.001, look_s=0.0))
        assert link.idle() == []
        assert not link.receive(link.now_s() + 0.01).updates
        grid.offline.clear()
        link.receive(link.now_s() + 60)  # ends early: somebody came
        assert link.idle() == NAMES
        grid.offline.add(last)
        assert link.idle() == NAMES[:2]


def test_nobody_at_work_for_long_ends_the_run():
    with InProcessGrid(ClientApp(), 2) as grid:
        link = FlowerLink(grid, QUICK)
        link.idle()
        with pytest.raises(QuorumError, match="2 refused"):
            link.receive(link.now_s() + 60)


def test_after_a_restart_work_goes_out_again_and_time_goes_on():
    with InProcessGrid(line_client(), 2) as grid:
        link = FlowerLink(grid, QUICK)
        work = Work(0, START, steps=1)
        gone = peer_name(7)
        link.resume({NAMES[0]: Sent(work, 5.0), gone: Sent(work, 5.0)}, 1000.0)
        assert 1000.0 <= link.now_s() < 1010.0
        assert link.idle() == [NAMES[1]]
        (update,) = link.receive(link.now_s() + 10).updates
        assert update.peer == NAMES[0]
        assert link.idle() == NAMES[:2]
        time.sleep(QUICK.grace_s)
        assert link.receive(link.now_s() + 10).lost == {gone: "is not online"}


def test_a_broken_superlink_is_a_lost_peer():
    class Broken(InProcessGrid):
        def get_node_ids(self):
            raise ConnectionResetError("gone")

    with Broken(line_client(), 1) as grid, pytest.raises(PeerLostError, match="gone"):
        FlowerLink(grid).idle()


def test_names_come_from_the_nodes_own_configuration():
    with InProcessGrid(line_client(), 2) as grid:
        context = grid._context(list(grid.get_node_ids())[1])
        assert own_name(context) == peer_name(1)
        context.node_config = {"peer": "site-b", "partition-id": 1}
        assert own_name(context) == "site-b"
        context.node_config = {}
        assert own_name(context) == f"node-{context.node_id}"


def test_reasons_are_one_line():

    assert (
        reason_of(Error(2, "a\n b" + "c" * 999))[:28] == "raised an exception: a bcccc"
    )
    assert len(reason_of(Error(2, "c" * 999))) < 600
    assert reason_of(Error(77)) == "failed with code 77"
