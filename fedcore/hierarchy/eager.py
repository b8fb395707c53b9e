"""Answers summed as they come, for a coordinator whose strategy needs only the sum.

Without it a coordinator holds the payloads of all answers until the pacer has them
folded. With it an answer that has passed the gate is added to a pile at once, and its
payload let go: the pacer sees who answered, with what weight and when; the strategy
gets one update that stands for the pile. The bits are the same.

A pile must be exactly what is folded later. So the pacer must be one of which that is
known beforehand: all that came (``Synchronous``), or every so many (``Buffered``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedcore.errors import ConfigError
from fedcore.hierarchy.aggregate import Aggregator
from fedcore.pacing import Buffered, Pacer, Synchronous, by_peer
from fedcore.partial import WRAP, Partial
from fedcore.strategy import PeerId, Strategy, Update

Name = tuple[PeerId, int]  # of an answer: the peer and the version it started from


@dataclass(frozen=True, slots=True)
class Pile:
    """Answers that will be folded together, as sums.

    Attributes:
        names: of the answers in it, in the order in which they came.
        sums: one sum in general; more only where one would leave the ring's range.
    """

    names: tuple[Name, ...] = ()
    sums: tuple[Partial, ...] = ()


Piles = tuple[Pile, ...]  # the first is folded next; all but the last are full


def pile_size(strategy: Strategy[Any], pacer: Pacer[Any]) -> int:
    """Return how many answers ``pacer`` folds at a time; 0 for all that are there.

    Raises:
        ConfigError: the strategy needs each update, or it is not known beforehand
            which answers this pacer folds together.
    """
    if strategy.needs != "sum":
        raise ConfigError(
            f"{strategy} must see every update by itself, and aggregators hand on sums "
            'only: choose hierarchy.leaves = 0, or a strategy that needs "sum"'
        )
    if type(pacer) is Synchronous:
        return 0
    if type(pacer) is Buffered:
        return pacer.size
    raise ConfigError(
        f"which answers {pacer} folds together is not known when they come, so they "
        "cannot be summed then: set hierarchy.leaves = 0, or pacer.name = synchronous "
        "or buffered"
    )


def piled(
    piles: Piles, updates: Sequence[Update], size: int, aggregator: Aggregator
) -> Piles:
    """Return the piles with ``updates`` added in their order; ``piles`` stay.

    Raises:
        ProtocolError: an update cannot be added; see ``Partial.add``.
    """
    left = list(updates)
    while left:
        last = piles[-1] if piles else Pile()
        if size and len(last.names) == size:
            piles, last = (*piles, Pile()), Pile()
        room = size - len(last.names) if size else len(left)
        batch, left = left[:room], left[room:]
        names = tuple((u.peer, u.version) for u in batch)
        sums = _added(last.sums, batch, aggregator)
        piles = (*piles[:-1], Pile((*last.names, *names), sums))
    return piles


def light(updates: Sequence[Update]) -> list[Update]:
    """Return ``updates`` without their payloads, for the pacer."""
    return [replace(u, payload={}) for u in updates]


def unpiled(piles: Piles, ready: Sequence[Update]) -> tuple[Piles, list[Update]]:
    """Return the piles left, and updates that stand for the first one.

    Args:
        piles: as ``piled`` made them.
        ready: the light updates that the pacer folds.

    Raises:
        ConfigError: the pacer folds other answers than those in the first pile.
    """
    wanted = [(u.peer, u.version) for u in by_peer(ready)]
    if not piles or sorted(piles[0].names) != wanted:
        raise ConfigError(
            "the pacer folds other answers than those that were summed together: "
            "choose hierarchy.leaves = 0"
        )
    return piles[1:], [_update_of(s) for s in piles[0].sums]


def _added(
    sums: tuple[Partial, ...], batch: Sequence[Update], aggregator: Aggregator
) -> tuple[Partial, ...]:
    """Return ``sums`` and the sum of ``batch``, as one where the ring has room.

    The old sum is added to the new one, which nobody else has seen: so what older
    desks hold is never written to.
    """
    fresh = aggregator.summed(batch)
    if len(batch) > 1 and any(s.wraps is not None for s in fresh.sums.values()):
        half = len(batch) // 2
        return _added(_added(sums, batch[:half], aggregator), batch[half:], aggregator)
    if sums and _fits(sums[-1], fresh):
        fresh.merge(sums[-1])
        sums = sums[:-1]
    return (*sums, fresh)


def _fits(a: Partial, b: Partial) -> bool:
    """Tell whether the sum of both stays in the ring's range, whatever they hold."""
    same = a.sums.keys() == b.sums.keys()
    return not same or all(s.reach + b.sums[n].reach < WRAP for n, s in a.sums.items())


def _update_of(partial: Partial) -> Update:
    """Return the update that stands for ``partial``, which is not changed by that."""
    payload = {name: s.total for name, s in partial.sums.items()}
    return Update("sum", partial.version, payload, partial.examples)
