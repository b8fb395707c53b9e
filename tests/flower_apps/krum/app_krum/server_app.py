import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Krum

from app_krum.task import model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = Krum(fraction_evaluate=0.0, min_train_nodes=6, num_malicious_nodes=1)
    result = strategy.start(
        grid, ArrayRecord(model()), num_rounds=config["num-server-rounds"]
    )
    if config["out"]:
        np.savez(config["out"], *result.arrays.to_numpy_ndarrays())
