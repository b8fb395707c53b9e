import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedcore.errors import ConfigError, QuorumError
from fedcore.flower import AsFlower, client_app
from fedcore.flower.answers import mean_metrics
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.strategy import peer_name
from sims.flower.run import run_in_process
from sims.line import Line
from strategies import STRATEGIES
from strategies.fedavg import FedAvg
from tests.cases import TASKS, TRAINER, rules_of


def line_of(context):
    return Line(seed=int(context.node_config["partition-id"]))


def served(strategy, client, nodes, rounds=2, arrays=None, **more):
    """Run ``strategy`` in a plain Flower ServerApp; return Flower's result."""
    results = []
    server = ServerApp()
    arrays = arrays or {"weight": torch.zeros(1, 4)}

    @server.main()
    def main(grid, context):
        first = ArrayRecord(arrays)
        results.append(strategy.start(grid, first, num_rounds=rounds, **more))

    run_in_process(server, client, nodes)
    return results[0]


def adds(amount, difference=False):
    """Return an ordinary Flower client that adds ``amount[partition]`` to the model."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        part = context.node_config["partition-id"]
        step = amount[part] * message.content["config"].get("lr", 1.0)
        model = message.content["arrays"].to_torch_state_dict()
        for name, t in model.items():
            if t.is_floating_point():
                model[name] = torch.full_like(t, step) + (0 if difference else t)
            else:
                model[name] = t + 1
        metrics = {"num-examples": part + 1, "loss": float(part)}
        content = {"arrays": ArrayRecord(model), "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        total = sum(a.numpy().sum() for a in message.content["arrays"].values())
        metrics = {"num-examples": 1, "total": float(total)}
        return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=message)

    return app


@pytest.mark.parametrize("returns", ["model", "difference"])
def test_ordinary_flower_clients(returns):
    client = adds([1.0, 4.0], difference=returns == "difference")
    result = served(AsFlower(FedAvg(), returns=returns), client, 2)
    # weights 1 and 2: each round adds (1 * 1 + 2 * 4) / 3 = 3 to each of 4 numbers
    assert result.arrays["weight"].numpy().tolist() == [[6.0] * 4]
    assert result.train_metrics_clientapp[1] == {"loss": 2 / 3, "num-examples": 3}
    assert result.evaluate_metrics_clientapp[2]["total"] == 24.0


def test_settings_reach_the_clients_and_evaluate_fn_is_called():
    seen = []

    def central(server_round, arrays):
        seen.append((server_round, float(arrays["weight"].numpy()[0, 0])))

    config = ConfigRecord({"lr": 0.5})
    strategy = AsFlower(FedAvg())
    served(strategy, adds([2.0, 2.0]), 2, train_config=config, evaluate_fn=central)
    assert seen == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert strategy.state.version == 2


def test_what_does_not_learn_is_kept_and_the_order_too():
    arrays = {"b": torch.tensor(3), "a": torch.zeros(2), "c": torch.ones(1).bool()}
    result = served(AsFlower(FedAvg()), adds([1.0, 1.0]), 2, arrays=arrays)
    got = result.arrays.to_torch_state_dict()
    assert list(got) == ["b", "a", "c"]
    assert (got["b"].item(), got["a"].tolist()) == (3, [2.0, 2.0])
    assert got["b"].dtype == torch.int64


def test_a_bad_client_is_refused_and_the_model_is_as_if_it_were_lost():
    good = served(AsFlower(FedAvg()), adds([1.0, 4.0]), 2)
    nan = served(AsFlower(FedAvg()), adds([1.0, 4.0, float("nan")]), 3)
    assert nan.arrays == good.arrays


def test_too_few_answers_fold_nothing_and_in_the_end_give_up():
    client = adds([float("-inf"), float("inf")])
    strategy = AsFlower(FedAvg(), quorum=2)
    first = served(strategy, client, 2, rounds=3)
    assert len(first.arrays) == 0  # nothing was folded
    with pytest.raises(QuorumError):
        served(AsFlower(FedAvg(), quorum=2), client, 2, rounds=9)


@pytest.mark.parametrize(
    "answer",
    [
        lambda arrays, metrics: {"metrics": metrics},
        lambda arrays, metrics: {"arrays": arrays},
        lambda arrays, metrics: {"arrays": arrays, "b": arrays, "metrics": metrics},
        lambda arrays, metrics: {"arrays": ArrayRecord(), "metrics": metrics},
        lambda arrays, metrics: {
            "arrays": ArrayRecord({"weight": torch.zeros(4)}),
            "metrics": metrics,
        },
        lambda arrays, metrics: {
            "arrays": arrays,
            "metrics": MetricRecord({"num-examples": 1.5}),
        },
    ],
)
def test_malformed_answers_are_lost_by_name(answer, caplog):
    app = ClientApp()

    @app.train()
    def train(message, context):
        metrics = MetricRecord({"num-examples": 2.0})
        records = answer(message.content["arrays"], metrics)
        return Message(RecordDict(records), reply_to=message)

    result = served(AsFlower(FedAvg(), quorum=1), app, 1, rounds=1)
    assert len(result.arrays) == 0
    assert "lost node-" in caplog.text


LINEAR = [name for name in STRATEGIES if name not in TASKS]


@pytest.mark.parametrize("name", LINEAR)
def test_our_clients_give_the_bits_of_the_loop(name):
    strategy, trainer, start = rules_of(name), TRAINER, {"weight": torch.zeros(1, 4)}
    tasks = {peer_name(i): Line(seed=i) for i in range(6)}
    want = run_rounds(strategy, trainer, tasks, start, rounds=2)
    shell = AsFlower(strategy, ask_names=True, quorum=6)
    result = served(shell, client_app(line_of, trainer), 6)
    assert digest(shell.state.params) == digest(want.params)
    assert torch.equal(
        result.arrays.to_torch_state_dict()["weight"], want.params["weight"]
    )


def test_a_drawn_cohort():
    shell = AsFlower(FedAvg(), cohort=2)
    result = served(shell, adds([1.0] * 5), 5, rounds=1)
    assert result.arrays["weight"].numpy()[0, 0] == 1.0
    assert result.train_metrics_clientapp[1]["num-examples"] in range(3, 10)


def test_means_of_metrics():
    got = mean_metrics([(1, {"a": 1.0, "b": 2.0}), (3, {"a": 5.0})])
    assert got == {"a": 4.0, "num-examples": 4}


@pytest.mark.parametrize(
    "wrong", [{"returns": "weights"}, {"quorum": 0}, {"cohort": 2, "quorum": 3}]
)
def test_impossible_settings(wrong):
    with pytest.raises(ConfigError):
        AsFlower(FedAvg(), **wrong)
