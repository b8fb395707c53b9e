from app_seed.rules import TRAINER, Map
from fedcore.flower import client_app

app = client_app(lambda c: Map(int(c.node_config["partition-id"])), TRAINER)
