"""The client's side of split learning: a session over channels, step by step."""

import time
from dataclasses import dataclass
from pathlib import Path

from clients.split.channel import Dial
from clients.split.cut import Cut
from clients.split.front import ClientSession, ClientState, Trained
from clients.split.terms import PLAIN, Split, Trainer
from fedcore.checkpoint import pack, unpack
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, PeerLostError
from fedcore.params import Params
from fedcore.strategy import PeerId
from fedcore.task import Task

WAIT_S = 0.1  # before the first new try; then twice as long each time


@dataclass(frozen=True, slots=True)
class SplitClient:
    """Trains the front of a model on examples that stay here.

    Attributes:
        task: the examples, the model and the loss.
        cut: which blocks stay here.
        trainer: how weights move; the server must say the same.
        peer: our name; it names the draws, too.
        folder: where each step is kept, so that a killed client goes on; None keeps
            nothing.
        tries: connections to try one after the other without any progress, >= 1.
    """

    task: Task
    cut: Cut
    trainer: Trainer = PLAIN
    peer: PeerId = "client"
    folder: Path | None = None
    tries: int = 5

    def train(self, dial: Dial, steps: int, start: Params, version: int = 0) -> Trained:
        """Take ``steps`` steps with the server at the other end of ``dial``.

        Args:
            dial: opens a channel, such as ``tcp(host, port)`` or ``server.dial``.
            steps: batches to train on, >= 1.
            start: the model to begin with; only the client's part of it is used.
            version: names the session: another one begins anew.

        Raises:
            ConfigError: the model cannot be cut like this, or the folder keeps
                another under the same name and version.
            ProtocolError: the server refused, or broke a rule.
            PeerLostError: no connection brought any progress.
        """
        if steps < 1:
            raise ConfigError(f"steps must be >= 1, not {steps}")
        split = Split(self.task, self.cut, self.trainer)
        session = ClientSession(split, self.peer, version, start, steps)
        store = Store(self.folder) if self.folder else None
        if store is not None:
            store.recall(session)
        tried, reached = 0, -1
        while True:
            try:
                self._walk(session, dial, store)
                return session.trained()
            except PeerLostError:
                tried = tried + 1 if session.done == reached else 1
                reached = session.done
                if tried >= self.tries:
                    raise
                time.sleep(WAIT_S * 2 ** (tried - 1))

    def _walk(self, session: ClientSession, dial: Dial, store: "Store | None") -> None:
        channel = dial()
        try:
            channel.send(session.begin())
            done = session.done
            while True:
                session.take(channel.receive())
                if session.over:
                    return
                if store is not None and session.done > done:
                    store.keep(session)
                done = session.done
                channel.send(session.say())
        finally:
            channel.close()


@dataclass(frozen=True, slots=True)
class Store:
    """Where a client keeps its session between steps."""

    folder: Path

    def recall(self, session: ClientSession) -> None:
        """Bring ``session`` to where it was kept, if it is the one kept here.

        Raises:
            ConfigError: it is of another cut, model or rule.
            StorageError: what is there cannot be read.
        """
        disk = RealDisk(self.folder)
        if _NAME in disk.names():
            state = unpack("split client", ClientState, disk.read(_NAME))
            if (state.peer, state.version) == (session.peer, session.version):
                session.restore(state)

    def keep(self, session: ClientSession) -> None:
        """Keep ``session``, which has just finished a step.

        Raises:
            StorageError: the disk failed; what was kept before is intact.
        """
        data = pack("split client", session.state())
        RealDisk(self.folder).replace(_NAME, data)


_NAME = "client.safetensors"
