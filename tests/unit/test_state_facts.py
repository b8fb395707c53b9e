"""Shared-seed models from facts in logs: only what is vouched for is added."""

import pytest
import torch

from fedcore.errors import ConfigError
from fedcore.orderfree import Origin, Withdrawal, apply, begin, encode_fact, fact_of
from fedcore.pool import Pool
from p2p.state.bodies import Count, Run, RunFact
from p2p.state.chain import Entry, Kind
from p2p.state.facts import Models, origin_text, read_origin
from p2p.state.fold import Fold
from tests.state_cases import copied, logs, merge, pen_of, said
from tests.state_world import World

ORIGIN = Origin(Pool(8, seed=7), "ab" * 32, -0.5)
FOUNDER, ANNA, BEN = pen_of(0), pen_of(1), pen_of(2)


def line(*numbers):
    return torch.tensor([*numbers, *[0] * (8 - len(numbers))], dtype=torch.int64)


def run(origin=ORIGIN, lamport=1):
    body = Run("r", lamport, "", origin_text(origin) if origin else "")
    return Entry(Kind.RUN, body.encode())


def facts(pen, *lines, origin=ORIGIN):
    """Return the entries by which ``pen`` adds ``lines``."""
    model, found = begin(origin), []
    for numbers in lines:
        fact = fact_of(model, pen.writer, numbers)
        model = apply(model, fact)
        found.append(Entry(Kind.FACT, RunFact("r", encode_fact(fact)).encode()))
    return found


@pytest.fixture
def held():
    found = logs()
    said(found, FOUNDER, run())
    said(found, ANNA, *facts(ANNA, line(1, 2), line(0, 5)))
    said(found, BEN, *facts(BEN, line(-3)))
    return found


def models(held):
    return Models(Fold(held))


def test_an_origin_is_named_in_words():
    assert read_origin(origin_text(ORIGIN)) == ORIGIN


def test_facts_add_up(held):
    model = models(held).model("r")
    assert model.total().tolist() == [-2, 7, 0, 0, 0, 0, 0, 0]
    assert model.vector() == {ANNA.writer: 2, BEN.writer: 1}


def test_later_facts_are_added_to_what_was_added(held):
    fold = Fold(held)
    found = Models(fold)
    first = found.model("r")
    for new in said(held, ANNA, *facts(ANNA, line(1, 2), line(0, 5), line(100))[2:]):
        fold.take(new.opening, new.before.length, new.rows)
    second = found.model("r")
    assert second.total().tolist()[0] == 98
    assert first.total().tolist()[0] == -2


def test_a_fact_in_anothers_name_is_passed_over(held):
    said(held, BEN, facts(ANNA, line(1, 2), line(0, 5), line(50))[2])
    found = models(held)
    assert found.model("r").total().tolist()[:2] == [-2, 7]
    [(place, why)] = found.refused("r").items()
    assert place == (BEN.writer, 3)
    assert "signed" in why


def test_facts_of_another_origin_are_passed_over(held):
    other = Origin(Pool(8, seed=8), "ab" * 32, -0.5)
    said(held, pen_of(3), *facts(pen_of(3), line(9), origin=other))
    found = models(held)
    assert found.model("r").total().tolist()[0] == -2
    assert len(found.refused("r")) == 1


def test_a_run_that_changes_its_origin_begins_anew(held):
    other = Origin(Pool(8, seed=8), "ab" * 32, -0.5)
    said(held, FOUNDER, run(other, lamport=2))
    assert models(held).model("r").total().tolist() == [0] * 8


def test_facts_that_came_before_their_run_count():
    held = logs()
    said(held, ANNA, *facts(ANNA, line(4)))
    with pytest.raises(ConfigError, match="no run is called 'r'"):
        models(held).model("r")
    said(held, FOUNDER, run())
    assert models(held).model("r").total().tolist()[0] == 4


def test_a_run_without_a_model_has_none(held):
    said(held, FOUNDER, run(None, lamport=2))
    with pytest.raises(ConfigError, match="names no shared-seed model"):
        models(held).model("r")


def test_only_admins_withdraw(held):
    entry = Entry(
        Kind.FACT, RunFact("r", encode_fact(Withdrawal(ORIGIN, BEN.writer))).encode()
    )
    said(held, ANNA, entry)
    assert models(held).model("r").total().tolist()[0] == -2
    said(held, FOUNDER, entry)
    assert models(held).model("r").total().tolist()[0] == 1


def test_what_a_liar_added_after_its_fork_goes(held):
    twin = copied(held)
    more = facts(BEN, line(-3), line(40))
    said(held, BEN, more[1])
    said(twin, BEN, facts(BEN, line(-3), line(41))[1])
    assert models(held).model("r").total().tolist()[0] == 38
    merge(held, twin)
    assert models(held).model("r").total().tolist()[0] == -2


def test_after_a_fork_only_what_its_writer_added_is_added_up_anew(held, monkeypatch):
    twin = copied(held)
    more = facts(BEN, line(-3), line(40), line(7))
    said(held, BEN, more[1])
    said(twin, BEN, more[2])
    found = models(held)
    assert found.model("r").total().tolist()[:2] == [38, 7]
    merge(held, twin)
    cleo = pen_of(3)
    said(held, cleo, *facts(cleo, line(1)))
    found.fold.take(cleo.opening, 1, held.store.rows(cleo.writer, 1, 2))
    added = []

    def watched(model, fact, *signer):
        added.append(fact.peer)
        return apply(model, fact, *signer)

    monkeypatch.setattr("fedcore.orderfree.apply", watched)
    assert found.model("r").total().tolist()[:2] == [-1, 7]
    assert sorted(added) == sorted([BEN.writer, cleo.writer])
    assert found.model("r").vector() == models(held).model("r").vector()


def test_a_withdrawal_that_was_cut_off_withdraws_nothing(held):
    twin = copied(held)
    away = Withdrawal(ORIGIN, BEN.writer)
    entry = Entry(Kind.FACT, RunFact("r", encode_fact(away)).encode())
    said(held, FOUNDER, entry)
    said(twin, FOUNDER, run(lamport=2))
    found = models(held)
    assert found.model("r").total().tolist()[0] == 1
    merge(held, twin)
    assert found.model("r").total().tolist()[0] == -2


def test_what_a_copied_disk_had_added_is_added_again_under_other_names():
    world = World(3, 3)
    world.write(world.nodes[0], [(Kind.RUN, run().body)])
    world.settle()
    node = world.nodes[1]
    twin = world.node(1, node.store.copy())
    world.nodes.append(twin)
    world.start(twin)
    world.run(world.now_s + 3)
    pen = node.replica.author.pen
    for one, numbers in ((node, (1, 10)), (twin, (100, 1000))):
        made = facts(pen, *[line(number) for number in numbers])
        world.write(one, [(entry.kind, entry.body) for entry in made])
    world.settle()
    for one in world.nodes:
        assert one.replica.models.model("r").total().tolist()[0] == 1111
        assert not one.replica.models.refused("r")


def owing(number, *entries):
    """Return a world of one peer that has to say ``entries`` again, as after a fork."""
    world = World(31, 1)
    [node] = world.nodes
    node.store.freeze(node.name, 1, b"", b"", [*entries])
    node.store.commit()
    world.crash(node)
    world.start(node)
    return world, node


def test_a_run_and_its_facts_that_were_cut_off_are_both_said_again():
    mine = facts(FOUNDER, line(1), line(2))
    world, node = owing(0, run(), *mine)
    world.run(world.now_s + 5.0)
    assert node.replica.models.model("r").total().tolist() == [3, *[0] * 7]
    assert node.store.owed() == []


def test_facts_of_a_run_that_is_not_known_yet_wait_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("p2p.state.facts.WAITS", 8)
    mine = facts(FOUNDER, line(1))
    world, node = owing(0, *mine)
    world.run(world.now_s + 3.0)
    assert node.store.owed() == mine
    world.write(node, [(Kind.RUN, run().body)])
    world.run(world.now_s + 3.0)
    assert node.replica.models.model("r").total().tolist() == [1, *[0] * 7]
    world, node = owing(0, *mine, Entry(Kind.COUNT, Count("last", 1).encode()))
    world.run(world.now_s + 30.0)
    assert node.store.owed() == []
    assert set(node.replica.view.counters) == {"last"}
