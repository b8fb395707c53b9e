"""Where this machine is now: its interfaces, and how the world sees its data port."""

from collections.abc import Collection, Sequence

from p2p.nat.addresses import Address
from p2p.nat.candidates import interfaces, may_dial, own_candidates
from p2p.nat.effects import Here
from p2p.nat.kinds import nat_of
from p2p.nat.whoami import Observer


def whereabouts(
    observer: Observer,
    services: Sequence[Address],
    mapped: Sequence[Address] = (),
    only: Collection[str] = (),
) -> Here:
    """Return what ``Reach`` is to know. May block for the observer's timeout.

    A driver calls this at the start, every half minute, and when interfaces change;
    equal answers are no news.

    Args:
        observer: asks from the data port.
        services: whoami services, on two or more public hosts if possible.
        mapped: what the router forwards to the data port.
        only: the addresses of this machine that may be offered; all if empty.
    """
    here = interfaces(only)
    # Named by relays, which may lie: never a port of the system, or of this machine.
    sightings = observer.look([s for s in services if may_dial(s, here, together=True)])
    observed = [s.seen for s in sightings]
    own = own_candidates(here, observer.port, dict.fromkeys(observed), mapped)
    return Here(own, here, nat_of(sightings))
