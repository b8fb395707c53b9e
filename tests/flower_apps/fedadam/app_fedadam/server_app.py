import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam

from app_fedadam.task import model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = FedAdam(fraction_evaluate=0.0, min_train_nodes=4, eta=0.1, tau=0.01)
    result = strategy.start(
        grid, ArrayRecord(model()), num_rounds=config["num-server-rounds"]
    )
    if config["out"]:
        np.savez(config["out"], *result.arrays.to_numpy_ndarrays())
