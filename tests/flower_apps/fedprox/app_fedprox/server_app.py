import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedProx

from app_fedprox.task import net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config

    strategy = FedProx(
        fraction_train=1.0,
        min_train_nodes=4,
        proximal_mu=0.5,
        fraction_evaluate=0.0,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(net().state_dict()),
        train_config=ConfigRecord({"lr": config["lr"]}),
        num_rounds=config["num-server-rounds"],
    )
    if config["out"]:
        arrays = result.arrays
        np.savez(config["out"], **{k: a.numpy() for k, a in arrays.items()})
