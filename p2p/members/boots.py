"""Notices two programs that run with one key: a boot nonce that comes back.

A program draws its boot nonce once, so a nonce that is heard again after another one
took its place means that both programs live.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.machine import Note
from p2p.members.card import Card

MAX_PEERS = 4096
MAX_PAST = 8
LATE_S = 15.0  # what a program has said as it ended may arrive so long after


@dataclass
class Boots:
    """The boot nonces of each peer, the newest last, in bounded memory.

    Attributes:
        returns: how often one must come back. Once is proof if it was heard from the
            program itself; of hearsay, a late word of a program that has ended can
            bring it back, and its successor after it, so that takes more.
    """

    returns: int = 1
    _heard: OrderedDict[PeerId, list[bytes]] = field(default_factory=OrderedDict)
    _came_back: dict[PeerId, int] = field(default_factory=dict)
    _new_s: dict[PeerId, float] = field(default_factory=dict)

    def hear(self, peer: PeerId, boot: bytes) -> bool:
        """Note that ``boot`` is alive; return whether another one is, too."""
        boots = self._heard.setdefault(peer, [])
        self._heard.move_to_end(peer)
        if len(self._heard) > MAX_PEERS:
            oldest, _ = self._heard.popitem(last=False)
            self._came_back.pop(oldest, None)
            self._new_s.pop(oldest, None)
        if boots and boots[-1] == boot:
            return False
        self._heard[peer] = [*(b for b in boots if b != boot), boot][-MAX_PAST:]
        return boot in boots and self._counted(peer)

    def told(self, peer: PeerId, cards: Iterable[Card], now_s: float) -> list[Note]:
        """Hear the cards that ``peer`` itself tells: even an old one proves it alive.

        Two programs with one key may never hear of each other, as what others say to
        them goes to the one that came last. One that has just ended may still be heard
        for a while, on connections of its own.
        """
        found = []
        for boot in [card.boot for card in cards if card.peer == peer]:
            if boot not in self._heard.get(peer, ()):
                self._new_s[peer] = now_s
            if self.hear(peer, boot) and now_s - self._new_s[peer] > LATE_S:
                found.append(twin_note(peer))
        return found

    def _counted(self, peer: PeerId) -> bool:
        count = self._came_back.pop(peer, 0) + 1
        if count < self.returns:
            self._came_back[peer] = count
        return count >= self.returns


def twin_note(peer: PeerId) -> Note:
    """Return what to say about two programs with the key of ``peer``."""
    words = (
        f"two programs run with the key of {peer}: stop one of them, or give it a key "
        "of its own; a key must never be copied"
    )
    return Note("twin", words, peer)
