"""Base models by name: kept, checked, asked for once, and never taken on trust."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn

from fedcore.bases import (
    DRAFT,
    HELD,
    Bases,
    Shelf,
    check_digest,
    checked_name,
    down_bytes,
    name_of,
)
from fedcore.coordinator import Coordinator
from fedcore.desk import Rules, Sent
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, ProtocolError
from fedcore.flower import FlowerLink, LinkLimits, client_app, client_app_of
from fedcore.flower.bases import BASE, LACKS, lacking, put_base, shelf_of
from fedcore.flower.edge import edge_app, relay_app
from fedcore.flower.records import pack_update, pack_work, unpack_work
from fedcore.gate import Gate
from fedcore.hierarchy.edge import Branch
from fedcore.journal import FileJournal
from fedcore.pacing import Synchronous
from fedcore.params import Params, add, digest
from fedcore.partial import mean_of
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work, peer_name
from sims.engine import Job
from sims.engine.forked import Forked
from sims.engine.loop import Loop
from sims.engine.slab import Slab
from sims.flower.grid import InProcessGrid
from sims.world.network import Uniform
from sims.world.virtual import VirtualLink

SIDE = 128  # 64 KiB of weights: the smallest model that goes by name
QUICK = LinkLimits(poll_s=0.001, look_s=0.0)


def weights(seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(SIDE, SIDE, generator=g), **more}


START = weights()
NAME = digest(START)


@dataclass(frozen=True)
class Wide:
    """A task with a model of 64 KiB; ``brings`` gives the model its weights."""

    index: int = 0
    brings: bool = False
    examples: int = 2
    epoch_steps: int = 1

    def model(self):
        model = nn.Linear(SIDE, SIDE, bias=False)
        with torch.no_grad():
            model.weight.copy_(START["weight"] if self.brings else torch.zeros(()))
        return model


@dataclass(frozen=True)
class Moved:
    version: int
    base: Params
    move: Params

    @property
    def params(self):
        return add(self.base, self.move)


@dataclass(frozen=True)
class FromOneStart:
    """Every peer starts from the first model and is told how far it has moved."""

    name: str = NAME
    needs: str = "sum"

    def init(self, params):
        return Moved(0, params, {"weight": torch.zeros(1, SIDE)})

    def work(self, state, peer):
        hints = {"base": self.name}
        return Work(state.version, state.base, 1, aux=state.move, hints=hints)

    def expects(self, work):
        return work.aux

    def apply(self, state, updates):
        move = add(state.move, mean_of(updates))
        return Moved(state.version + 1, state.base, move)


def trainer(task, work, peer):
    seen = add(work.params, work.aux)["weight"]
    move = {"weight": seen[task.index : task.index + 1] * 0.5}
    return Update(peer, work.version, move, task.examples)


class Counting(InProcessGrid):
    """Counts messages of work by node and by whether a model went along."""

    def __init__(self, client, nodes, **settings):
        super().__init__(client, nodes, **settings)
        self.whole, self.named = Counter(), Counter()

    def push_messages(self, messages):
        messages = list(messages)
        for message in messages:
            if "work" in message.content:
                into = self.whole if "arrays" in message.content else self.named
                into[message.metadata.dst_node_id] += 1
        return super().push_messages(messages)

    def counts(self):
        """Return (messages by name, messages with the model), which all nodes had."""
        ids = self.get_node_ids()
        (both,) = {(self.named[i], self.whole[i]) for i in ids}
        return both


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    """Keep base models of these tests out of the user's own folder."""
    folder = tmp_path / "bases"
    monkeypatch.setattr("fedcore.flower.bases.default_folder", lambda: folder)
    return Shelf(folder)


def app(**settings):
    return client_app(
        lambda c: Wide(int(c.node_config["partition-id"]), **settings), trainer
    )


def run(grid, rounds=3, strategy=None, nodes=2):
    rules = Rules(
        strategy or FromOneStart(), Synchronous(cohort=nodes), Gate(ring=True)
    )
    state = Coordinator(rules, FlowerLink(grid, QUICK)).run(START, rounds)
    return digest(state.params)


def in_the_loop(rounds=3, nodes=2):
    tasks = {peer_name(i): Wide(i) for i in range(nodes)}
    state = run_rounds(FromOneStart(), trainer, tasks, START, rounds)
    return digest(state.params)


# --- names -------------------------------------------------------------------


def test_a_large_model_goes_by_its_name_and_then_only_the_rest_is_counted():
    work = FromOneStart().work(FromOneStart().init(START), "a")
    assert name_of(work) == NAME
    assert down_bytes(work) == SIDE * 4
    assert down_bytes(replace(work, hints={})) == SIDE * SIDE * 4 + SIDE * 4


def test_a_small_model_goes_whole():
    small = {"weight": START["weight"][1:]}
    work = Work(0, small, hints={"base": digest(small)})
    assert name_of(work) is None
    assert down_bytes(work) == (SIDE - 1) * SIDE * 4


@pytest.mark.parametrize("name", ["", "../" + "a" * 61, "A" * 64, "a" * 63, 7])
def test_a_name_is_a_digest_and_nothing_else(name, shelf):
    for use in (checked_name, shelf.get, lambda n: shelf.put(n, START)):
        with pytest.raises(ProtocolError, match="SHA-256"):
            use(name)
    with pytest.raises(ProtocolError, match="SHA-256"):
        name_of(Work(0, START, hints={"base": name}))


def test_another_model_than_the_name_says_is_refused_by_both_names():
    other = weights(1)
    with pytest.raises(ProtocolError, match=f"{NAME[:16]} is {digest(other)[:16]}"):
        check_digest(NAME, other)


# --- the shelf ---------------------------------------------------------------


def test_what_is_kept_comes_back_bit_for_bit(shelf):
    half = torch.randn(3, 2).to(torch.bfloat16)
    tree = weights(half=half, view=torch.arange(12.0).view(3, 4).T, one=torch.tensor(1))
    name = digest(tree)
    assert shelf.get(name) is None
    shelf.put(name, tree)
    assert digest(shelf.get(name)) == name
    assert [p.name for p in shelf.folder.iterdir()] == [f"{name}.safetensors"]
    assert shelf.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["torn", "changed", "empty", "other"])
def test_a_damaged_file_is_left_out_and_removed(shelf, damage, caplog):
    shelf.put(NAME, START)
    path = shelf.folder / f"{NAME}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if damage == "other":
        other = weights(1)
        shelf.put(digest(other), other)
        (shelf.folder / f"{digest(other)}.safetensors").replace(path)
    else:
        path.write_bytes({"torn": data[:999], "changed": data, "empty": b""}[damage])
    assert shelf.get(NAME) is None
    assert "left out" in caplog.text
    assert not path.exists()


def test_the_model_used_longest_ago_makes_room(shelf):
    trees = [weights(i) for i in range(4)]
    names = [digest(tree) for tree in trees]
    shelf = replace(shelf, max_bytes=int(3.5 * SIDE * SIDE * 4))
    for age, (name, tree) in enumerate(zip(names[:3], trees, strict=False)):
        shelf.put(name, tree)
        os.utime(shelf.folder / f"{name}.safetensors", (age, age))
    assert shelf.get(names[0])  # and so it is the newest now
    shelf.put(names[3], trees[3])
    assert [shelf.get(name) is not None for name in names] == [True, False, True, True]


def test_what_a_killed_program_left_half_written_goes(shelf):
    shelf.folder.mkdir()
    old, new = shelf.folder / f"{DRAFT}old", shelf.folder / f"{DRAFT}new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    shelf.put(NAME, START)
    assert not old.exists()
    assert new.exists(), "another program may be writing it"
    assert digest(shelf.get(NAME)) == NAME


def test_what_cannot_be_kept_is_not_and_nothing_breaks(shelf, tmp_path, caplog):
    replace(shelf, max_bytes=10).put(NAME, START)
    assert not shelf.folder.exists()
    (tmp_path / "file").touch()
    blocked = Shelf(tmp_path / "file" / "bases")
    blocked.put(NAME, START)
    assert "cannot keep" in caplog.text
    assert blocked.get(NAME) is None


def test_the_node_says_where_models_are_kept(shelf, tmp_path):
    assert shelf_of({}) == shelf
    assert shelf_of({"bases": ""}) is None
    assert shelf_of({"bases": str(tmp_path)}) == Shelf(tmp_path)


# --- a process's own ---------------------------------------------------------


def test_a_model_is_found_in_memory_then_on_the_shelf_then_with_the_task(shelf):
    bases = Bases()
    assert bases.find(NAME, Wide(), shelf) is None
    assert bases.take(NAME, START, shelf) is START
    assert bases.find(NAME, Wide(), None) is START
    assert digest(Bases().find(NAME, Wide(), shelf)) == NAME
    assert digest(Bases().find(NAME, Wide(brings=True), None)) == NAME


def test_a_task_that_does_not_bring_a_model_is_not_asked_twice():
    @dataclass(frozen=True)
    class Asked(Wide):
        def model(self):
            asked.append(1)
            return super().model()

    asked, bases = [], Bases()
    for _ in range(3):
        assert bases.find(NAME, Asked(), None) is None
    assert len(asked) == 1


def test_memory_holds_the_models_used_last():
    bases, trees = Bases(), [weights(i) for i in range(HELD + 1)]
    names = [digest(tree) for tree in trees]
    for name, tree in zip(names[:HELD], trees, strict=False):
        bases.take(name, tree, None)
    assert bases.find(names[0], Wide(), None)
    bases.take(names[HELD], trees[HELD], None)
    assert [n in bases.held for n in names] == [True, False, True]


def test_a_model_under_a_wrong_name_is_neither_used_nor_kept(shelf):
    bases = Bases()
    with pytest.raises(ProtocolError, match="came as base"):
        bases.take(NAME, weights(1), shelf)
    assert not bases.held
    assert shelf.get(NAME) is None


# --- through Flower ----------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_the_model_goes_to_a_node_once_and_the_bits_are_those_of_the_loop(workers):
    with Counting(app(), 2, workers=workers) as grid:
        assert run(grid) == in_the_loop()
        assert grid.counts() == (3, 1)


def test_a_task_that_brings_the_model_never_gets_it():
    with Counting(app(brings=True), 2) as grid:
        assert run(grid) == in_the_loop()
        assert grid.counts() == (3, 0)


def test_a_new_process_finds_it_on_the_disk():
    with InProcessGrid(app(), 2) as grid:
        run(grid, rounds=1)
    with Counting(app(), 2) as grid:
        assert run(grid) == in_the_loop()
        assert grid.counts() == (3, 0)


def test_a_node_that_keeps_nothing_is_asked_twice_and_then_gets_it_at_once():
    def forgetting(message, context):
        context.node_config["bases"] = ""
        return app()(message, context)

    with Counting(forgetting, 2) as grid:
        assert run(grid, rounds=5) == in_the_loop(5)
        assert grid.counts() == (2, 5)


def test_a_model_without_a_name_goes_every_time():
    @dataclass(frozen=True)
    class Nameless(FromOneStart):
        def work(self, state, peer):
            return replace(super().work(state, peer), hints={})

    with Counting(app(brings=True), 2) as grid:
        assert run(grid, strategy=Nameless()) == in_the_loop()
        assert grid.counts() == (0, 3)


def test_who_joins_late_gets_the_model_and_how_far_it_has_come():
    own = [app() for _ in range(3)]  # three processes, as it were, without a disk

    def client(message, context):
        context.node_config["bases"] = ""
        return own[context.node_config["partition-id"]](message, context)

    rules, versions = FromOneStart(), []
    with Counting(client, 3) as grid:
        early, _, late = grid.get_node_ids()
        grid.offline.add(late)

        def watch(fold):
            versions.append(len(fold.folded))
            if fold.state.version == 4:
                grid.offline.clear()

        pacer = Synchronous(cohort=3, quorum=2, gather_s=0.0)
        link = FlowerLink(grid, QUICK)
        shell = Coordinator(Rules(rules, pacer, Gate(ring=True)), link, watch=watch)
        got = shell.run(START, 6)
        assert (grid.named[early], grid.whole[early]) == (6, 1)
        assert (grid.named[late], grid.whole[late]) == (2, 1)
    assert [n for n in versions if n] == [2] * 4 + [3] * 2
    want = rules.init(START)
    for count in [2] * 4 + [3] * 2:
        works = [(i, peer_name(i)) for i in range(count)]
        told = [trainer(Wide(i), rules.work(want, p), p) for i, p in works]
        want = rules.apply(want, told)
    assert digest(got.params) == digest(want.params)


def answering(records):
    """Return a client that answers all work with ``records``."""
    honest = app()

    def client(message, context):
        if "work" in message.content:
            return Message(records, reply_to=message)
        return honest(message, context)

    return client


def lost_of(client):
    with Counting(client, 1) as grid:
        link = FlowerLink(grid, QUICK)
        link.idle()
        strategy = FromOneStart()
        link.send(peer_name(0), strategy.work(strategy.init(START), peer_name(0)))
        arrivals = link.receive(link.now_s() + 10)
        while not (arrivals.lost or arrivals.updates):
            arrivals = link.receive(link.now_s() + 10)
        assert link.idle() == [peer_name(0)]
        return arrivals.lost.get(peer_name(0)), grid.counts()


def test_who_lacks_it_for_ever_is_lost_after_two_attempts():
    reason, counts = lost_of(answering(lacking(NAME)))
    assert reason == f"lacks base {NAME[:16]} after it was sent whole"
    assert counts == (1, 1)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (lacking("a" * 64), "not asked to use"),
        (lacking("../../x"), "SHA-256"),
        (RecordDict({LACKS: ConfigRecord()}), "not asked to use"),
        (RecordDict({LACKS: ConfigRecord({BASE: 1})}), "SHA-256"),
    ],
)
def test_odd_answers_about_models_are_refused(records, told):
    reason, counts = lost_of(answering(records))
    assert told in reason
    assert counts == (1, 0)


def test_nobody_lacks_a_model_that_was_sent_without_a_name():
    with InProcessGrid(answering(lacking(NAME)), 1) as grid:
        link = FlowerLink(grid, QUICK)
        link.idle()
        link.send(peer_name(0), Work(0, START, 1))
        assert "not asked" in link.receive(link.now_s() + 10).lost[peer_name(0)]


def test_an_answer_instead_of_asking_is_an_answer():
    update = Update("x", 0, {"weight": torch.zeros(1, SIDE)}, 1)
    assert lost_of(answering(pack_update(update))) == (None, (1, 0))


def test_a_strategy_that_names_another_model_is_stopped_before_anything_is_sent():
    with (
        Counting(app(), 2) as grid,
        pytest.raises(ConfigError, match="hint base is wrong"),
    ):
        run(grid, strategy=FromOneStart("a" * 64))
    assert grid.counts() == (0, 0)


def refused_by_the_node(records):
    with InProcessGrid(app(brings=True), 1) as grid:
        (node,) = grid.get_node_ids()
        ids = grid.push_messages([Message(records, node, "train")])
        (reply,) = grid.pull_messages(ids)
        assert reply.has_error()
        return reply.error.reason


def test_a_node_refuses_a_model_under_a_wrong_name(shelf):
    records = pack_work(Work(0, weights(1), 1))
    put_base(records, NAME, whole=True)
    assert "came as base" in refused_by_the_node(records)
    assert shelf.get(NAME) is None


def test_a_node_refuses_a_name_that_is_a_path():
    records = pack_work(Work(0, START, 1))
    put_base(records, "../../etc/passwd", whole=False)
    assert "SHA-256" in refused_by_the_node(records)


def test_work_with_neither_model_nor_name_is_refused():
    records = pack_work(Work(0, START, 1))
    del records["arrays"]
    with pytest.raises(ProtocolError, match="arrays"):
        unpack_work(records)


def test_after_a_restart_work_in_flight_goes_out_again_by_name():
    strategy = FromOneStart()
    work = strategy.work(strategy.init(START), peer_name(0))
    with Counting(app(), 2) as grid:
        link = FlowerLink(grid, QUICK)
        link.resume({peer_name(i): Sent(work, 0.0) for i in range(2)}, 5.0)
        link.idle()
        heard = []
        while len(heard) < 2:
            heard += link.receive(link.now_s() + 10).updates
        assert sorted(u.peer for u in heard) == [peer_name(0), peer_name(1)]
        assert grid.counts() == (1, 1)


@pytest.mark.slow
def test_on_ray_too(tmp_path):
    from flwr.serverapp import ServerApp

    from sims.flower.ray import run_on_ray

    folder, server, got = str(tmp_path / "ray"), ServerApp(), {}

    def both(context):
        context.node_config["bases"] = (
            folder  # what the fixture does is not known there
        )
        return Wide(int(context.node_config["partition-id"])), trainer

    @server.main()
    def main(grid, context):
        limits = LinkLimits(wait_for=2, poll_s=0.01)
        rules = Rules(FromOneStart(), Synchronous(cohort=2), Gate(ring=True))
        state = Coordinator(rules, FlowerLink(grid, limits)).run(START, 3)
        got["sha256"] = digest(state.params)

    run_on_ray(server, client_app_of(both), 2)
    assert got == {"sha256": in_the_loop()}
    assert digest(Shelf(Path(folder)).get(NAME)) == NAME


@pytest.mark.parametrize("payloads", [True, False])
@pytest.mark.parametrize(("pulls", "again"), [(3, 2), (7, 0)])  # 1: names, 2: lacks
def test_a_coordinator_that_dies_goes_on_to_the_same_bits(
    tmp_path, payloads, pulls, again
):
    class Dying(Counting):
        def pull_messages(self, ids):
            self.left = getattr(self, "left", pulls) - 1
            if not self.left:
                raise KeyboardInterrupt
            return super().pull_messages(ids)

    def going_on(grid):
        rules = Rules(FromOneStart(), Synchronous(cohort=2), Gate(ring=True))
        disk = RealDisk(tmp_path / "run")
        journal = FileJournal(disk, "one run", payloads, gap_s=0.0)
        return Coordinator(rules, FlowerLink(grid, QUICK), journal).run(START, 6)

    with Dying(app(), 2) as grid, pytest.raises(KeyboardInterrupt):
        going_on(grid)
    assert sum(grid.whole.values()) == 2
    with Counting(app(), 2) as grid:
        assert digest(going_on(grid).params) == in_the_loop(6)
        assert sum(grid.whole.values()) == again  # unless it lies in the nodes' folder


# --- edges -------------------------------------------------------------------


def below(index):
    return {peer_name(2 * index + i): Wide(2 * index + i) for i in range(2)}


def test_an_edge_takes_the_model_by_name():
    edges = edge_app(
        lambda c: Branch(below(int(c.node_config["partition-id"]))),
        trainer,
        FromOneStart().expects,
    )
    with Counting(edges, 2) as grid:
        assert run(grid) == in_the_loop(nodes=4)
        assert grid.counts() == (3, 1)


def test_an_edge_with_peers_behind_a_grid_passes_the_name_on(shelf):
    with Counting(app(), 2) as lower:
        link, rules = FlowerLink(lower, QUICK), FromOneStart()
        relay = relay_app(lambda c: Wide(), link, 2, rules.expects)
        with Counting(relay, 1) as upper:
            assert run(upper, nodes=1) == in_the_loop(nodes=2)
            assert upper.counts() == (3, 1)
        assert lower.counts() == (3, 0)  # the edge has put it on the shelf they share


# --- simulation --------------------------------------------------------------


def test_a_simulated_peer_downloads_all_but_the_model():
    tasks = {peer_name(i): Wide(i) for i in range(2)}
    network = Uniform(latency_s=0.0, down_bytes_per_s=SIDE * 4.0, up_bytes_per_s=inf)
    link = VirtualLink(trainer, tasks, network=network)
    rules = Rules(FromOneStart(), Synchronous(cohort=2))
    state = Coordinator(rules, link).run(START, 3)
    assert digest(state.params) == in_the_loop()
    assert (link.down_bytes, link.up_bytes) == (6 * SIDE * 4, 6 * SIDE * 4)
    assert link.now_s() == pytest.approx(3 * (1.0 + 1.0))  # down, and one step


def test_workers_get_a_model_with_a_name_once(monkeypatch):
    written, write = [], Slab.write
    monkeypatch.setattr(Slab, "write", lambda *a: written.append(a[1]) or write(*a))
    tasks = {peer_name(i): Wide(i) for i in range(5)}
    alone = Loop(trainer, tasks)
    other = weights(1)
    with Forked(alone, 2) as engine:
        for version, base in enumerate([START, START, other, other, START]):
            move = {"weight": torch.full((1, SIDE), float(version))}
            hints = {"base": digest(base)}
            work = Work(version, base, 1, aux=move, hints=hints)
            jobs = [Job(peer, work) for peer in tasks]
            plain = Job(peer_name(0), Work(version, move, 1, aux=move))
            for batch in (jobs, jobs[:1], [*jobs, plain]):
                told = [digest(u.payload) for u in engine.run(batch)]
                assert told == [digest(u.payload) for u in alone.run(batch)]
    assert [sum(t is b for t in written) for b in (START, other)] == [2, 1]


def test_a_model_that_was_half_written_over_is_written_again(monkeypatch):
    write, other = Slab.write, weights(1)

    def full(slab, tree, form, start):
        end = write(slab, tree, form, start)
        if tree is other:
            raise MemoryError
        return end

    def jobs(base):
        move = {"weight": torch.zeros(1, SIDE)}
        work = Work(0, base, 1, aux=move, hints={"base": digest(base)})
        return [Job(peer, work) for peer in tasks]

    tasks = {peer_name(i): Wide(i) for i in range(2)}
    with Forked(Loop(trainer, tasks), 2) as engine:
        before = [digest(u.payload) for u in engine.run(jobs(START))]
        monkeypatch.setattr(Slab, "write", full)
        with pytest.raises(MemoryError):
            engine.run(jobs(other))
        assert [digest(u.payload) for u in engine.run(jobs(START))] == before
