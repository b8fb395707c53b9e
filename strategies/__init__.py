"""Federated algorithms, one file a paper. ``STRATEGIES`` is the whole registry."""

from strategies.cadence import FedCadence
from strategies.clustered.adaptive import Adaptive
from strategies.clustered.briggs import BriggsHC
from strategies.clustered.ifca import IFCA
from strategies.clustered.ocfl import OCFL
from strategies.clustered.sattler import SattlerCFL
from strategies.coding.gradient_coding import GradientCoding
from strategies.coding.sequential import MSGC, SRSGC
from strategies.compass import FedCompass
from strategies.coordinatewise import CoordinateMedian, TrimmedMean
from strategies.fedamd import FedAMD
from strategies.fedasync import FedAsync
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedbuff import FedBuff
from strategies.fedkseed import FedKSeed, FedKSeedPro
from strategies.fedld import FedLD
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from strategies.fedprox import FedProx
from strategies.fedspine import FedSpine
from strategies.ferret import Ferret
from strategies.geometric_median import GeometricMedian
from strategies.kafal import Kafal
from strategies.knfu import KnFu
from strategies.krum import Krum, MultiKrum
from strategies.merging.flora import Flora
from strategies.merging.lego import Lego
from strategies.mezo import MeZO
from strategies.one_byte import OneByte
from strategies.scaffold import Scaffold

STRATEGIES: dict[str, type] = {
    "adaptive": Adaptive,
    "briggs": BriggsHC,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedamd": FedAMD,
    "fedasync": FedAsync,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedbuff": FedBuff,
    "fedcadence": FedCadence,
    "fedcompass": FedCompass,
    "fedkseed": FedKSeed,
    "fedkseed-pro": FedKSeedPro,
    "fedld": FedLD,
    "fedprox": FedProx,
    "fedspine": FedSpine,
    "fedyogi": FedYogi,
    "ferret": Ferret,
    "flora": Flora,
    "geometric-median": GeometricMedian,
    "gradient-coding": GradientCoding,
    "ifca": IFCA,
    "kafal": Kafal,
    "knfu": KnFu,
    "krum": Krum,
    "lego": Lego,
    "m-sgc": MSGC,
    "median": CoordinateMedian,
    "mezo": MeZO,
    "multi-krum": MultiKrum,
    "ocfl": OCFL,
    "one-byte": OneByte,
    "sattler": SattlerCFL,
    "scaffold": Scaffold,
    "sr-sgc": SRSGC,
    "trimmed-mean": TrimmedMean,
}
