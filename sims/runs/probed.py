"""What peers tell of probes that went wrong (``clients.trainers.zeroth``), in words.

Such a probe moves nothing, or less than it should, and ends nothing: without a word
about it, a run whose model is lost looks like one that is slow.
"""

from collections.abc import Mapping, Sequence

from fedcore.strategy import Update

TROUBLES = {
    "skipped": "had no finite loss, and moved nothing: if this goes on, lower "
    "strategy.lr",
    "cut": "were larger than can be told, and were cut: if this goes on, lower "
    "strategy.lr, or raise strategy.clip",
}


def troubles_of(updates: Sequence[Update]) -> Mapping[str, str]:
    """Return a sentence for each kind of trouble that ``updates`` tell of."""
    return {
        kind: f"{update.peer}: {update.metrics[kind]:g} of its probes {sentence}"
        for kind, sentence in TROUBLES.items()
        for update in updates[::-1]  # the first one stays
        if update.metrics.get(kind, 0) > 0
    }
