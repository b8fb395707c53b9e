from app_every.rules import TRAINER, task_of
from fedcore.flower import client_app

app = client_app(lambda c: task_of(int(c.node_config["partition-id"])), TRAINER)
