"""What kind of NAT a data port is behind, and what that means for direct ways."""

from collections.abc import Collection
from enum import Enum

from p2p.nat.whoami import Sighting


class Nat(Enum):
    """What the world makes of a data port; the value goes over the wire."""

    UNKNOWN = 0
    OPEN = 1
    KEEPS = 2  # one outer address for all targets, with our own port
    SHIFTS = 3  # one outer address for all targets, with another port
    SYMMETRIC = 4  # another outer address for every target


WORDS = {
    Nat.UNKNOWN: "unknown: fewer than two public hosts answered",
    Nat.OPEN: "open: a public address of its own",
    Nat.KEEPS: "a NAT that shows everybody the same address and keeps the port",
    Nat.SHIFTS: "a NAT that shows everybody the same address with another port",
    Nat.SYMMETRIC: "a symmetric NAT: another address for everybody it talks to",
}


def nat_of(sightings: Collection[Sighting]) -> Nat:
    """Return the kind of NAT from what whoami services saw of one data port.

    Two services on different hosts are needed to tell the kinds apart; only an open
    port shows itself to one. Where both families are seen, IPv4 counts: IPv6 is hardly
    ever behind a NAT, and says nothing of those who have IPv4 alone.
    """
    sightings = [s for s in sightings if ":" not in s.seen.host] or sightings
    if any(s.seen == s.local for s in sightings):
        return Nat.OPEN
    if len({s.service for s in sightings}) < 2:
        return Nat.UNKNOWN
    if len({s.seen for s in sightings}) > 1:
        return Nat.SYMMETRIC
    keeps = all(s.seen.port == s.local.port for s in sightings)
    return Nat.KEEPS if keeps else Nat.SHIFTS


def likely(mine: Nat, theirs: Nat) -> bool:
    """Return whether a direct way between two peers is to be expected.

    A symmetric NAT is passed only towards a peer that lets strangers in: every open
    one, and some others that the kinds here do not tell apart.
    """
    kinds = {mine, theirs}
    return Nat.SYMMETRIC not in kinds or Nat.OPEN in kinds


def outlook(mine: Nat, udp: bool | None = None) -> str:
    """Return a sentence for people on what to expect of direct connections.

    Args:
        mine: our kind.
        udp: whether UDP gets out; None if that was not tried.
    """
    far = {kind: likely(mine, kind) for kind in Nat if kind is not Nat.UNKNOWN}
    if all(far.values()):
        says = "direct connections to every kind of peer are likely"
    elif mine is Nat.SYMMETRIC:
        says = "direct connections only to open peers are likely; a relay serves others"
    else:
        says = "direct connections are likely to all but peers behind symmetric NATs"
    blocked = "; UDP is blocked, which does no harm: data goes over TCP"
    return f"{WORDS[mine]}: {says}{blocked if udp is False else ''}"
