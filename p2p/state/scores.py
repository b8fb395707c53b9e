"""What members think of each other: one register for each pair.

Whose word has which weight is for the reader to say, at the time of reading; a crowd of
invented raters weighs nothing if none of them is given a weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedcore.names import PeerId
from p2p.state.bodies import Score, read_as
from p2p.state.registers import Registers
from p2p.state.said import Said, Stamp


@dataclass(frozen=True, slots=True)
class Ratings:
    """Scores by ratee and rater, in millionths."""

    by_ratee: Mapping[PeerId, Mapping[PeerId, int]]

    def of(self, ratee: PeerId, weights: Mapping[PeerId, int]) -> int | None:
        """Return the weighted median of what is thought of ``ratee``, in millionths.

        Of an even split the lower value. None if nobody of weight has rated it.

        Args:
            ratee: the peer.
            weights: of raters, >= 0; others have none. Nobody rates itself.
        """
        scores = sorted(
            (score, weights.get(rater, 0))
            for rater, score in self.by_ratee.get(ratee, {}).items()
            if rater != ratee and weights.get(rater, 0) > 0
        )
        half, below = sum(weight for _, weight in scores), 0
        for score, weight in scores:
            below += weight
            if 2 * below >= half:
                return score
        return None


@dataclass
class Scores:
    """The newest score of every rater and ratee."""

    values: Registers[tuple[PeerId, PeerId], int] = field(default_factory=Registers)

    def take(self, said: Said) -> int:
        """Count an entry of kind SCORE; return its lamport number."""
        body = read_as(Score, said.entry)
        stamp = Stamp(body.lamport, said.place)
        self.values.put((body.ratee, said.peer), stamp, body.millionths)
        return body.lamport

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        self.values.forget(writer)

    def view(self) -> Ratings:
        """Return all scores."""
        by_ratee: dict[PeerId, dict[PeerId, int]] = {}
        for (ratee, rater), score in sorted(self.values.view().items()):
            by_ratee.setdefault(ratee, {})[rater] = score
        return Ratings(MappingProxyType(by_ratee))
