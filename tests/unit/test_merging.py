"""Merging adapters: hand-made sums, exactness, ranks, and the same bits everywhere."""

import pytest
import torch
import trio
import trio.testing

from clients.trainers.sgd import SGD
from fedcore.coordinator import coordinate
from fedcore.errors import ConfigError, ProtocolError
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.gate import Gate
from fedcore.pacing import Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import Update, Work, peer_name
from fedcore.task import load, params_of
from p2p.memory import MemoryNetwork
from p2p.node import Node
from privacy.local import LocalGaussian
from sims.flower.grid import InProcessGrid
from sims.line import Line
from sims.runs.personal import personal
from sims.world.virtual import VirtualLink
from strategies.merging.flora import Flora
from strategies.merging.grades import USUAL, Grades
from strategies.merging.lego import Lego
from strategies.merging.pairs import Pair, cut, filled, pairs_of
from tests.e2e.adapted import AdaptedTask
from tests.e2e.normed import Normed

UP, DOWN = "0.lora_B.default.weight", "0.lora_A.default.weight"
PAIR = Pair(UP, DOWN)
TRAINER = SGD(lr=0.1)
PEERS = 4


def names(up, down):
    return {UP: torch.tensor(up), DOWN: torch.tensor(down)}


def product(params):
    return params[UP].double() @ params[DOWN].double()


def start(rank=4):
    params = params_of(AdaptedTask(0, rank=rank).model())
    g = torch.Generator().manual_seed(5)
    drawn = {n: torch.randn(t.shape, generator=g) / 2 for n, t in params.items()}
    return {**drawn, UP: torch.zeros_like(drawn[UP])}


def answers(rules, state, tasks):
    return [TRAINER(task, rules.work(state, p), p) for p, task in tasks.items()]


def tasks_of(rank=4):
    return {peer_name(i): AdaptedTask(i, rank=rank) for i in range(PEERS)}


# Names and forms.


def test_adapters_are_known_by_their_names():
    tree = {
        "m.q.lora_A.weight": torch.zeros(2, 3),
        "m.q.lora_B.weight": torch.zeros(4, 2),
        "e.lora_embedding_A.default": torch.zeros(2, 9),
        "e.lora_embedding_B.default": torch.zeros(3, 2),
        "conv.lora_A.x.weight": torch.zeros(2, 3, 5, 5),
        "conv.lora_B.x.weight": torch.zeros(7, 2, 1, 1),
        "lora_Abacus.weight": torch.zeros(3),
        "head.weight": torch.zeros(3, 3),
    }
    assert [p.down for p in pairs_of(tree)] == [
        "conv.lora_A.x.weight",
        "e.lora_embedding_A.default",
        "m.q.lora_A.weight",
    ]


@pytest.mark.parametrize("missing", [UP, DOWN])
def test_half_an_adapter_is_refused_by_name(missing):
    tree = {n: t for n, t in start().items() if n != missing}
    with pytest.raises(ConfigError, match=f"{missing}' is missing"):
        Flora().init(tree)


def test_halves_of_different_ranks_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"lora_B.*\(5, 3\).*lora_A.*\(4, 6\)"):
        Lego().init({UP: torch.zeros(5, 3), DOWN: torch.zeros(4, 6)})


@pytest.mark.slow
def test_adapters_of_a_language_model_are_found():
    """Four matrices of attention in four layers, under the names that PEFT gives."""
    from clients.tasks.lm.models import causal
    from clients.tasks.lm.tune import Tune, next_token

    torch.manual_seed(0)
    params = params_of(next_token(causal("glass"), Tune("lora", 4)))
    assert len(pairs_of(params)) * 2 == len(params) == 32
    assert {len(params[p.down]) for p in pairs_of(params)} == {4}
    assert Flora(ranks=2).init(params).sent[1].keys() == params.keys()


def test_cutting_and_filling_up():
    params = start()
    less = cut(params, [PAIR], 0, halvings=1)
    assert (less[UP].shape, less[DOWN].shape) == ((5, 2), (2, 6))
    back = filled(less, params, [PAIR])
    assert torch.equal(back[DOWN][:2], params[DOWN][:2])
    assert not back[DOWN][2:].any()
    assert cut(params, [PAIR], 9) is params
    assert cut(params, [PAIR], 2, halvings=5)[DOWN].shape == (1, 6)


# FLoRA by hand.


def test_the_mean_of_products_and_not_the_product_of_means():
    """One peer teaches one input, the other another; FedAvg would mix them up."""
    now = names([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    rules = Flora()
    one = Update("a", 0, names([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]), 1)
    two = Update("b", 0, names([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]), 3)
    after = rules.apply(rules.init(now), [one, two]).params
    want = torch.tensor([[0.25, 0.0], [0.0, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(product(after), want, atol=1e-7, rtol=0)
    naive = (one.payload[UP] + 3 * two.payload[UP]) / 4
    naive = naive @ ((one.payload[DOWN] + 3 * two.payload[DOWN]) / 4)
    assert (naive - want).abs().max() > 0.1


def test_the_best_of_the_rank_is_kept():
    """Four peers fill rank 5; what is lost are exactly the smallest singular values."""
    rules, g = Flora(), torch.Generator().manual_seed(1)
    params = start(rank=2)
    updates = [
        Update(
            f"p{i}",
            0,
            {n: torch.randn(t.shape, generator=g) for n, t in params.items()},
            1,
        )
        for i in range(4)
    ]
    want = sum(product(u.payload) for u in updates) / 4
    after = rules.apply(rules.init(params), updates).params
    lost = torch.linalg.svdvals(want)[2:].square().sum().sqrt()
    assert lost > 0.1
    torch.testing.assert_close((product(after) - want).norm(), lost, rtol=1e-5, atol=0)


def test_a_half_step_goes_half_way():
    rules, tasks = Flora(server_lr=0.5), tasks_of()
    state = rules.apply(rules.init(start()), answers(rules, rules.init(start()), tasks))
    updates = answers(rules, state, tasks)
    mean = sum(product(u.payload) for u in updates) / PEERS
    half = (mean + product(state.params)) / 2
    near = torch.linalg.svdvals(half)[4:].square().sum().sqrt() + 1e-6
    after = rules.apply(state, updates)
    assert (product(after.params) - half).norm() <= near


def test_units_left_over_can_still_learn():
    """One unit in the mean: the others have zeros in B, and directions in A."""
    rules, params = Flora(), start()
    update = {**params, UP: torch.zeros(5, 4)}
    update[UP][:, 0] = 1
    after = rules.apply(rules.init(params), [Update("a", 0, update, 1)]).params
    torch.testing.assert_close(product(after), product(update), atol=1e-6, rtol=0)
    assert not after[UP][:, 1:].any()
    gram = after[DOWN].double() @ after[DOWN].double().T
    size = params[DOWN].double().square().sum() / 4
    torch.testing.assert_close(gram, size * torch.eye(4).double(), atol=1e-5, rtol=0)


def test_all_else_is_averaged():
    rules, params = Flora(), start()
    other = {**params, "2.bias": torch.tensor([1.0]), "2.weight": torch.zeros(1, 5)}
    more = {**other, "2.bias": torch.tensor([4.0])}
    updates = [Update("a", 0, other, 1), Update("b", 0, more, 2)]
    after = rules.apply(rules.init(params), updates).params
    torch.testing.assert_close(after["2.bias"], params["2.bias"] + 3)


@pytest.mark.parametrize("rules", [Flora(), Lego()])
def test_the_number_of_threads_changes_no_bit(rules):
    g = torch.Generator().manual_seed(2)
    shapes = {UP: (576, 8), DOWN: (8, 576)}

    def drawn():
        return {n: torch.randn(shape, generator=g) for n, shape in shapes.items()}

    state, threads = rules.init(drawn()), torch.get_num_threads()
    updates = [Update(f"p{i}", 0, drawn(), 1) for i in range(8)]
    try:
        digests = set()
        for count in (1, 2):
            torch.set_num_threads(count)
            digests.add(digest(rules.apply(state, updates).params))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1


# Ranks.


def test_weaker_peers_train_the_first_units_and_the_others_stay():
    grades = Grades(0, 2)
    low = next(p for p in map(peer_name, range(99)) if grades.grade(p) == 1)
    rules = Flora(ranks=2)
    params = {**start(), UP: torch.linspace(-1, 1, 20).view(5, 4)}
    state = rules.init(params)
    work = rules.work(state, low)
    assert work.params[UP].shape == (5, 2)
    update = TRAINER(AdaptedTask(1), work, low)
    assert {n: t.shape for n, t in update.payload.items()} == {
        n: t.shape for n, t in rules.expects(work).items()
    }
    after = product(rules.apply(state, [update]).params)
    rest = params[UP].double()[:, 2:] @ params[DOWN].double()[2:]
    torch.testing.assert_close(after, product(update.payload) + rest, atol=1e-5, rtol=0)


def test_units_filled_up_with_zeros_stay_zeros():
    """So a cut adapter learns as a model of that rank would, bit for bit."""
    params = {**start(), UP: torch.linspace(-1, 1, 20).view(5, 4)}
    less = cut(params, [PAIR], 2)
    work = Work(0, less, 5, hints={"do": "ranked"})
    wide = SGD(lr=0.1, momentum=0.9, weight_decay=0.01)(
        AdaptedTask(1, rank=4), work, "a"
    )
    thin = SGD(lr=0.1, momentum=0.9, weight_decay=0.01)(
        AdaptedTask(1, rank=2), work, "a"
    )
    assert (wide.payload[UP] - less[UP]).abs().max() > 1e-3
    for name, t in thin.payload.items():
        torch.testing.assert_close(wide.payload[name], t)


def test_peers_are_evaluated_with_their_own_rank():
    rules, tasks = Flora(ranks=3), tasks_of()
    params = {**start(), UP: torch.linspace(-1, 1, 20).view(5, 4)}
    state = rules.init(params)
    told = personal(rules, state, tasks)
    for peer, task in tasks.items():
        mine = filled(rules.work(state, peer).params, params, [PAIR])
        assert told[peer]["loss"] == task.evaluate(load(task.model(), mine))["loss"]
    assert len({rules.grades.grade(p) for p in tasks}) > 1


def test_ranks_that_cannot_be_halved_are_refused():
    with pytest.raises(ConfigError, match="raise rank to 4"):
        Flora(rank=3, ranks=3)
    assert Grades(0, 1).own == USUAL
    assert Grades(0, 5).own == 16


def test_padding_moves_each_half_by_its_mean_change():
    now = names([[0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    wide = Update("a", 0, names([[2.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]), 1)
    thin = Update("b", 0, names([[6.0]], [[5.0, 0.0]]), 3)
    rules = Flora(merge="pad")
    after = rules.apply(rules.init(now), [wide, thin]).params
    assert after[UP].tolist() == [[5.0, 1.0]]
    assert after[DOWN].tolist() == [[4.0, 0.0], [0.0, 1.0]]


def test_padding_needs_adapters():
    with pytest.raises(ConfigError, match="this model has none"):
        Flora(merge="pad").init({"w": torch.ones(3, 3)})
    with pytest.raises(ConfigError, match='the nearest is "pad"'):
        Flora(merge="pda")


def test_the_duty_refuses_adapters_of_another_model():
    good = start()
    alien = {n.replace("0.lora", "9.lora"): t for n, t in good.items()}
    with pytest.raises(ProtocolError, match="no adapter '9"):
        TRAINER(AdaptedTask(0), Work(0, alien, 1, hints={"do": "ranked"}), "a")
    wide = {**good, UP: torch.zeros(5, 7), DOWN: torch.zeros(7, 6)}
    with pytest.raises(ProtocolError, match=r"shape \(7, 6\), but"):
        TRAINER(AdaptedTask(0), Work(0, wide, 1, hints={"do": "ranked"}), "a")
    half = {n: t for n, t in good.items() if n != UP}
    with pytest.raises(ProtocolError, match="is missing"):
        TRAINER(AdaptedTask(0), Work(0, half, 1, hints={"do": "ranked"}), "a")


@pytest.mark.parametrize("rules", [Flora(), Lego()])
def test_noise_that_would_be_scaled_to_whole_adapters_is_refused(rules):
    private = LocalGaussian(TRAINER, bound=1.0, noise_multiplier=0.1)
    work = rules.work(rules.init(start()), "a")
    with pytest.raises(ConfigError, match="a is to send its adapters"):
        private(AdaptedTask(0), work, "a")
    made = rules.work(rules.init(params_of(Line(0).model())), "a")  # no adapters yet
    assert private(Line(0), made, "a").payload


@pytest.mark.parametrize("rules", [Flora(), Lego()])
def test_an_adapter_whose_product_is_huge_is_left_out(rules):
    state, tasks = rules.init(start()), tasks_of()
    good = answers(rules, state, tasks)
    payload = {**good[0].payload, UP: torch.full((5, 4), 900.0)}
    huge = Update("peer-9", 0, {**payload, DOWN: torch.full((4, 6), 900.0)}, 24)
    with_it, without = rules.apply(state, [*good, huge]), rules.apply(state, good)
    assert digest(with_it.params) == digest(without.params)
    assert "above 1000" in rules.unfit(huge)
    assert all(rules.unfit(update) is None for update in good)
    alone = rules.apply(state, [huge])
    assert (digest(alone.params), alone.version) == (digest(state.params), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rules", [Flora(), Lego()])
def test_what_is_no_matrix_is_answered_in_its_own_type(rules, dtype):
    """A whole model of a type other than float32, biases and all."""

    class Typed(Normed):
        def model(self):
            return super().model().to(dtype)

        def batches(self, seed):
            return ((x.to(dtype), y.to(dtype)) for x, y in super().batches(seed))

    work = rules.work(rules.init(params_of(Typed(0).model())), "a")
    update = TRAINER(Typed(0), work, "a")
    judged = {"expects": rules.expects, "stale_after": 0}
    assert Gate().refusal(update, work, **judged) is None
    after = rules.apply(rules.init(work.params), [update]).params
    assert {t.dtype for t in after.values()} == {dtype}


def test_nothing_that_passes_the_gate_is_left_out_in_silence():
    """Row times column norm is 1031, the largest number of the product 729."""
    rules, params = Lego(), {"w": torch.zeros(1, 2), "v": torch.zeros(2, 2)}
    state = rules.init(params)
    like = rules.expects(rules.work(state, "a"))
    assert like["v:A"].shape == (2, 2)
    large = {"v:B": torch.full((2, 2), 27.0), "v:A": 27 * torch.eye(2)}
    answer = Update("a", 0, {**like, **large}, 1)
    assert rules.unfit(answer) is None
    assert rules.apply(state, [answer]).params["v"].abs().min() > 500


def test_matrices_without_numbers_are_merged_to_nothing():
    params = {"none": torch.ones(0, 3), "w": torch.ones(2, 3)}
    rules = Lego()
    state = rules.init(params)
    answer = Update("a", 0, rules.expects(rules.work(state, "a")), 1)
    assert digest(rules.apply(state, [answer]).params) == digest(params)


# Both learn, and have the same bits in every driver.

BOTH = pytest.mark.parametrize(
    "rules", [Flora(ranks=2, steps=3), Lego(ranks=2, steps=3)]
)


@BOTH
def test_adapters_learn(rules):
    tasks, params = tasks_of(), start()
    after = run_rounds(rules, TRAINER, tasks, params, 5).params

    def loss(params):
        return sum(t.evaluate(load(t.model(), params))["loss"] for t in tasks.values())

    assert loss(after) < 0.5 * loss(params)


@BOTH
def test_the_same_bits_everywhere(rules):
    tasks, pacer = tasks_of(), Synchronous(cohort=PEERS, quorum=PEERS)
    want = digest(run_rounds(rules, TRAINER, tasks, start(), 3).params)
    link = VirtualLink(TRAINER, tasks, {p: 1.0 + i for i, p in enumerate(tasks)})
    assert digest(coordinate(rules, pacer, link, start(), 3).params) == want
    app = client_app(lambda c: AdaptedTask(int(c.node_config["partition-id"])), TRAINER)
    with InProcessGrid(app, PEERS) as grid:
        link = FlowerLink(grid, LinkLimits(wait_for=PEERS))
        assert digest(coordinate(rules, pacer, link, start(), 3).params) == want


@BOTH
def test_the_same_bits_on_a_mesh(rules):
    tasks, network = tasks_of(), MemoryNetwork(delay_s=0.2)
    nodes = [
        Node(
            network.join(peer),
            rules,
            TRAINER,
            task,
            rules.init(start()),
            cohort=PEERS,
            round_s=60.0,
        )
        for peer, task in tasks.items()
    ]

    async def main():
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.run, 3)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    want = digest(run_rounds(rules, TRAINER, tasks, start(), 3).params)
    assert {digest(node.state.params) for node in nodes} == {want}
