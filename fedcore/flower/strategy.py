"""Our strategies as Flower strategies: one line in anybody's ServerApp."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedcore.desk import Arrivals, Desk, Fold, Idle, Rules
from fedcore.errors import ConfigError, ProtocolError, QuorumError
from fedcore.flower.answers import (
    Returns,
    mean_metrics,
    the_only,
    update_of,
    weight_of,
)
from fedcore.flower.calls import online
from fedcore.flower.records import numbers_of, pack_works
from fedcore.flower.roster import Roster, reason_of
from fedcore.flower.trees import pack_tree, tensor_of
from fedcore.gate import Gate
from fedcore.pacing import Synchronous, Waiting
from fedcore.params import Params
from fedcore.strategy import PeerId, Strategy, Update, Work

WAIT_S = 120.0  # longest wait for enough nodes to be online

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What changes while Flower drives one training.

    Attributes:
        first: the model as the user gave it: names, order, and what does not learn.
        roster: who is who, when nodes are asked for their names.
        cohort: node -> peer, of the round that is out.
    """

    desk: Desk[Any, Waiting]
    first: Params
    roster: Roster | None
    cohort: dict[int, PeerId] = field(default_factory=dict)


class AsFlower(FlowerStrategy):
    """Run one of our strategies anywhere a Flower strategy runs.

    Clients may be ordinary Flower ones: they find the model in ``arrays`` and the
    settings in ``config``, and answer with one ArrayRecord and one MetricRecord that
    holds ``num-examples``. Clients made by ``client_app`` are recognised by their
    answers. Answers pass the gate; those refused are logged with the reason.

    Example:
        AsFlower(FedAdam(server_lr=0.1)).start(grid, ArrayRecord(model.state_dict()))
    """

    def __init__(
        self,
        strategy: Strategy[Any],
        *,
        cohort: int = 0,
        quorum: int = 2,
        returns: Returns = "model",
        ask_names: bool = False,
        gate: Gate | None = None,
    ) -> None:
        """Wrap ``strategy``.

        Args:
            strategy: the rules; only floating-point tensors are its business.
            cohort: nodes per round, drawn by seed; 0 takes all that are online.
            quorum: fewest answers worth folding, and nodes worth starting with.
            returns: what ordinary Flower clients answer with: the trained model, as
                Flower's examples do, or its difference from the model they got.
            ask_names: ask each node for its name (needs ``client_app`` clients), so
                that runs have the same bits; otherwise names are Flower's node ids.
            gate: what an answer must be.

        Raises:
            ConfigError: a number or word that cannot work.
        """
        if returns not in ("model", "difference"):
            raise ConfigError(f"returns must be 'model' or 'difference': {returns!r}")
        if cohort < 0 or quorum < 1 or 0 < cohort < quorum:
            raise ConfigError(f"needs 1 <= quorum <= cohort: {quorum}, {cohort}")
        self.strategy = strategy
        self.cohort, self.quorum = cohort, quorum
        self.returns, self.ask_names = returns, ask_names
        self.gate = gate or Gate()
        self._run: Run | None = None

    @property
    def state(self) -> Any:
        """The strategy's own state; None before the first round."""
        return None if self._run is None else self._run.desk.state

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._run is None or server_round == 1:
            self._run = self._begin(arrays, grid)
        run = self._run
        peers = self._gather(run, grid)
        event = Idle(sorted(peers), float(server_round))
        run.desk, out = self._rules(len(peers)).step_out(run.desk, event)
        run.cohort = {peers[peer]: peer for peer, _ in out}
        config["server-round"] = server_round
        return messages_of([(peers[p], work) for p, work in out], run.first, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        run = self._started()
        rules, arrivals = self._rules(len(run.cohort)), self._open(run, replies)
        event = rules.judge(run.desk, arrivals, float(server_round))
        run.desk, fold = rules.step_in(run.desk, event)
        _report(fold)
        if not fold.folded:
            return None, None
        learned = run.desk.state.params
        model = {name: learned.get(name, t) for name, t in run.first.items()}
        answers = [(u.examples, _told(u)) for u in fold.folded]
        return pack_tree("arrays", model, join=False)["arrays"], mean_metrics(answers)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        group = str(server_round)
        return [
            Message(content, node, MessageType.EVALUATE, group_id=group)
            for node in self._started().cohort
        ]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        answers = []
        for reply in replies:
            try:
                if reply.has_error():
                    log.warning("no evaluation: a node %s", reason_of(reply.error))
                    continue
                metrics = the_only(reply.content, MetricRecord)
                answers.append((weight_of(metrics), numbers_of(metrics)))
            except ProtocolError as cause:
                log.warning("no evaluation: %s", cause)
        return mean_metrics(answers) if answers else None

    def summary(self) -> None:
        log.info("strategy %s", self.strategy)

    def _begin(self, arrays: ArrayRecord, grid: Grid) -> Run:
        first = {name: tensor_of(name, array) for name, array in arrays.items()}
        learned = {n: t for n, t in first.items() if t.is_floating_point()}
        roster = Roster(grid) if self.ask_names else None
        return Run(self._rules(self.quorum).begin(learned), first, roster)

    def _started(self) -> Run:
        if self._run is None:
            raise ConfigError("configure_train comes first; use start()")
        return self._run

    def _rules(self, available: int) -> Rules[Any, Waiting]:
        cohort = self.cohort or max(available, self.quorum)
        pacer = Synchronous(cohort=cohort, quorum=self.quorum)
        return Rules(self.strategy, pacer, self.gate)

    def _gather(self, run: Run, grid: Grid) -> Mapping[PeerId, int]:
        """Return the nodes online by name, once there are enough.

        Raises:
            QuorumError: too few after ``WAIT_S`` seconds.
        """
        wanted, until_s = max(self.cohort, self.quorum), time.monotonic() + WAIT_S
        while True:
            if run.roster is None:
                peers = {f"node-{node:020d}": node for node in online(grid)}
            else:
                peers = dict(run.roster.look())
            if len(peers) >= wanted:
                return peers
            if time.monotonic() > until_s:
                raise QuorumError(f"{len(peers)} of {wanted} nodes after {WAIT_S} s")
            time.sleep(0.1)

    def _open(self, run: Run, replies: Iterable[Message]) -> Arrivals:
        """Return the answers of this round's cohort; who sent none is lost."""
        updates: list[Update] = []
        lost = dict.fromkeys(run.cohort.values(), "no answer in time")
        for reply in replies:
            peer = run.cohort.get(reply.metadata.src_node_id)
            if peer is None or peer not in run.desk.sent:
                continue
            if reply.has_error():
                lost[peer] = reason_of(reply.error)
                continue
            try:
                work = run.desk.sent[peer].work
                updates.append(update_of(peer, reply.content, work, self.returns))
                lost.pop(peer, None)
            except ProtocolError as cause:
                lost[peer] = str(cause)
        return Arrivals(sorted(updates, key=lambda u: u.peer), lost)


def messages_of(
    out: Sequence[tuple[int, Work]], first: Params, config: ConfigRecord
) -> list[Message]:
    """Return train messages; the model goes out whole, with what does not learn."""
    fixed = {n: t for n, t in first.items() if not t.is_floating_point()}
    extra = pack_tree("arrays", fixed, join=False)["arrays"]
    contents = pack_works([work for _, work in out], join=False)
    messages = []
    for (node, work), records in zip(out, contents, strict=True):
        if fixed:
            records["arrays"] = ArrayRecord({**records["arrays"], **extra})
        records["config"] = config
        group = str(work.version + 1)
        messages.append(Message(records, node, MessageType.TRAIN, group_id=group))
    return messages


def _report(fold: Fold[Any]) -> None:
    for refusal in fold.refused:
        log.warning("refused %s: %s", refusal.peer, refusal.reason)
    for peer, reason in fold.lost.items():
        log.warning("lost %s: %s", peer, reason)


def _told(update: Update) -> Mapping[str, float]:
    """Return the figures that the client itself sent."""
    return {name: x for name, x in update.metrics.items() if name != "took_s"}
