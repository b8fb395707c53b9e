"""Every strategy that needs only sums: the same bits with aggregators and edges."""

import pytest

from fedcore.coordinator import Coordinator, Rules
from fedcore.gate import Gate
from fedcore.hierarchy.aggregate import InTurn
from fedcore.hierarchy.edge import Branch, Edge
from fedcore.pacing import Synchronous
from fedcore.params import digest
from sims.world.virtual import VirtualLink
from strategies import STRATEGIES
from tests.cases import TRAINER, rules_of
from tests.e2e.test_same_everywhere import PACER, ROUNDS, in_the_loop, start, tasks_of

pytestmark = pytest.mark.slow  # many, and each takes a while

SUMS = [name for name, make in STRATEGIES.items() if make.needs == "sum"]
every_sum = pytest.mark.parametrize("name", SUMS)


@every_sum
def test_summed_as_answers_come(name):
    rules = Rules(rules_of(name, steps=3), PACER, aggregator=InTurn(2))
    link = VirtualLink(TRAINER, tasks_of(name))
    state = Coordinator(rules, link).run(start(name), ROUNDS)
    assert digest(state.params) == in_the_loop(name)


def form(work):
    return digest(work.params), digest(work.aux), tuple(sorted(work.hints.items()))


@every_sum
def test_below_edges(name):
    strategy, tasks = rules_of(name, steps=3), list(tasks_of(name).items())
    state = strategy.init(start(name))
    if len({form(strategy.work(state, peer)) for peer, _ in tasks}) > 1:
        pytest.skip("an edge has one work for all its peers")
    edges = {"edge-0": Branch(dict(tasks[:2])), "edge-1": Branch(dict(tasks[2:]))}
    link = VirtualLink(Edge(TRAINER, expects=strategy.expects), edges)
    rules = Rules(strategy, Synchronous(cohort=2, quorum=2), Gate(ring=True))
    state = Coordinator(rules, link).run(start(name), ROUNDS)
    assert digest(state.params) == in_the_loop(name)
