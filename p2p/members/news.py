"""What is still worth telling, and how much of it goes into one message."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.members.card import BEAT_BYTES
from p2p.members.gossip import MAX_WORDS, Gossip, Word, packed_word

TICK_S = 1.0
FANOUT = 3  # peers told each tick
BYTES_S = 1 << 16  # told to all of them together, each second; replies as much again
MESSAGE_BYTES = int(BYTES_S * TICK_S) // FANOUT
CARD_ROUNDS = 4  # ticks; one in e^12 misses it, and asks when it hears a beat
BEAT_ROUNDS = 2  # ticks; the next beat makes up for one that somebody missed
_MAX_BEATS = MESSAGE_BYTES // 2 // BEAT_BYTES


@dataclass
class News:
    """For how many more ticks the card, or only the beat, of each member is told."""

    _cards: dict[PeerId, int] = field(default_factory=dict)
    _beats: dict[PeerId, int] = field(default_factory=dict)
    _replied: set[PeerId] = field(default_factory=set)

    def card(self, peer: PeerId) -> None:
        """Tell the card of ``peer``, which is new."""
        self._cards[peer] = CARD_ROUNDS

    def beat(self, peer: PeerId) -> None:
        """Tell the newest beat of ``peer``."""
        self._beats[peer] = BEAT_ROUNDS

    def gossip(self, word_of: Callable[[PeerId], Word | None]) -> Gossip | None:
        """Return the message of this tick; None if there is nothing to tell."""
        self._replied.clear()
        for queue in (self._cards, self._beats):
            for peer in [peer for peer in queue if word_of(peer) is None]:
                del queue[peer]  # it is no member any more
        words = _fitting(word_of(peer) for peer in _newest(self._cards))
        _count_down(self._cards, _newest(self._cards)[: len(words)])
        peers = _newest(self._beats)[:_MAX_BEATS]
        beats = tuple(word[1] for word in map(word_of, peers) if word)
        _count_down(self._beats, peers)
        return Gossip(words, beats) if words or beats else None

    def reply(
        self, peer: PeerId, words: Iterable[Word | None], wanted: Sequence[bytes]
    ) -> Gossip | None:
        """Return what to answer ``peer``, at most once a tick; None if nothing."""
        fitting = _fitting(words)
        if peer in self._replied or not (fitting or wanted):
            return None
        self._replied.add(peer)
        return Gossip(fitting, wanted=tuple(wanted))


def _newest(queue: Mapping[PeerId, int]) -> list[PeerId]:
    """Return the peers of ``queue``, those told least often first."""
    return sorted(queue, key=lambda peer: -queue[peer])


def _count_down(queue: dict[PeerId, int], told: Iterable[PeerId]) -> None:
    for peer in told:
        queue[peer] -= 1
        if not queue[peer]:
            del queue[peer]


def _fitting(words: Iterable[Word | None]) -> tuple[Word, ...]:
    """Return the first of ``words`` that fit into half a message."""
    out: list[Word] = []
    size_bytes = 0
    for word in words:
        size_bytes += len(packed_word(word)) if word else 0
        if size_bytes > MESSAGE_BYTES // 2 or len(out) == MAX_WORDS:
            break
        out += [word] if word else []
    return tuple(out)
