"""Flower's own simulation on Ray, for clusters: the same apps, the same bits.

Only public parts of Flower are used. Its function does not pass on a run
configuration, so both apps are wrapped to find theirs, and the grid is wrapped to
see what failed at which node.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedcore.coordinator import Coordinator
from fedcore.desk import Rules
from fedcore.errors import ConfigError
from fedcore.flower import FlowerLink, LinkLimits, client_app
from fedcore.pacing import Pacer
from fedcore.params import Params
from fedcore.strategy import Strategy
from fedcore.task import Task, Trainer
from sims.flower.grid import Config, Handled, ignore
from sims.flower.identity import Run
from sims.flower.node import Failure, round_of


class Configured(ClientApp):
    """A ClientApp that finds ``config`` in its context."""

    def __init__(self, inner: ClientApp, config: Config) -> None:
        """Wrap ``inner``."""
        super().__init__()
        self._inner, self._config = inner, dict(config)

    def __call__(self, message: Message, context: Context) -> Message:
        before = context.run_config  # Flower refuses a context that changed
        context.run_config = dict(self._config)
        try:
            return self._inner(message, context)
        finally:
            context.run_config = before


class WatchedGrid(Grid):
    """A grid that tells of every reply that passes."""

    def __init__(self, grid: Grid, watch: Callable[[Handled], None]) -> None:
        """Wrap ``grid``; ``watch`` must not raise."""
        self._grid, self._watch = grid, watch
        self._sent: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        kept = list(messages)
        ids = self._grid.push_messages(kept)
        self._sent |= {m.metadata.message_id: m for m in kept}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._told(self._grid.pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        kept = list(messages)
        replies = self._grid.send_and_receive(kept, timeout=timeout)
        self._sent |= {m.metadata.message_id: m for m in kept}
        return self._told(replies)

    def _told(self, replies: Iterable[Message]) -> list[Message]:
        kept = list(replies)
        for reply in kept:
            sent = self._sent.pop(reply.metadata.reply_to_message_id, None)
            if sent is not None:
                self._watch(_handled(sent, reply))
        return kept


def _handled(sent: Message, reply: Message) -> Handled:
    meta = sent.metadata
    if reply.has_error():
        outcome: Any = Failure(reply.error.code, reply.error.reason or "")
    else:
        outcome = reply.content
    return Handled(meta.dst_node_id, -1, round_of(sent), meta.message_type, outcome)


def run_on_ray(
    server: ServerApp,
    client: ClientApp,
    nodes: int,
    *,
    run_config: Config | None = None,
    cpus: int = 1,
    verbose: bool = False,
    watch: Callable[[Handled], None] = ignore,
) -> None:
    """Run a Flower app in Flower's simulation; what its ServerApp raises is raised.

    Args:
        server: the ServerApp.
        client: the ClientApp of all nodes.
        nodes: virtual nodes, >= 1.
        run_config: what both find in ``context.run_config``.
        cpus: cores per client at work.
        verbose: let Flower and Ray log all they do.
        watch: told of every reply; must not raise.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ConfigError(
            "this backend needs Ray: pip install 'fedcore[ray]', or use the backend "
            "inprocess"
        ) from None
    from flwr.simulation import run_simulation

    config = dict(run_config or {})
    shell = ServerApp()

    @shell.main()
    def main(grid: Grid, context: Context) -> None:
        server(WatchedGrid(grid, watch), replace(context, run_config=config))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Flower's and Ray's own deprecations
        run_simulation(
            shell,
            Configured(client, config),
            num_supernodes=nodes,
            backend_config={"client_resources": {"num_cpus": cpus, "num_gpus": 0.0}},
            verbose_logging=verbose,
        )


def train_on_ray(
    strategy: Strategy[Any],
    pacer: Pacer[Any],
    params: Params,
    rounds: int,
    *,
    load_task: Callable[[Context], Task],
    trainer: Trainer,
    nodes: int,
) -> Any:
    """Train with one of our strategies on Ray; return its last state.

    Names and seeds are those of the plain loop, so the bits are the same.

    Args:
        strategy: what to learn with.
        pacer: when to start peers and fold answers.
        params: the first model.
        rounds: how many to fold.
        load_task: returns a node's share from its ``partition-id``; it is sent to
            other processes, so it must be importable there.
        trainer: what nodes do.
        nodes: virtual nodes, >= 1.
    """
    states: list[Any] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        link = FlowerLink(grid, LinkLimits(wait_for=nodes))
        states.append(Coordinator(Rules(strategy, pacer), link).run(params, rounds))

    run_on_ray(server, client_app(load_task, trainer), nodes)
    return states[0]
