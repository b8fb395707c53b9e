"""What a peer answers others who search: whom it knows, and the records it keeps."""

from collections.abc import Callable
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from p2p.content.buckets import Buckets
from p2p.content.notices import Notices
from p2p.content.records import (
    K,
    Record,
    check_record,
    decode_question,
    encode_found,
    target_of,
)
from p2p.machine import Answer, Asked, Refuse


@dataclass(frozen=True)
class Directory:
    """The answering half of a lookup; see ``p2p.content.lookup``."""

    buckets: Buckets
    notices: Notices
    network: str
    wall: Callable[[], float]

    def asked(self, now_s: float, event: Asked) -> Answer | Refuse:
        """Answer one question; who asks is known from then on.

        Raises:
            ProtocolError: it is malformed, or a record that cannot be believed.
        """
        question = decode_question(event.body)
        if isinstance(question, Record):
            return self._keep(now_s, event, question)
        if isinstance(question, str):
            place, records = target_of(question), self.notices.of(question, now_s)
        else:
            place, records = question, []
        peers = [p for p in self.buckets.nearest(place, K + 1) if p != event.peer]
        self.buckets.seen(event.peer, now_s)
        return Answer(event.ticket, encode_found(peers[:K], records))

    def holds(self, record: Record) -> bool:
        """Return whether ``record`` may be believed now."""
        try:
            check_record(record, self.network, self.wall())
        except ProtocolError:
            return False
        return True

    def _keep(self, now_s: float, event: Asked, record: Record) -> Answer | Refuse:
        if record.peer != event.peer:
            raise ProtocolError(f"a record of {record.peer}, brought by another peer")
        check_record(record, self.network, self.wall())
        self.buckets.seen(event.peer, now_s)
        why = self.notices.keep(record, now_s)
        return Refuse(event.ticket, why) if why else Answer(event.ticket, b"")
