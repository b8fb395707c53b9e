"""SR-SGC and M-SGC: gradient coding that spreads over rounds, and so computes less.

Source:
    Krishnan, Ramkumar, Khisti et al., "Sequential Gradient Coding For Straggler
    Mitigation", ICLR 2023. https://arxiv.org/abs/2211.13802

Notation: ``strategies.coding.schedules``.

Departures: those named there and in ``strategies.coding.gradient_coding``. The paper
trains T + 1 different models at once; here they are copies of one model that see other
batches, and the one that moved last is published. With ``models = 1`` there is only
one, and its gradients are up to T rounds old: no paper's rule, but T + 1 times as many
steps for it in the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work
from strategies.coding.codes import Kind
from strategies.coding.gradient_coding import check_amount, made_for
from strategies.coding.jobs import Jobs, Shift, expected
from strategies.coding.machine import Schedule
from strategies.coding.schedules import SCHEDULES
from strategies.limits import counts


@dataclass(frozen=True, slots=True)
class _Sequential:
    """What the two have in common; the keys are told by each of them."""

    burst: int = 1
    window: int = 2
    stragglers: int = 2
    code: Kind = "grouped"
    server_lr: float = 1.0
    steps: int = 0
    batches: int = 0
    models: int = 0
    clients: int = 0
    needs: ClassVar[Literal["each"]] = "each"
    one_vote: ClassVar[bool] = True
    plain_sgd: ClassVar[bool] = True
    trusted: ClassVar[bool] = True
    scheme: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_amount(self.server_lr, self.steps, self.batches)
        counts(0, models=self.models)
        self.schedule(self.clients)

    @property
    def fewest(self) -> int:
        """Answers that a round surely needs if the pacer does not know the scheme."""
        return max(1, self.clients)

    @property
    def usual(self) -> Mapping[str, Any]:
        """What the pacer must know, and copies of all data for every client."""
        return made_for(
            self.scheme,
            burst=self.burst,
            window=self.window,
            stragglers=self.stragglers,
            kind=self.code,
        )

    def schedule(self, workers: int) -> Schedule:
        """Return who computes what; 0 ``workers`` are not known yet."""
        kind = SCHEDULES[self.scheme]
        made: Schedule = kind(
            workers, self.burst, self.window, self.stragglers, self.code
        )
        return made

    @property
    def _jobs(self) -> Jobs:
        return Jobs(
            self.schedule, self.server_lr, self.steps, self.batches, self.models
        )

    def init(self, params: Params) -> Shift:
        return Shift(0, params)

    def work(self, state: Shift, peer: PeerId) -> Work:
        return self._jobs.work(state, peer)

    def expects(self, work: Work) -> Params:
        return expected(work)

    def apply(self, state: Shift, updates: Sequence[Update]) -> Shift:
        return self._jobs.apply(state, updates)


@dataclass(frozen=True, slots=True)
class SRSGC(_Sequential):
    """Gradient coding with a small code; missing tasks are repeated later.

    Attributes:
        burst: B, rounds in a row that a worker may straggle, >= 1; jobs take up to
            that many rounds more.
        window: W, rounds in which so much may go wrong; burst divides window - 1.
        stragglers: λ, workers that may straggle within a window, >= 0.
        code: how shares are combined; ``grouped`` is best, see the docs.
        server_lr: step along the decoded move, > 0.
        steps: batches that a worker computes in a round; 0 for what batches asks.
        batches: of one job, on all workers together; 0 for one in each share.
        models: that take turns; 0 for burst + 1, as in the paper.
        clients: workers expected; 0 for whoever answers the roll call.
    """

    scheme: ClassVar[str] = "sr-sgc"


@dataclass(frozen=True, slots=True)
class MSGC(_Sequential):
    """Most data computed once and repeated when lost, the rest coded.

    Attributes:
        burst: B, rounds in a row that a worker may straggle, in [1, window - 1].
        window: W, rounds in which so much may go wrong; jobs take up to
            window - 2 + burst rounds more.
        stragglers: λ, workers that may straggle within a window, >= 0.
        code: how coded shares are combined; ``grouped`` is best, see the docs.
        server_lr: step along the decoded move, > 0.
        steps: batches that a worker computes in a round; 0 for what batches asks.
        batches: of one job, on all workers together; 0 for one in each share.
        models: that take turns; 0 for window - 1 + burst, as in the paper.
        clients: workers expected; 0 for whoever answers the roll call.
    """

    scheme: ClassVar[str] = "m-sgc"
