"""Checks of an algorithm's settings, made when it is built: before any training."""

from collections.abc import Sequence
from math import inf

from fedcore.errors import ConfigError, QuorumError
from fedcore.strategy import Update


def positive(**values: float) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ConfigError: names the setting, its value and the rule.
    """
    for name, value in values.items():
        if not 0 < value < inf:
            raise ConfigError(f"{name} must be above 0 and finite, got {value}")


def shares(**values: float) -> None:
    """Refuse what is not in [0, 1).

    Raises:
        ConfigError: names the setting, its value and the rule.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name} must be in [0, 1), got {value}")


def counts(least: int, **values: int) -> None:
    """Refuse what is below ``least``.

    Raises:
        ConfigError: names the setting, its value and the rule.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")


def local_work(steps: int, epochs: int) -> None:
    """Refuse an amount of local work that is not one.

    Raises:
        ConfigError: ``steps`` is below 0, or ``epochs`` below 1.
    """
    counts(0, steps=steps)
    counts(1, epochs=epochs)


def outvoted(updates: Sequence[Update], fewest: int, attackers: int) -> None:
    """Refuse a round in which ``attackers`` updates could decide the result.

    Raises:
        QuorumError: there are fewer than ``fewest`` updates.
    """
    if len(updates) < fewest:
        raise QuorumError(
            f"{len(updates)} updates cannot outvote attackers = {attackers}: a round "
            f"needs {fewest}. Set the pacer's quorum to {fewest}, or lower attackers"
        )
