"""A replica that outlives a full disk: it stands still, and goes on from what is kept.

When a write fails, what is in memory may be ahead of the disk, and nobody has heard of
that: so it is dropped, and the replica is made anew from what was committed. Then it
refuses whatever needs the disk, and says why, until there is room again. Nothing is
lost that anybody was told of, as a replica commits before it lets anybody know.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from fedcore.errors import StorageError
from fedcore.names import PeerId
from p2p.machine import (
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Failed,
    Note,
    Refuse,
    Up,
    Wake,
    Woken,
)
from p2p.state.author import Author
from p2p.state.chain import Kind
from p2p.state.facts import Models
from p2p.state.fold import Fold, View
from p2p.state.logs import Logs
from p2p.state.replica import Replica
from p2p.state.store import LogStore

AGAIN_S = 5.0  # between two looks whether there is room
BATCH_BYTES = 4 << 20  # committed at once
LIFE = 1 << 32  # tickets; so many has each replica that was made


class Lasting:
    """Stands in for the ``Replica`` that ``make`` returns; same methods, same machine.

    Attributes:
        why: why it stands still, in words; empty if it does not.
    """

    def __init__(self, store: LogStore, make: Callable[[], Replica]) -> None:
        """Take up what is in ``store``, from which ``make`` makes a replica.

        Raises:
            StorageError: the store cannot be read.
        """
        self._store, self._make = store, make
        self._now = make()
        self.why = ""
        self._whole = True  # what is in memory is what is kept
        self._full = False  # as far as was said
        self._up: dict[PeerId, None] = {}
        self._life = 0  # tickets of earlier replicas are below

    @property
    def topics(self) -> Collection[str]:
        return self._now.topics

    @property
    def logs(self) -> Logs:
        """See ``Replica``, as for what follows."""
        return self._now.logs

    @property
    def author(self) -> Author:
        return self._now.author

    @property
    def fold(self) -> Fold:
        return self._now.fold

    @property
    def models(self) -> Models:
        return self._now.models

    @property
    def ready(self) -> bool:
        return self._now.ready

    @property
    def view(self) -> View:
        return self._now.view

    def root(self) -> str:
        return self._now.root()

    def heads(self) -> dict[PeerId, tuple[int, str]]:
        return self._now.heads()

    def write(self, said: Sequence[tuple[Kind, bytes]]) -> Sequence[Effect]:
        """Write entries of ours; they are durable when this returns.

        Raises:
            ConfigError, ProtocolError: as of ``Replica.write``.
            StorageError: the disk failed, and nothing is written.
        """
        if self.why:
            raise StorageError(self.why)
        try:
            return self._said(self._now.write(said))
        except StorageError as error:
            self._stop(error)
            raise

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        match event:
            case Up(peer):
                self._up[peer] = None
            case Down(peer):
                self._up.pop(peer, None)
            case Answered() | Failed() if event.ticket < self._life:
                return ()  # asked by a replica that is no more
            case Answered() | Failed():
                event = replace(event, ticket=event.ticket - self._life)
        if self.why:
            return self._still(now_s, event)
        try:
            effects = self._now.step(now_s, event)
            self._store.commit(BATCH_BYTES)  # much at once would take long
            return [*self._said(effects), *self._fullness()]
        except StorageError as error:
            self._stop(error)
            note = Note("disk", f"nothing more is written: {self.why}")
            return [note, *_refused(now_s, event)]

    def _fullness(self) -> Sequence[Effect]:
        """Say once that long logs of others do not grow here, and why."""
        before, self._full = self._full, self.logs.full
        if before or not self._full:
            return ()
        words = (
            "the logs of members take half of what they may, so the longest are not "
            "followed any more; raise limit.state_gb"
        )
        return [Note("state", words)]

    def _stop(self, error: StorageError) -> None:
        """Go back to what is kept."""
        self.why, self._whole = str(error), False
        self._renew()

    def _renew(self) -> None:
        """Make the replica anew.

        Raises:
            StorageError: the store cannot even be read; try again.
        """
        author = self._now.author
        self._store.reopen()
        self._now = self._make()
        # Nobody has heard of what the disk did not take, so our logs end where it says.
        self._now.author.safe |= author.safe
        self._now.author.asked |= author.asked
        self._life += LIFE
        self._whole = True

    def _still(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Refuse what others want, and go on if there is room again."""
        if not isinstance(event, Woken):
            return _refused(now_s, event)
        try:
            if not self._whole:
                self._renew()
            self._store.check_room()
        except StorageError as error:
            self.why = str(error)
            return _refused(now_s, event)
        self.why = ""
        effects: list[Effect] = [Note("disk", "the disk takes writes again")]
        for peer in self._up:
            effects += self.step(now_s, Up(peer))
        return [*effects, *self.step(now_s, event)]

    def _said(self, effects: Sequence[Any]) -> Sequence[Effect]:
        """Return ``effects`` with tickets that no earlier replica had."""
        if not self._life:
            return effects
        life = self._life
        asks = (isinstance(e, Ask) for e in effects)
        return [
            replace(e, ticket=e.ticket + life) if ask else e
            for e, ask in zip(effects, asks, strict=True)
        ]


def _refused(now_s: float, event: Event) -> Sequence[Effect]:
    if isinstance(event, Asked):
        return [Refuse(event.ticket, "the disk here takes nothing; ask others")]
    return [Wake(now_s + AGAIN_S)] if isinstance(event, Woken) else ()
