"""Which of our own addresses to tell others: few, and no kind of way left out."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, zip_longest

from fedcore.errors import ProtocolError
from p2p.members.places import Place, Reach, read_place

_HERE = ("127.", "::1")


def worth_telling(addresses: Iterable[str], most: int) -> Sequence[str]:
    """Return at most ``most`` of ``addresses``, of every kind about as many.

    A machine may have more interfaces than there is room for, and the way through a
    relay must not be the one that is left out. What only leads to this machine itself
    is told when there is nothing else.
    """
    places: list[Place] = []
    for address in dict.fromkeys(addresses):
        with suppress(ProtocolError):
            places.append(read_place(address))
    far = [p for p in places if not p.host.startswith(_HERE)]
    fit = far or places
    kinds = [
        [p.text for p in fit if p.reach in kind]
        for kind in ((Reach.PUBLIC, Reach.NAMED), (Reach.RELAYED,), (Reach.LAN,))
    ]
    by_turns = [a for a in chain(*zip_longest(*kinds)) if a is not None]
    chosen = set([*by_turns, *(p.text for p in fit)][:most])
    return [p.text for p in fit if p.text in chosen][:most]
