"""Flower's own simulation (tested: flwr 1.41 on Ray 2.55), in process.

``run_simulation`` starts Ray and as many actors as there are cores. It is the cheaper
of Flower's two ways: ``flwr run`` starts a SuperLink besides.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from sims.bench.case import Case, Weights
from sims.bench.peers.flower_client import app
from sims.bench.peers.nets import first, plain
from sims.bench.peers.wire import Engine, Wire, connect, obey, opened


class Stamped(FedAvg):
    """FedAvg that notes the end of each round."""

    stamps: list[float]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate, and note the time; a failed client ends the measurement."""
        result = super().aggregate_train(server_round, _all_good(replies))
        self.stamps.append(time.perf_counter())
        return result


class Flower:
    """One case on a running grid."""

    def __init__(self, case: Case, grid: Grid) -> None:
        self.case, self.grid = case, grid
        self.now = ArrayRecord(first(case.model))
        self.config = ConfigRecord({"case": json.dumps(asdict(case))})
        while len(list(grid.get_node_ids())) < case.clients:
            time.sleep(0.1)

    def rounds(self, count: int) -> list[float]:
        if self.case.model == "none":
            return [self.no_op() for _ in range(count)]
        strategy = Stamped(
            fraction_train=self.case.cohort / self.case.clients,
            fraction_evaluate=0.0,
            min_train_nodes=self.case.cohort,
            min_available_nodes=self.case.clients,
        )
        strategy.stamps = [time.perf_counter()]
        result = strategy.start(
            self.grid, self.now, num_rounds=count, train_config=self.config
        )
        self.now = result.arrays
        return [b - a for a, b in pairwise(strategy.stamps)]

    def no_op(self) -> float:
        """Send every node of the cohort an empty message; return the seconds."""
        nodes = list(self.grid.get_node_ids())[: self.case.cohort]
        content = RecordDict({"config": self.config})
        began = time.perf_counter()
        messages = [Message(content, n, "train") for n in nodes]
        _all_good(self.grid.send_and_receive(messages))
        return time.perf_counter() - began

    def weights(self) -> Weights:
        return plain(self.now.to_torch_state_dict())


def _all_good(replies: Iterable[Message]) -> list[Message]:
    """Return ``replies``; raise if a client failed, for its time would be no time."""
    received = list(replies)
    failed = [r.error.reason for r in received if r.has_error()]
    if failed or not received:
        raise RuntimeError(f"{len(failed)} clients failed: {failed[:1]}")
    return received


def simulate(wire: Wire, command: dict[str, Any]) -> dict[str, Any]:
    """Run one simulation for all cases of as many clients as the first one has.

    Returns:
        The command that asked for something else.
    """
    nodes: int = command["case"]["clients"]
    last = dict[str, Any]()
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        now, engines = command, dict[str, Engine]()
        while now["do"] != "close":
            if now["do"] != "open":
                obey(wire, engines, now)
            elif now["case"]["clients"] == nodes:
                case = Case(**now["case"])
                engines[case.name] = Flower(case, grid)
                wire.tell(opened(began, ["flwr", "ray"]))
            else:
                break
            now = wire.hear()
        last.update(now)

    began = time.perf_counter()
    run_simulation(
        server,
        app,
        num_supernodes=nodes,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return last


if __name__ == "__main__":
    line = connect()
    order = line.hear()
    while order.get("do") == "open":
        order = simulate(line, order)
