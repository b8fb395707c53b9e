"""How a figure is spread over the clients. Nothing here imports torch."""

from collections.abc import Mapping
from math import ceil
from statistics import fmean, median, pstdev

Figures = Mapping[str, float]
TENTH = 0.1


def spread(figures: Mapping[str, Figures], name: str = "accuracy") -> Figures:
    """Return how figure ``name`` is spread over the clients; empty if nobody has it.

    ``worst_tenth`` is the mean over the worst tenth of the clients, at least one: the
    lowest values of a share such as accuracy, the highest of ``loss``.
    """
    values = sorted(f[name] for f in figures.values() if name in f)
    if not values:
        return {}
    tenth = ceil(TENTH * len(values))
    ends = values[:tenth], values[-tenth:]
    worst, best = ends[::-1] if name == "loss" else ends
    return {
        "clients": len(values),
        "mean": fmean(values),
        "median": median(values),
        "deviation": pstdev(values),
        "worst_tenth": fmean(worst),
        "best_tenth": fmean(best),
    }
