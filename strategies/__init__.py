"""Federated algorithms, one file each. ``STRATEGIES`` is the whole registry."""

from strategies.fedavg import FedAvg

STRATEGIES = {"fedavg": FedAvg}
