"""Which addresses to tell others, and whose word that they relay to take."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, zip_longest

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.circuit import is_circuit
from p2p.identity.openings import Opening
from p2p.mapping.port import MappedPort
from p2p.members.addresses import AddressBook
from p2p.members.card import Card
from p2p.members.places import Place, Reach, read_place
from p2p.nat.addresses import Address
from p2p.nat.candidates import interfaces

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


def reach_words(addresses: Iterable[str]) -> str:
    """Return what an invite with these addresses cannot do; "" if it leads here."""
    kinds = {read_place(address).reach for address in addresses}
    if kinds & {Reach.PUBLIC, Reach.NAMED, Reach.RELAYED}:
        return ""
    who = "this machine" if kinds <= {Reach.HERE} else "this local network"
    if not kinds:
        return (
            "this node has no address that others could dial, so the invite names "
            "none: who joins finds the network near this machine, or by find.bootstrap"
        )
    return (
        f"the addresses in this invite lead here from {who} only. For peers elsewhere, "
        "set find.relays (see `fedcore peer relay`) and make another invite"
    )


def relays_among(
    members: Mapping[PeerId, Opening],
    card_of: Callable[[PeerId], Card | None],
    book: AddressBook,
) -> list[str]:
    """Return where members relay, those first whose role it is to.

    Every member can say that it relays. The others count only at addresses where we
    have met them ourselves: a word alone costs nothing, and leads many to a place.
    """
    able: list[str] = []
    met: list[str] = []
    for peer, opening in members.items():
        card = card_of(peer)
        if card is None or not card.about.relays:
            continue
        places = [a for a in card.about.addresses if not is_circuit(a)]
        known = {place.address for place in book.of(peer) if place.success_s}
        if opening.role in ("admin", "relay"):
            able += places
        else:
            met += [a for a in places if a in known]
    return able + met


def outside(mapped: MappedPort | None, port: int, ours: Iterable[str]) -> list[Address]:
    """Return where the world may reach our data port ``port`` that we cannot see.

    Args:
        mapped: what a router passes on, if it was asked to.
        port: our data port.
        ours: where our other port is reached. A public address among them that no
            interface has is that of a cloud, or of a router, which may pass on both.
    """
    found = mapped.mapping if mapped else None
    out = [Address(found.host, found.port)] if found and found.is_public else []
    own = {str(interface.ip) for interface in interfaces()}
    places = [read_place(address) for address in ours]
    hosts = dict.fromkeys(p.host for p in places if p.reach is Reach.PUBLIC)
    return out + [Address(host, port) for host in hosts if host not in own]
