import numpy as np
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from app_legacy.task import model


def server_fn(context: Context):
    config = context.run_config

    def keep(server_round, weights, _):
        if config["out"] and server_round == config["num-server-rounds"]:
            np.savez(config["out"], *weights)

    strategy = FedAvg(
        min_fit_clients=4,  # else Flower's engine takes those that are up by then
        min_available_clients=4,
        initial_parameters=ndarrays_to_parameters(model()),
        evaluate_fn=keep,
    )
    rounds = ServerConfig(num_rounds=config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=rounds)


app = ServerApp(server_fn=server_fn)
