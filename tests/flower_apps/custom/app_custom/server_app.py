import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from app_custom.strategy import HalfMedian
from app_custom.task import model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = HalfMedian()
    result = strategy.start(
        grid, ArrayRecord(model()), num_rounds=config["num-server-rounds"]
    )
    if config["out"]:
        np.savez(config["out"], *result.arrays.to_numpy_ndarrays())
