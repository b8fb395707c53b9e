"""Settings that cannot work together, refused before anything is trained.

A strategy says what it must have by plain class attributes, all optional:

    fewest      fewest answers that make a round
    one_vote    every peer may have one answer in a round, to its version
    plain_sgd   the trainer must be SGD with nothing but a step size
    trusted     peers hold copies of each other's data, so nothing is private
    told        figures of answers that it cannot do without
    usual       settings of other sections that go with it, such as its pacer
    research    its published gain was not seen here (docs/strategies.md)
"""

from typing import Any

from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.pacing import Pacer
from fedcore.strategy import Strategy
from fedcore.task import Trainer
from privacy.local import PUBLIC
from sims.data.partition import Partition, Replicated
from strategies.coding.pacer import Coded


def check_votes(strategy: Strategy[Any], pacer: Pacer[Any]) -> None:
    """Refuse a ``pacer`` whose rounds are too small or unfair to ``strategy``.

    A pacer with ``one_each`` never folds several answers of one peer together; with
    others a quick peer would outvote the rest.
    """
    if getattr(strategy, "one_vote", False) and not getattr(pacer, "one_each", False):
        raise ConfigError(_votes_told(strategy, type(pacer).__name__))
    fewest = getattr(strategy, "fewest", 1)
    for key in ("cohort", "quorum", "size"):
        if getattr(pacer, key, fewest) < fewest:
            raise ConfigError(
                f"{strategy} needs {fewest} answers a round, but pacer.{key} is "
                f"{getattr(pacer, key)}: raise pacer.{key}, or lower strategy.attackers"
            )


def _votes_told(strategy: Strategy[Any], pacer: str) -> str:
    if rotate := getattr(strategy, "rotate", 0):
        return (
            f"{strategy} changes its directions every {rotate} rounds, and {pacer} may "
            "fold answers of before and after together: use pacer.name=synchronous, or "
            "strategy.rotate=0"
        )
    return (
        f"{strategy} gives every peer one vote, and {pacer} may fold several answers "
        "of one peer: use pacer.name=synchronous"
    )


def check_corrected(strategy: Strategy[Any], trainer: Trainer) -> None:
    """Refuse a ``trainer`` from whose moves SCAFFOLD cannot tell the gradients."""
    plain = trainer == SGD(lr=getattr(trainer, "lr", 0))
    if getattr(strategy, "plain_sgd", False) and not plain:
        raise ConfigError(
            f"{strategy} reads gradients off the moves of plain SGD, and the trainer "
            f"is {trainer}: use trainer.name=sgd without momentum, weight_decay, "
            "clip_norm or a schedule"
        )


def check_trusted(strategy: Strategy[Any], private: bool) -> None:
    """Refuse privacy around a ``strategy`` that hands peers each other's data."""
    if getattr(strategy, "trusted", False) and private:
        raise ConfigError(
            f"{strategy} copies every example to several peers, so privacy.name would "
            "promise what cannot be kept: use privacy.name=none in a trusted cluster, "
            "or another strategy"
        )


def check_told(strategy: Strategy[Any], private: bool) -> None:
    """Refuse privacy that drops the figures which ``strategy`` goes by."""
    told = [name for name in getattr(strategy, "told", ()) if name not in PUBLIC]
    if told and private:
        raise ConfigError(
            f"{strategy} goes by what clients tell beside their updates "
            f"({', '.join(told)}), which no noise covers, and so privacy.name drops "
            "it: use privacy.name=none, or another strategy"
        )


def check_copies(strategy: Strategy[Any], partition: Partition) -> None:
    """Refuse a ``partition`` that does not give all clients what they all need."""
    if getattr(strategy, "trusted", False) and not isinstance(partition, Replicated):
        raise ConfigError(
            f"{strategy} shares work, and so needs all examples on every client: use "
            "partition.name=replicated"
        )


def check_scheme(strategy: Strategy[Any], pacer: Pacer[Any]) -> None:
    """Refuse a coded ``pacer`` that waits for another scheme than the strategy's."""
    if not isinstance(pacer, Coded):
        return
    schedule = getattr(strategy, "schedule", None)
    if schedule is None:
        raise ConfigError(
            f"pacer.name=coded is for gradient-coding, sr-sgc and m-sgc, and the "
            f"strategy is {strategy}: use pacer.name=synchronous"
        )
    if pacer.scheme != schedule(0):
        raise ConfigError(
            f"the pacer waits for {pacer.scheme}, but the strategy does {schedule(0)}: "
            "leave pacer.scheme out, and it follows the strategy"
        )


def check_cohort(pacer: Pacer[Any], clients: int) -> None:
    """Refuse a ``pacer`` that draws more clients than there are."""
    cohort = getattr(pacer, "cohort", 1)
    if cohort > clients:
        raise ConfigError(
            f"pacer.cohort is {cohort}, but there are {clients} clients: lower "
            "pacer.cohort or raise run.clients"
        )
