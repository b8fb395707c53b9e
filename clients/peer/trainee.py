"""One peer's part in a run of the mesh: look at the model, learn, add what was found.

It learns by gradients (``clients.trainers.along``) or, with the memory of inference
alone, by probing the loss along shared directions (FedKSeed); a run takes both.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clients.peer.control import Json, ask
from clients.peer.runs import packed, unpacked
from fedcore.config import choice
from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.names import PeerId

if TYPE_CHECKING:
    from torch import Tensor

    from clients.tasks.dataset import Shard
    from fedcore.params import Params
    from fedcore.strategy import Update
    from strategies.seeded import Seeded

By = Literal["gradients", "probes"]
STRATEGIES = {"fedkseed": "strategies.fedkseed:FedKSeed"}
SPOILT = 4.0  # times the loss that we first saw, and 4: what was learnt is lost
BUSY_S = 2.0  # before a node that is not ready is asked again
MOST_BUSY = 30


@dataclass(frozen=True, slots=True)
class Keys:
    """What a run's settings may be, besides its task.

    Attributes:
        strategy: a FedKSeed: the directions, how much is done in a turn, and how to
            probe. Its ``lr`` is the unit of all additions, and the step of probes.
        by: how members learn who do not say otherwise.
        trainer: of members that learn by gradients.
        seed: of the first weights.
    """

    strategy: Any = choice(STRATEGIES, "fedkseed")
    by: By = "gradients"
    trainer: Any = choice("clients.trainers:TRAINERS", "sgd")
    seed: int = 0


@dataclass
class Trainee:
    """This peer's part in a run.

    Attributes:
        folder: the peer's.
        run: the run's name.
        keys: the run's settings; ``by`` may be our own.
        task: our examples.
        base: the first weights.
        me: the peer's id.
    """

    folder: Path
    run: str
    keys: Keys
    task: "Shard"
    base: "Params"
    me: PeerId
    _base_id: str = field(init=False)
    _facts: int | None = field(default=None, init=False)
    _first: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        from fedcore.params import digest

        self._base_id = digest(self.base)

    def look(self) -> tuple["Seeded", int]:
        """Return the model as it is now, and of how many additions it is made."""
        from strategies.seeded import Seeded

        found = self._ask({"do": "model", "run": self.run})
        strategy = self.keys.strategy
        pool, scale, line = strategy.shared(), -strategy.lr, unpacked(found)
        state = Seeded(found["seq"], self.base, self._base_id, pool, scale, line)
        return state, found["facts"]

    def turn(self) -> float:
        """Learn, and add what was found; return the mean loss on the way.

        Raises:
            ConfigError: the model is spoilt; nothing is added.
        """
        state, facts = self.look()
        others = 0 if self._facts is None else max(0, facts - self._facts)
        self._facts = facts + 1
        if self.keys.by == "probes":
            line, loss = self._probed(state)
        else:
            line, loss = self._descended(state, 1.0 / (1 + others))
        added = packed(line.reshape(1, -1))
        self._ask({"do": "contribute", "run": self.run, "loss": loss, **added})
        return loss

    def _probed(self, state: "Seeded") -> tuple["Tensor", float]:
        from clients.trainers import sgd
        from fedcore import ring

        work = self.keys.strategy.work(state, self.me)
        update = sgd.SGD()(self.task, work, self.me)
        loss = self._sound(update)
        return ring.encode(update.payload["coefficients"]), loss

    def _descended(self, state: "Seeded", share: float) -> tuple["Tensor", float]:
        """Train as ever; others who do so as well go the same way, so share it."""
        from clients.trainers.along import along
        from fedcore.strategy import Work
        from strategies.buffers import weights_of

        strategy = self.keys.strategy
        steps = (strategy.steps, strategy.epochs)
        work = Work(state.version, state.params, *steps)
        update = self.keys.trainer(self.task, work, self.me)
        loss = self._sound(update)
        change = weights_of(update.payload)
        try:
            return along(state.pool, change, state.scale, share), loss
        except ProtocolError as error:
            raise ConfigError(
                f"training blew up ({error}): nothing is added. Begin a run with a "
                "smaller trainer.lr"
            ) from error

    def _sound(self, update: "Update") -> float:
        """Return the loss, if it is no sign that the model is spoilt."""
        loss = float(update.metrics.get("loss", float("nan")))
        if self._first is None:
            self._first = loss
        if not (math.isfinite(loss) and loss <= SPOILT * (abs(self._first) + 1)):
            raise ConfigError(
                f"the loss was {self._first:.4g} and is {loss:.4g}: nothing is added. "
                "Too large steps (begin a run with a smaller trainer.lr, or with "
                "probes strategy.lr), or a member that spoils the model"
            )
        return loss

    def _ask(self, request: Json) -> Json:
        """Ask the node, again and again while it is down or not level with others."""
        for _ in range(MOST_BUSY):
            try:
                return ask(self.folder, request)
            except PeerLostError as error:
                last = error
                time.sleep(BUSY_S)
        raise last

    def judge(self, params: "Params") -> dict[str, float]:
        """Return how good a model is on the task's held-out examples."""
        from fedcore.task import load

        model = self.task.model().eval()
        load(model, params)
        return dict(self.task.evaluate(model))
