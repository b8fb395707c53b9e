"""Gradient coding: the exact gradient of all data, without the slowest workers.

Source:
    Tandon et al., "Gradient Coding: Avoiding Stragglers in Distributed Learning",
    ICML 2017. https://arxiv.org/abs/1612.03301

Notation, paper -> here:
    n       workers              whoever answers the roll call
    s       stragglers           ``stragglers``
    g_j     gradient of chunk j  mean over its batches, as an SGD step
    B       encoding             ``strategies.coding.codes``
    a       decoding             worked out for every pattern of answers

Departures: chunk j is whole batches, number j, j + n, ... of the ``batches`` of a
round, drawn in an order that all peers share; so the decoded move is the mean over the
batches, batch normalisation and dropout included, to rounding. Running statistics move
by the mean of what one batch does to them. The first round is a roll call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.coding.codes import Kind
from strategies.coding.jobs import Jobs, Shift, expected
from strategies.coding.schedules import Once
from strategies.limits import counts, positive


def check_amount(server_lr: float, steps: int, batches: int) -> None:
    """Refuse an amount of work that is none, or is said twice.

    Raises:
        ConfigError: names the key and the rule.
    """
    positive(server_lr=server_lr)
    counts(0, steps=steps, batches=batches)
    if steps and batches:
        raise ConfigError(
            f"steps ({steps}) and batches ({batches}) both say how much a round "
            "computes: leave one at 0"
        )


def made_for(scheme: str, **settings: int | str) -> Mapping[str, Any]:
    """Return the settings of other sections that go with ``scheme``."""
    own = {f"pacer.scheme.{key}": value for key, value in settings.items()}
    names = {"partition.name": "replicated", "pacer.name": "coded"}
    return {**names, "pacer.scheme.name": scheme, **own}


@dataclass(frozen=True, slots=True)
class GradientCoding:
    """Large-batch SGD that does not wait for up to ``stragglers`` workers.

    Attributes:
        stragglers: s, workers that may stay away in every round, >= 0; each computes
            s + 1 shares of the data instead of one.
        code: how shares are combined; ``grouped`` is best, see the docs.
        server_lr: step along the decoded move, > 0.
        steps: batches that a worker computes in a round; 0 for what batches asks.
        batches: of one step, on all workers together; 0 for one in each share.
        clients: workers expected; 0 for whoever answers the roll call.
    """

    stragglers: int = 1
    code: Kind = "grouped"
    server_lr: float = 1.0
    steps: int = 0
    batches: int = 0
    clients: int = 0
    needs: ClassVar[Literal["each"]] = "each"
    one_vote: ClassVar[bool] = True
    plain_sgd: ClassVar[bool] = True
    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_amount(self.server_lr, self.steps, self.batches)
        self.schedule(self.clients)

    @property
    def fewest(self) -> int:
        """Answers that a round needs."""
        return max(1, self.clients - self.stragglers)

    @property
    def usual(self) -> Mapping[str, Any]:
        """What the pacer must know, and copies of all data for every client.

        A round that decodes has all it needs: no slack.
        """
        own = made_for("gradient-coding", stragglers=self.stragglers, kind=self.code)
        return {**own, "pacer.slack": 0.0}

    def schedule(self, workers: int) -> Once:
        """Return who computes what; 0 ``workers`` are not known yet."""
        return Once(workers, self.stragglers, self.code)

    @property
    def _jobs(self) -> Jobs:
        return Jobs(self.schedule, self.server_lr, self.steps, self.batches)

    def init(self, params: Params) -> Shift:
        return Shift(0, params)

    def work(self, state: Shift, peer: PeerId) -> Work:
        return self._jobs.work(state, peer)

    def expects(self, work: Work) -> Params:
        return expected(work)

    def apply(self, state: Shift, updates: Sequence[Update]) -> Shift:
        return self._jobs.apply(state, updates)
