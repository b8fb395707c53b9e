"""The network that simulated peers belong to: its founder, and their openings."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from p2p.identity.invites import Invite, Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.identity.network import Founding, found
from p2p.identity.openings import open_with
from sims.mesh.clock import EPOCH_S
from sims.mesh.faults import DAY_S

SINCE_S = 30 * DAY_S  # the network is as old when a simulation begins


@dataclass(frozen=True)
class Charter:
    """A network and the openings of its members.

    Attributes:
        founding: its statement.
        invite: what all but the founder came with.
        openings: of each member, in the order of the keys; the founder's first.
    """

    founding: Founding
    invite: Invite
    openings: Sequence[bytes]

    @property
    def network(self) -> str:
        """The id of the network."""
        return self.founding.network


@lru_cache(maxsize=256)
def charter(
    name: str, keys: tuple[Key, ...], *, lasts_s: float = 2 * SINCE_S
) -> Charter:
    """Return a network that the first of ``keys`` founded and the others joined.

    Args:
        name: of the network; other names make other networks.
        keys: of the members.
        lasts_s: how long the invite may be used, from ``SINCE_S`` before the start.
    """
    founder, began_s = keys[0], EPOCH_S - SINCE_S
    dice = random.Random(f"{name} {founder.peer}")
    founding = found(name, founder, began_s, dice.randbytes(16))
    secret, terms = Key(dice.randbytes(32)), Terms(lasts_s=lasts_s)
    first = founding.encode()
    asked = read_invite(invite(first, founder, terms, began_s, secret))
    others = [open_with(asked, key, began_s) for key in keys[1:]]
    return Charter(founding, asked, (first, *others))
