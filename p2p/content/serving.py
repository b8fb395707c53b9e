"""What a peer answers others about its blobs, in turn and at a bounded pace."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from fedcore.errors import ProtocolError, StorageError
from fedcore.names import PeerId
from p2p.content.asks import (
    CHUNK,
    TOPIC,
    WHAT,
    Wanted,
    decode_ask,
    encode_stock,
    encode_told,
    nothing,
)
from p2p.content.cid import Cid
from p2p.content.manifest import encode_manifest
from p2p.content.shelf import Shelf
from p2p.content.slots import Slots
from p2p.machine import Answer, Asked, Effect, Note, Refuse, Tell, Ticket

MAX_WATCHERS = 64  # of one blob
TELL_S = 1.0  # between news of one blob


@dataclass(frozen=True, slots=True)
class _Waiting:
    ticket: Ticket
    ask: Wanted


class Serving:
    """The answering half of a swarm.

    Args:
        wanted: blobs that are being fetched.

    Attributes:
        damaged: blobs of which a chunk was found damaged; the reader empties it.
    """

    def __init__(self, shelf: Shelf, up_bytes_s: float, wanted: Container[Cid]) -> None:
        self.shelf, self._wanted = shelf, wanted
        self.damaged: list[Cid] = []
        self._slots: Slots[_Waiting] = Slots(up_bytes_s)
        self._watchers: dict[Cid, dict[PeerId, None]] = {}  # of blobs here in part
        self._told: dict[Cid, int] = {}  # chunks that the watchers know of
        self._tell_s = 0.0

    def asked(self, event: Asked) -> Sequence[Effect]:
        """Answer, or queue, one ask.

        Raises:
            ProtocolError: it is malformed.
        """
        ask = decode_ask(event.body)
        if ask.kind == WHAT:
            return [Answer(event.ticket, self._stock(event.peer, ask.cid))]
        if self._slots.offer(event.peer, _Waiting(event.ticket, ask)):
            return []
        return [Refuse(event.ticket, "busy")]

    def serve(self, now_s: float) -> list[Effect]:
        """Answer those whose turn it is."""
        effects: list[Effect] = []
        while (waiting := self._slots.take(now_s)) is not None:
            effects += self._answer(waiting)
        return effects

    def ready_s(self, now_s: float) -> float | None:
        """Return when ``serve`` can go on; None if nobody waits."""
        return self._slots.ready_s(now_s)

    def drop(self, peer: PeerId) -> list[Effect]:
        """Forget a peer that is gone; what it asked is refused, so that it ends."""
        for watchers in self._watchers.values():
            watchers.pop(peer, None)
        return [Refuse(w.ticket, "gone meanwhile") for w in self._slots.drop(peer)]

    def news(self, now_s: float) -> list[Effect]:
        """Tell peers who asked about blobs that were here in part what came since."""
        if now_s < self._tell_s + TELL_S:
            return []
        self._tell_s = now_s
        effects: list[Effect] = []
        for cid in list(self._watchers):
            blob = self.shelf.blob(cid)
            if blob is not None and blob.kept > self._told.get(cid, 0):
                self._told[cid] = blob.kept
                body = encode_told(cid, self.shelf.have(cid))
                effects += [Tell(peer, TOPIC, body) for peer in self._watchers[cid]]
            if cid not in self._wanted:
                del self._watchers[cid]
                self._told.pop(cid, None)
        return effects

    @property
    def has_watchers(self) -> bool:
        """Whether ``news`` may have something to say."""
        return bool(self._watchers)

    def _stock(self, peer: PeerId, cid: Cid) -> bytes:
        blob = self.shelf.blob(cid)
        if cid in self._wanted:  # more of it will come
            watchers = self._watchers.setdefault(cid, {})
            if len(watchers) < MAX_WATCHERS:
                watchers[peer] = None
        return nothing() if blob is None else encode_stock(self.shelf.have(cid))

    def _answer(self, waiting: _Waiting) -> list[Effect]:
        ask, ticket = waiting.ask, waiting.ticket
        try:
            body = self._body(ask)
        except ProtocolError as error:
            return [Refuse(ticket, str(error))]
        except StorageError as error:
            self.damaged.append(ask.cid)
            return [Refuse(ticket, "damaged here"), Note("damage", str(error))]
        self._slots.spend(len(body))
        return [Answer(ticket, body)]

    def _body(self, ask: Wanted) -> bytes:
        if ask.kind == CHUNK:
            return self.shelf.chunk(ask.cid, ask.index)
        manifest = self.shelf.manifest(ask.cid)
        if manifest is None:
            raise ProtocolError(f"nothing of {ask.cid} is here")
        return encode_manifest(manifest)
