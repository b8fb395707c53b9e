from flwr.client import ClientApp, NumPyClient
from flwr.common import Context

from app_legacy.task import fit


class Client(NumPyClient):
    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters, config):
        weights, examples, accuracy = fit(parameters, self.partition)
        return weights, examples, {"accuracy": accuracy}

    def evaluate(self, parameters, config):
        _, examples, accuracy = fit(parameters, self.partition, steps=0)
        return 1 - accuracy, examples, {"accuracy": accuracy}


def client_fn(context: Context):
    return Client(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn=client_fn)
