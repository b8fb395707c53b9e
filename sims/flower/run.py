"""A whole Flower app on an in-process grid."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedcore.seeds import seed_of
from sims.flower.grid import Config, Handled, InProcessGrid, ignore
from sims.flower.identity import SUPERLINK_NODE
from sims.flower.node import borrowed_generators, seed_generators


@dataclass(frozen=True, slots=True)
class Finished:
    """A ServerApp that ran to its end.

    Attributes:
        context: the ServerApp's; apps leave results in ``context.state``.
        messages: answered or failed.
        wall_s: seconds from its start to its end.
    """

    context: Context
    messages: int
    wall_s: float


def run_in_process(
    server: ServerApp,
    client: ClientApp,
    nodes: int,
    *,
    run_config: Config | None = None,
    seed: int = 0,
    workers: int = 0,
    watch: Callable[[Handled], None] = ignore,
) -> Finished:
    """Run a Flower app on ``nodes`` virtual nodes, and return when it is done.

    Args: see ``InProcessGrid``; what the ServerApp raises is not caught.
    """
    with ExitStack() as stack:
        grid = stack.enter_context(
            InProcessGrid(
                client,
                nodes,
                run_config=run_config,
                seed=seed,
                workers=workers,
                watch=watch,
            )
        )
        stack.enter_context(borrowed_generators())
        seed_generators(seed_of("flower-server", seed) >> 1)
        context = Context(
            run_id=grid.run.run_id,
            node_id=SUPERLINK_NODE,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config or {}),
        )
        begin_s = time.monotonic()
        server(grid, context)
        return Finished(context, grid.handled, time.monotonic() - begin_s)
