"""What we heard of each member, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.members.card import Beat, Card, follows
from p2p.members.gossip import Gossip, Word

State = Literal["alive", "suspect", "gone"]
MAX_MEMBERS = 4096


@dataclass(slots=True)
class Entry:
    """What we know of one member.

    Attributes:
        id: of its card.
        heard_s: when its newest sign of life came, by our clock that never goes back.
        state: ``"suspect"`` after a silence, until a question of ours is answered.
    """

    card: Card
    id: bytes
    beat: Beat
    heard_s: float
    state: State = "alive"

    @property
    def word(self) -> Word:
        """Its card and newest beat."""
        return self.card, self.beat


@dataclass
class Roster:
    """The newest card and beat of each member.

    Those who are gone stay as long as there is room, so that their old cards and beats
    cannot bring them back.
    """

    entries: dict[PeerId, Entry] = field(default_factory=dict)
    by_id: dict[bytes, Entry] = field(default_factory=dict)

    def check(self, gossip: Gossip) -> None:
        """Raise ProtocolError if a beat in ``gossip`` is not its owner's."""
        for card, beat in gossip.words:
            known = self.by_id.get(beat.card)
            first = known.beat if known else Beat(beat.card, 0, card.anchor)
            _check_beat(card.peer, first, beat)
        for beat in gossip.beats:
            known = self.by_id.get(beat.card)
            if known and beat != known.beat:  # most are what we have heard already
                _check_beat(known.card.peer, known.beat, beat)

    def is_news(self, word: Word) -> bool:
        """Return whether this card is newer than what is known."""
        known = self.entries.get(word[0].peer)
        return known is None or _age(word[0]) > _age(known.card)

    def is_stale(self, word: Word) -> bool:
        """Return whether a newer card is known than this one."""
        known = self.entries.get(word[0].peer)
        return known is not None and _age(word[0]) < _age(known.card)

    def put(self, word: Word, now_s: float) -> Entry | None:
        """Take a newer card; return its entry, or None if there is no room for it.

        Ids are short, so two peers can make cards of one id; the first one has it.
        """
        card, beat = word
        known, same = self.entries.get(card.peer), self.by_id.get(beat.card)
        taken = same is not None and same is not known
        if taken or (known is None and not self._has_room()):
            return None
        if known:
            del self.by_id[known.id]
        entry = Entry(card, beat.card, beat, now_s)
        self.entries[card.peer] = self.by_id[beat.card] = entry
        return entry

    def hear(self, beat: Beat, now_s: float) -> Entry | None:
        """Take a beat that was checked; return its entry if it was news."""
        entry = self.by_id.get(beat.card)
        if entry is None or beat.number <= entry.beat.number:
            return None
        entry.beat, entry.heard_s = beat, now_s
        return entry

    def forget(self, stays: Callable[[PeerId], bool]) -> None:
        """Forget everyone who does not stay."""
        for peer in [peer for peer in self.entries if not stays(peer)]:
            del self.by_id[self.entries.pop(peer).id]

    def present(self) -> Iterator[tuple[PeerId, Entry]]:
        """Yield the members that are not gone."""
        return ((p, e) for p, e in self.entries.items() if e.state != "gone")

    def _has_room(self) -> bool:
        """Make room, if it must be, by forgetting who has been gone longest."""
        if len(self.entries) < MAX_MEMBERS:
            return True
        gone = [(e.heard_s, p) for p, e in self.entries.items() if e.state == "gone"]
        if gone:
            del self.by_id[self.entries.pop(min(gone)[1]).id]
        return bool(gone)


def _age(card: Card) -> tuple[int, bytes, bytes]:
    """Return what orders the cards of one peer; two with one counter have an order."""
    return card.counter, card.boot, card.signature


def _check_beat(peer: PeerId, earlier: Beat, later: Beat) -> None:
    if later.number >= earlier.number and not follows(later, earlier):
        raise ProtocolError(f"a forged sign of life of {peer}")
