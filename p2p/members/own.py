"""Our own card and its beats."""

import random
from dataclasses import dataclass, field

from p2p.identity.keys import SEED_BYTES, Key
from p2p.members.card import (
    BOOT_BYTES,
    MAX_BEATS,
    MAX_COUNTER,
    About,
    Beat,
    Card,
    chain_of,
    new_card,
)
from p2p.members.gossip import Word

CARD_GAP_S = 5.0  # between two cards, unless somebody else uses our name
TELL_AGAIN = 8  # beats; our card is told anew, lest a twin of ours goes unnoticed


@dataclass
class Own:
    """What we say about ourselves, and how often we said that we live.

    Attributes:
        boot: 8 random bytes, drawn once.
        card: the newest; ``id`` is its id.
    """

    key: Key
    about: About
    rng: random.Random
    boot: bytes = field(init=False)
    card: Card = field(init=False)
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.boot = self.rng.randbytes(BOOT_BYTES)
        self._due_s = 0.0
        self.renew(0)

    def word(self) -> Word:
        """Return the newest card and beat."""
        return self.card, Beat(self.id, self._index, self._links[self._index])

    def say(self, about: About) -> None:
        """Say ``about`` on the next card.

        Raises:
            ProtocolError: others would refuse it.
        """
        new_card(self.key, self.boot, 0, self.card.anchor, about)
        self.about = about

    def beat(self, now_s: float) -> bool:
        """Give a sign of life; return whether the card is to be told with it."""
        changed = self.card.about != self.about and now_s >= self._due_s
        if changed or self._index == MAX_BEATS:
            self.renew(self.card.counter + 1)
            self._due_s = now_s + CARD_GAP_S
            return True
        self._index += 1
        return self._index % TELL_AGAIN == 0

    def renew(self, counter: int) -> None:
        """Sign a new card, with ``counter``, and begin a new chain of beats."""
        self._links = chain_of(self.rng.randbytes(SEED_BYTES))
        counter, anchor = min(counter, MAX_COUNTER), self._links[0]
        self.card = new_card(self.key, self.boot, counter, anchor, self.about)
        self.id, self._index = self.card.id, 0
