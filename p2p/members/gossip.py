"""What members tell each other about all of them, in one message.

How many cards (1 byte), each with its size and the newest beat's index and link; how
many beats (varint), and the beats; how many ids of wanted cards (1), and the ids.
"""

from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.wire import Reader, varint
from p2p.members.card import (
    BEAT_BYTES,
    ID_BYTES,
    MAX_CARD_BYTES,
    Beat,
    Card,
    packed_beats,
    read_beats,
    read_card,
)

MAX_GOSSIP_BYTES = 1 << 16
MAX_WORDS = 64
MAX_BEATS_TOLD = 1 << 12
MAX_WANTED = 64
Word = tuple[Card, Beat]  # a card and its newest beat


@dataclass(frozen=True)
class Gossip:
    """One message of ``/pulse/1``.

    Attributes:
        words: cards that are new, or were wanted, each with its newest beat.
        beats: of cards that the other should have.
        wanted: ids of cards that we heard a beat of, and do not have.
    """

    words: tuple[Word, ...] = ()
    beats: tuple[Beat, ...] = ()
    wanted: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        words = b"".join(packed_word(word) for word in self.words)
        beats = packed_beats(self.beats)
        head = bytes([len(self.words)]) + words + varint(len(self.beats)) + beats
        return head + bytes([len(self.wanted)]) + b"".join(self.wanted)


def packed_word(word: Word) -> bytes:
    """Return a card and its newest beat as they are in a message."""
    raw = word[0].raw
    return varint(len(raw)) + raw + word[1].encode()[ID_BYTES:]


def read_gossip(data: bytes) -> Gossip:
    """Return the message; cards are signed, beats belong to nothing yet.

    Raises:
        ProtocolError: it is damaged or too large, or a card is forged.
    """
    if len(data) > MAX_GOSSIP_BYTES:
        raise ProtocolError(f"gossip of {len(data)} bytes, above {MAX_GOSSIP_BYTES}")
    reader = Reader(data)
    words = tuple(_read_word(reader) for _ in range(_up_to(reader, MAX_WORDS)))
    count = reader.varint(MAX_BEATS_TOLD)
    beats = tuple(read_beats(bytes(reader.take(count * BEAT_BYTES))))
    if len({beat.card for beat in beats}) < len(beats):
        raise ProtocolError("two beats of one card")
    count = _up_to(reader, MAX_WANTED)
    wanted = tuple(bytes(reader.take(ID_BYTES)) for _ in range(count))
    gossip = Gossip(words, beats, wanted)
    if gossip.encode() != data:
        raise ProtocolError("gossip in a form that nobody writes")
    return gossip


def _read_word(reader: Reader) -> Word:
    raw = bytes(reader.take(reader.varint(MAX_CARD_BYTES)))
    card = read_card(raw)
    (beat,) = read_beats(card.id + bytes(reader.take(BEAT_BYTES - ID_BYTES)))
    return card, beat


def _up_to(reader: Reader, most: int) -> int:
    count = reader.take(1)[0]
    if count > most:
        raise ProtocolError(f"{count} at once: more than {most}")
    return count
