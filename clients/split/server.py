"""The server's side of split learning: the backs, and who trains them."""

import hashlib
from pathlib import Path
from threading import Lock

from clients.split.back import ServerSession, ServerState
from clients.split.channel import Channel, MemoryChannel, Visit
from clients.split.cut import Cut
from clients.split.messages import Message, decode, encode
from clients.split.terms import PLAIN, Split, Trainer, forms_of, greeted, terms_of
from fedcore.checkpoint import pack, unpack
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, ProtocolError, StorageError
from fedcore.params import Params
from fedcore.strategy import PeerId
from fedcore.task import Task

HEAD = "back-"  # of the name of every file with a back


class SplitServer:
    """Holds the back of a model, and trains it with whoever has the session.

    Args:
        task: the same model and loss as the client's. One of its batches is looked
            at, to learn what crosses at the cut; zeros of the right shape will do.
        cut: the same as the client's.
        start: the model to begin with; only the back's part of it is used.
        trainer: how weights move; the same as the client's.
        apart: each client has a back of its own, which begins at ``start``; otherwise
            all share one, and a new session goes on where the last one ended.
        folder: where every step is kept before it is answered, so that a killed
            server goes on; None keeps nothing.
        most: clients that may have a back of their own, >= 1.

    Raises:
        ConfigError: the model cannot be cut like this, or the folder keeps another.
    """

    def __init__(
        self,
        task: Task,
        cut: Cut,
        start: Params,
        trainer: Trainer = PLAIN,
        *,
        apart: bool = False,
        folder: Path | None = None,
        most: int = 64,
    ) -> None:
        self.split, self.start = Split(task, cut, trainer), start
        self.apart, self.most = apart, most
        self._forms = forms_of(self.split)
        self._terms = terms_of(self.split, self._forms)
        self._disk = RealDisk(folder) if folder else None
        self._sessions: dict[str, ServerSession] = {}
        self._lock = Lock()  # torch's generator and threads belong to the process
        if not apart:
            self._last("")  # what is kept there must fit

    def dial(self) -> Channel:
        """Return a channel to this server for a client in the same process."""
        return MemoryChannel(self.visit())

    def visit(self) -> Visit:
        """Return the serving side of a new connection."""
        return _Visit(self)

    def params(self, peer: PeerId = "") -> Params:
        """Return copies of the back's weights; of ``peer``'s, if backs are apart.

        Raises:
            ConfigError: there is no such back.
        """
        with self._lock:
            session = self._last(peer if self.apart else "")
            if session is None and self.apart:
                raise ConfigError(f"no session of {peer!r} has begun")
            if session is None:
                _, back, _ = self.split.parts(0)
                back.load(self.start)
                return back.params()
            return session.back.params()

    def open(self, message: Message) -> ServerSession:
        """Return the session that hello ``message`` asks for, new or gone on with.

        Raises:
            ProtocolError: its terms are not ours, or there are too many clients.
        """
        peer, version = greeted(message, self._terms)
        with self._lock:
            key = peer if self.apart else ""
            last = self._last(key)
            if last is None and self._count() >= self.most:
                raise ProtocolError(f"there are {self.most} clients already")
            if last is None or (last.peer, last.version) != (peer, version):
                if message.step:  # else it would end somebody's session for nothing
                    raise ProtocolError(
                        f"session {version} of {peer} is not here any more, and the "
                        f"client is at step {message.step}: begin another version"
                    )
                last = self._begun(peer, version, last)
            self._sessions[key] = last
            return last

    def _begun(
        self, peer: PeerId, version: int, last: ServerSession | None
    ) -> ServerSession:
        """Return a new session, on the back of the ``last`` one if it is shared."""
        if last is None or self.apart:
            return self._session(peer, version, self.start)
        last.undo()
        return self._session(peer, version, last.back.state().tensors)

    def _session(self, peer: PeerId, version: int, start: Params) -> ServerSession:
        return ServerSession(self.split, self._forms, peer, version, start)

    def _last(self, key: str) -> ServerSession | None:
        """Return the newest session of back ``key``, from the disk if need be."""
        if key in self._sessions or self._disk is None:
            return self._sessions.get(key)
        if _file(key) not in self._disk.names():
            return None
        state = unpack("split server", ServerState, self._disk.read(_file(key)))
        session = self._session(state.peer, state.version, self.start)
        session.restore(state)
        self._sessions[key] = session
        return session

    def _count(self) -> int:
        """Return how many backs there are, those included that are on the disk only."""
        kept = self._disk.names() if self._disk else ()
        files = {name for name in kept if name.startswith(HEAD)}
        return len(files | {_file(key) for key in self._sessions})

    def answer(self, session: ServerSession, data: bytes, message: Message) -> bytes:
        """Return the session's answer; a step is kept before it is told.

        Raises:
            ProtocolError: the message breaks a rule, or the session is over.
        """
        with self._lock:
            key = session.peer if self.apart else ""
            now = self._sessions.get(key)
            if now is not session:
                begun = f"session {now.version} of {now.peer} has begun" if now else ""
                raise ProtocolError(
                    f"order: session {session.version} of {session.peer} is over, "
                    f"{begun or 'as the disk has failed'}"
                )
            before, answer = session.done, session.take(data, message)
            if session.done > before:
                self._keep(key, session)
            return answer

    def _keep(self, key: str, session: ServerSession) -> None:
        """Write ``session`` down; if that fails, it is the one on the disk again.

        Raises:
            StorageError: it failed; nobody must hear of this step.
        """
        if self._disk is None:
            return
        try:
            state = pack("split server", session.state())
            self._disk.replace(_file(key), state)
        except StorageError:
            del self._sessions[key]
            raise


class _Visit:
    """One connection: a hello, then the messages of its session."""

    def __init__(self, server: SplitServer) -> None:
        self._server = server
        self._session: ServerSession | None = None

    def take(self, data: bytes) -> bytes:
        message = decode(data)
        if self._session is None:
            self._session = self._server.open(message)
            return encode(Message("welcome", self._session.done))
        return self._server.answer(self._session, data, message)


def _file(key: str) -> str:
    """Return the file of back ``key``; a peer's name is no name for a file."""
    name = hashlib.sha256(key.encode()).hexdigest()[:16] if key else "shared"
    return f"{HEAD}{name}.safetensors"
