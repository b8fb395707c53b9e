"""Shared-seed models from facts in logs: only what is vouched for is added."""

import pytest
import torch

from fedcore.errors import ConfigError
from fedcore.orderfree import Origin, Withdrawal, apply, begin, encode_fact, fact_of
from fedcore.pool import Pool
from p2p.state.bodies import Run, RunFact
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
