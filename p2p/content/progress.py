"""How far a download is, readable at any time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.names import PeerId
from p2p.content.cid import Cid

LATELY_S = 5.0  # a rate is taken over about so long


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is.

    Attributes:
        size_bytes: of the blob; None until its manifest is here.
        kept_bytes: of chunks that are here, checked.
        bytes_s: good bytes a second, lately.
        sources: good bytes from each peer that may still be asked.
        words: what is going on, for people.
    """

    cid: Cid
    size_bytes: int | None
    kept_bytes: int
    bytes_s: float
    sources: Mapping[PeerId, int]
    words: str


@dataclass
class Rate:
    """Bytes a second, newer ones counting more."""

    at_s: float
    _bytes_s: float = 0.0

    def count(self, size_bytes: int, now_s: float) -> None:
        """Count bytes that came."""
        self._bytes_s, self.at_s = self.bytes_s(now_s) + size_bytes / LATELY_S, now_s

    def bytes_s(self, now_s: float) -> float:
        """Return the rate as of now."""
        return self._bytes_s * math.exp((self.at_s - now_s) / LATELY_S)
