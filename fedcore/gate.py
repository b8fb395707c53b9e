"""Refusal of bad updates, one by one and with a reason, before anything uses them."""

from collections.abc import Callable
from dataclasses import dataclass

from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work


@dataclass(frozen=True, slots=True)
class Refusal:
    """One update turned away.

    Attributes:
        kind: a stable word for programs and tests, such as ``"nan"``.
        reason: a sentence for people, with the numbers.
        ends_work: the peer owed this answer and will not be asked for it again;
            false for what nobody asked for (a duplicate, a stranger's update).
    """

    peer: PeerId
    kind: str
    reason: str
    ends_work: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What an update must be."""

    def refusal(
        self,
        update: Update,
        work: Work | None,
        *,
        expects: Callable[[Work], Params],
        stale_after: int,
    ) -> Refusal | None:
        """Return why ``update`` is refused, or None if it is good."""
        if work is None:
            return Refusal(update.peer, "unasked", "no work is out", False)
        return None
