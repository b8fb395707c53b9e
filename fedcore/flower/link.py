"""The coordinator's link over Flower messages: any strategy, any pacer."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedcore.desk import Arrivals, Sent
from fedcore.errors import ProtocolError, QuorumError
from fedcore.flower.bases import Parcel, Shipments, put_base
from fedcore.flower.calls import pull, push
from fedcore.flower.records import pack_works, unpack_update
from fedcore.flower.roster import Roster, reason_of
from fedcore.strategy import PeerId, Update, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """How patient a ``FlowerLink`` is; all in seconds but ``wait_for``.

    Attributes:
        wait_for: peers that must have been online together before any work starts,
            so that the first cohort is drawn from all of them.
        poll_s: between two looks for answers.
        look_s: between two looks for new nodes while waiting.
        ttl_s: how long work may go unanswered before its peer counts as lost.
        grace_s: how long work waits for a peer that is not online.
        patience_s: how long nobody may be at work before the run gives up.
    """

    wait_for: int = 1
    poll_s: float = 0.1
    look_s: float = 1.0
    ttl_s: float = 3600.0
    grace_s: float = 120.0
    patience_s: float = 600.0


class FlowerLink:
    """A ``fedcore.coordinator.Link`` over a Flower grid.

    Works wherever Flower does: its simulation, its deployment, an in-process grid.
    Messages are pushed and pulled, so that semi-asynchronous pacers work too. Nodes
    that fail, die or let a message expire come back as ``Arrivals.lost``. A base model
    goes by its name, and whole only to nodes that lack it (``fedcore.flower.bases``).
    """

    def __init__(
        self,
        grid: Grid,
        limits: LinkLimits | None = None,
        pinned: Mapping[int, PeerId] | None = None,
    ) -> None:
        """Talk through ``grid``; ``pinned`` maps registered node ids to names."""
        self._grid = grid
        self._limits = limits or LinkLimits()
        self._roster = Roster(grid, pinned)
        self._outbox: dict[PeerId, tuple[Work, float]] = {}  # work, and waiting since
        self._busy: dict[str, tuple[PeerId, Parcel]] = {}  # by message id
        self._lost: dict[PeerId, str] = {}
        self._shipments = Shipments()
        self._lacked: set[PeerId] = set()  # whose work waits to go with its model
        self._shift_s = 0.0
        self._gathered = False
        self._offered: Sequence[PeerId] = ()
        self._looked_s = self._active_s = self.now_s()

    def now_s(self) -> float:
        return time.monotonic() + self._shift_s

    def idle(self) -> Sequence[PeerId]:
        self._looked_s = self.now_s()
        self._roster.look()
        self._offered = self._idle()
        return self._offered

    def _idle(self) -> Sequence[PeerId]:
        named = self._roster.named()
        self._gathered = self._gathered or len(named) >= self._limits.wait_for
        if not self._gathered:
            return []
        at_work = {peer for peer, _ in self._busy.values()}
        return sorted(named.keys() - at_work - self._outbox.keys() - self._lost.keys())

    def send(self, peer: PeerId, work: Work) -> None:
        self._outbox[peer] = (work, self.now_s())
        self._lacked.discard(peer)

    def resume(self, sent: Mapping[PeerId, Sent], now_s: float) -> None:
        self._shift_s = now_s - time.monotonic()
        self._looked_s = self._active_s = now_s
        for peer, out in sent.items():
            self.send(peer, out.work)

    def receive(self, until_s: float) -> Arrivals:
        while True:
            self._flush()
            arrivals = self._pull()
            if arrivals.updates or arrivals.lost:
                return arrivals
            self._check_patience()
            left_s = until_s - self.now_s()
            time.sleep(min(self._limits.poll_s, max(left_s, 0.001)))
            if self.now_s() >= until_s or self._news():
                return arrivals

    def _flush(self) -> None:
        """Send what waits in the outbox, in one push, each model once."""
        named, now_s = self._roster.named(), self.now_s()
        ready = {p: work for p, (work, _) in self._outbox.items() if p in named}
        for peer, (_, since_s) in list(self._outbox.items()):
            if peer in ready:
                del self._outbox[peer]
            elif now_s - since_s > self._limits.grace_s:
                del self._outbox[peer]
                self._lost[peer] = "is not online"
        parcels = {
            peer: self._shipments.parcel(named[peer], work, lacked=peer in self._lacked)
            for peer, work in ready.items()
        }
        messages = _messages(list(parcels.values()), self._limits.ttl_s)
        ids = push(self._grid, messages) if messages else []
        for message_id, (peer, parcel) in zip(ids, parcels.items(), strict=True):
            self._lacked.discard(peer)
            if message_id is None:
                self._lost[peer] = "the SuperLink did not accept the message"
            else:
                self._busy[message_id] = (peer, parcel)

    def _pull(self) -> Arrivals:
        updates, lost = [], dict(self._lost)
        self._lost.clear()
        replies = pull(self._grid, self._busy) if self._busy else []
        for reply in replies:
            asked = self._busy.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            peer, parcel = asked
            try:
                update = self._opened(reply, peer, parcel)
            except ProtocolError as cause:
                lost[peer] = str(cause)
                log.warning("%s: %s", peer, cause)
                continue
            if update is None:
                self.send(peer, parcel.work)
                self._lacked.add(peer)
            else:
                updates.append(update)
        return Arrivals(updates, lost)

    def _opened(self, reply: Message, peer: PeerId, parcel: Parcel) -> Update | None:
        """Return the update in ``reply``; None if the peer lacks the base model.

        Raises:
            ProtocolError: there is neither; says why.
        """
        if reply.has_error():
            raise ProtocolError(reason_of(reply.error))
        if reply.metadata.src_node_id != parcel.node:
            raise ProtocolError("the answer came from another node")
        if self._shipments.lacks(parcel, reply.content):
            return None
        return unpack_update(peer, reply.content)

    def _news(self) -> bool:
        """Return whether a peer is idle that the coordinator was not told of."""
        now_s = self.now_s()
        if now_s - self._looked_s >= self._limits.look_s or not self._offered:
            self._looked_s = now_s
            self._roster.look()
        return not set(self._idle()) <= set(self._offered)

    def _check_patience(self) -> None:
        now_s, limits = self.now_s(), self._limits
        if self._busy or self._outbox:
            self._active_s = now_s
        elif now_s - self._active_s > limits.patience_s:
            raise QuorumError(
                f"no peer was at work for {limits.patience_s:.0f} s: "
                f"{len(self._roster.named())} online, {limits.wait_for} needed to "
                f"start, {len(self._roster.refused)} refused"
            )


def _messages(parcels: Sequence[Parcel], ttl_s: float) -> list[Message]:
    """Return ``parcels`` as messages; those with one model share its arrays."""
    messages = []
    contents = pack_works([parcel.packable() for parcel in parcels])
    for parcel, records in zip(parcels, contents, strict=True):
        if parcel.base is not None:
            put_base(records, parcel.base, whole=parcel.whole)
        messages.append(
            Message(
                records,
                dst_node_id=parcel.node,
                message_type=MessageType.TRAIN,
                ttl=ttl_s,
                group_id=str(parcel.work.version + 1),
            )
        )
    return messages
