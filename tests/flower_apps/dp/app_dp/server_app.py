import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
)

from app_dp.task import model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    np.random.seed(7)  # Flower draws its noise from this generator
    strategy = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(fraction_evaluate=0.0, min_train_nodes=4),
        noise_multiplier=0.1,
        clipping_norm=0.5,
        num_sampled_clients=4,
    )
    result = strategy.start(
        grid, ArrayRecord(model()), num_rounds=config["num-server-rounds"]
    )
    if config["out"]:
        np.savez(config["out"], *result.arrays.to_numpy_ndarrays())
