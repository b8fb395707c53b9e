import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from app_fedavg.task import net, share, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config

    def central(server_round, arrays):
        model = net()
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = test(model, *share(0, 1))
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    strategy = FedAvg(fraction_train=1.0, min_evaluate_nodes=4, min_train_nodes=4)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(net().state_dict()),
        train_config=ConfigRecord({"lr": config["lr"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=central,
    )
    if config["out"]:
        arrays = result.arrays
        np.savez(config["out"], **{k: a.numpy() for k, a in arrays.items()})
