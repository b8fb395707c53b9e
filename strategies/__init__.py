"""Federated algorithms, one file a paper. ``STRATEGIES`` is the whole registry."""

from strategies.coordinatewise import CoordinateMedian, TrimmedMean
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from strategies.fedprox import FedProx
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum, MultiKrum
from strategies.scaffold import Scaffold

STRATEGIES: dict[str, type] = {
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedyogi": FedYogi,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "median": CoordinateMedian,
    "multi-krum": MultiKrum,
    "scaffold": Scaffold,
    "trimmed-mean": TrimmedMean,
}
