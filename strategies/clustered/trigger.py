"""When to divide: at the first rise of the temperature, or after so many rounds."""

from math import inf

from fedcore.errors import ConfigError
from strategies.clustered.clusters import Clusters

TEMPERATURE = "temperature"
ROUND = "round:"


def round_of(trigger: str) -> int | None:
    """Return k of ``round:k``, or None for ``temperature``.

    Raises:
        ConfigError: ``trigger`` is neither, or k is below 1.
    """
    if trigger == TEMPERATURE:
        return None
    number = trigger.rpartition(":")[2]
    count = int(number) if number.isascii() and number.isdecimal() else 0
    if count < 1 or trigger != f"{ROUND}{number}":
        raise ConfigError(
            f"trigger must be {TEMPERATURE!r} or 'round:k' with k >= 1, not "
            f"{trigger!r}: did you mean '{ROUND}{count or 10}'?"
        )
    return count


def due(trigger: str, state: Clusters, temperature: float) -> bool:
    """Tell whether to divide in this round, which is folded into ``state`` next.

    Args:
        trigger: ``temperature`` or ``round:k``.
        state: with the temperatures of the rounds before.
        temperature: of this round, over peers heard in an earlier round too.
    """
    rounds = round_of(trigger)
    if rounds is None:
        return temperature > (state.temperatures or (inf,))[-1]
    return state.version + 1 >= rounds
