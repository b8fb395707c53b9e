"""Unmodified Flower apps in one process: no Ray, no SuperLink, no waiting.

``Grid``, ``ServerApp`` and ``ClientApp`` are public, so the ServerApp runs as it is,
on a grid that calls the ClientApp. Messages are answered when somebody pulls their
replies, in the order in which they were sent. Runs repeat: node ids, their order and
the global random generators come from one seed (see ``sims.flower.node``).

Compared with Flower's own simulation: replies come in the order of the messages, not
of their completion; a pull waits for the replies it asks for; what a client put into
``context.state`` before it raised is kept, as in Flower's deployment.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedcore.errors import ConfigError
from fedcore.seeds import seed_of
from sims.flower.identity import Run, assume_run, new_run, stamp
from sims.flower.node import (
    EXPIRED,
    GONE,
    Failure,
    Outcome,
    answer,
    as_reply,
    borrowed_generators,
    round_of,
    seed_generators,
)
from sims.flower.workers import Job, Workers

Config = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Handled:
    """One message that is done, for those who watch.

    Attributes:
        node_id: Flower's id of the node.
        partition: the node's ``partition-id``; -1 where it is not known.
        round: as the app wrote it into the message; empty if it did not.
        kind: the message type, such as ``train``.
        outcome: the records of the reply, or the failure.
    """

    node_id: int
    partition: int
    round: str
    kind: str
    outcome: Outcome


def ignore(handled: Handled) -> None:
    """Watch nothing."""


class InProcessGrid(Grid):
    """A Flower grid of virtual nodes; a context manager.

    Node ids ascend with the partition. ``offline`` holds ids of nodes that are away:
    they are not listed, and messages to them fail as Flower says it.
    """

    def __init__(
        self,
        client: ClientApp,
        nodes: int,
        *,
        run_config: Config | None = None,
        seed: int = 0,
        workers: int = 0,
        watch: Callable[[Handled], None] = ignore,
    ) -> None:
        """Make ``nodes`` virtual nodes that run ``client``.

        Args:
            client: the ClientApp of all nodes.
            nodes: how many, >= 1; a node costs nothing until it gets a message.
            run_config: what every node finds in ``context.run_config``.
            seed: of everything that is random.
            workers: forked processes for messages; 0 answers them in this one.
            watch: told of every message that is done; must not raise.

        Raises:
            ConfigError: a number that cannot work.
        """
        if nodes < 1 or workers < 0:
            raise ConfigError(f"needs nodes >= 1 and workers >= 0: {nodes}, {workers}")
        self.offline: set[int] = set()
        self._client, self._seed, self._watch = client, seed, watch
        self._run_config = dict(run_config or {})
        drawn = (seed_of("flower-node", seed, i) >> 1 for i in range(nodes))
        self._partition = {node: i for i, node in enumerate(sorted(drawn))}
        self._contexts: dict[int, Context] = {}
        self._served: dict[int, int] = {}  # node -> messages it had
        self._waiting: dict[str, Message] = {}
        self._pushed = 0
        self._lock = threading.RLock()  # old ServerApps call from many threads
        self.set_run(new_run(seed_of("flower-run", seed) >> 1))
        self._workers = Workers(client, workers) if workers else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._workers is not None:
            self._workers.close()

    def set_run(self, run: Run) -> None:
        self._run = run
        assume_run(run.run_id)

    @property
    def run(self) -> Run:
        return self._run

    @property
    def handled(self) -> int:
        """Messages answered so far."""
        return sum(self._served.values())

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        if not self.offline:
            return list(self._partition)
        return [node for node in self._partition if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        with self._lock:
            for message in messages:
                self._pushed += 1
                stamp(message, f"{self._pushed:x}")
                if message.metadata.dst_node_id in self._partition:
                    self._waiting[message.metadata.message_id] = message
                    ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self._answer(message_ids, None)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        until_s = None if timeout is None else time.monotonic() + timeout
        return self._answer(self.push_messages(messages), until_s)

    def _answer(self, ids: Iterable[str], until_s: float | None) -> list[Message]:
        """Return replies to those of ``ids`` that wait, in the order they were sent.

        What is not begun at ``until_s`` goes on waiting.
        """
        with self._lock, borrowed_generators(threads=1):
            wanted = [
                self._waiting[i] for i in dict.fromkeys(ids) if i in self._waiting
            ]
            return [r for wave in waves(wanted) for r in self._replies(wave, until_s)]

    def _replies(self, wave: list[Message], until_s: float | None) -> list[Message]:
        failed = [self._undeliverable(message) for message in wave]
        jobs = [self._job(m) for m, f in zip(wave, failed, strict=True) if f is None]
        done = self._outcomes(jobs, until_s)
        replies = []
        for message, failure in zip(wave, failed, strict=True):
            outcome = next(done) if failure is None else failure
            if outcome is not None:
                replies.append(self._settle(message, outcome))
        return replies

    def _outcomes(
        self, jobs: list[Job], until_s: float | None
    ) -> Iterator[Outcome | None]:
        if self._workers is not None:
            return self._workers.run(jobs, until_s)
        return (self._here(job, until_s) for job in jobs)

    def _here(self, job: Job, until_s: float | None) -> Outcome | None:
        if until_s is not None and time.monotonic() >= until_s:
            return None
        seed_generators(job.seed)
        return answer(self._client, job.message, job.context)

    def _settle(self, message: Message, outcome: Outcome) -> Message:
        """Take ``message`` off the queue; tell the watcher; return the reply."""
        meta = message.metadata
        node, message_id = meta.dst_node_id, meta.message_id
        del self._waiting[message_id]
        if not isinstance(outcome, Failure) or outcome.code not in (GONE, EXPIRED):
            self._served[node] = self._served.get(node, 0) + 1
        partition = self._partition[node]
        label = round_of(message)
        self._watch(Handled(node, partition, label, meta.message_type, outcome))
        return stamp(as_reply(outcome, message), f"{message_id}-reply")

    def _undeliverable(self, message: Message) -> Failure | None:
        meta = message.metadata
        if meta.dst_node_id in self.offline:
            return Failure(GONE, "Node Unavailable - the node is not online")
        if meta.created_at + meta.ttl < time.time():
            return Failure(EXPIRED, "Message Unavailable - it expired before its reply")
        return None

    def _job(self, message: Message) -> Job:
        node = message.metadata.dst_node_id
        serial = self._served.get(node, 0)
        seed = seed_of("flower-message", self._seed, self._partition[node], serial)
        return Job(message, self._context(node), seed >> 1)

    def _context(self, node: int) -> Context:
        if node not in self._contexts:
            self._contexts[node] = Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={
                    "partition-id": self._partition[node],
                    "num-partitions": len(self._partition),
                },
                state=RecordDict(),
                run_config=dict(self._run_config),
            )
        return self._contexts[node]


def waves(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Yield ``messages`` in order, no node twice in one list: it has one state."""
    wave: dict[int, Message] = {}
    for message in messages:
        node = message.metadata.dst_node_id
        if node in wave:
            yield list(wave.values())
            wave = {}
        wave[node] = message
    yield list(wave.values())
