"""Who lives in a simulated mesh: members, and some who do not belong or not for ever.

| part | what it does |
| --- | --- |
| stranger | shows an opening of a network of its own, with no invite to this one |
| thief | shows an opening that is somebody else's |
| evicted | is sent away by the founder after a while, and goes on all the same |
| equivocator | copies its disk, and writes with both copies as if there were one |

All of them know where everybody is, and speak to all whether they are let in or not.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from clients.peer.member import Member
from fedcore.names import PeerId
from p2p.machine import Machine
from sims.mesh.charter import Charter, charter
from sims.mesh.host import Host
from sims.mesh.liar import Intruder
from sims.mesh.member import member_at
from sims.mesh.place import Place
from sims.mesh.ways import addresses

STRANGER, THIEF, EVICTED, EQUIVOCATOR = PARTS = (
    "stranger",
    "thief",
    "evicted",
    "equivocator",
)
SHARE = 0.4  # of those who may be no plain members
PLAIN = 2  # the first hosts always are


@dataclass
class Crew:
    """Builds everybody.

    Attributes:
        home: the network.
        abroad: another one, of the same name, with the same people.
        parts: who is no plain member, by the number of the host.
        members: what was built last, by the number of the host.
    """

    home: Charter
    abroad: Charter
    parts: dict[int, str]
    members: dict[int, Member] = field(default_factory=dict)

    @classmethod
    def of(cls, hosts: Sequence[Host], dice: random.Random) -> "Crew":
        """Draw who is what among ``hosts``."""
        keys = tuple(host.key for host in hosts)
        parts = {
            host.index: dice.choice(PARTS)
            for host in hosts[PLAIN:]
            if dice.random() < SHARE
        }
        for index, part in parts.items():
            hosts[index].crooked = part != EVICTED  # so far
        return cls(charter("home", keys), charter("home", keys[1:] + keys[:1]), parts)

    def build(self, place: Place) -> Machine:
        """Return the machine of a peer."""
        part = self.parts.get(place.index, "")
        home, index = self.home, place.index
        if part in (STRANGER, THIEF):
            home, index = self.abroad, index - 1
        ways = [way for host in self._known(part, place) for way in host]
        own = addresses(place.host, place.peers, place.peer, relay=place.host > 0)
        proof = home.openings[index]
        member = member_at(place, proof, home.network, own, ways)
        if part in (STRANGER, THIEF):
            member.door.network = self.home.network  # which is no secret
        if part == THIEF:
            member.door.opening = self.home.openings[0]
        if part == EQUIVOCATOR and not place.fresh:
            member.replica.author.begin()  # as if nobody else had written meanwhile
        self.members[place.host] = member
        return cast(Machine, Intruder(member.mesh) if part else member.mesh)

    def _known(self, part: str, place: Place) -> Sequence[Sequence[str]]:
        """Return where others are whom it knows from the start."""
        others = range(len(place.peers) if part else 1)
        return [
            addresses(i, place.peers, place.peers[i], relay=False)
            for i in others
            if i != place.index
        ]

    def outside(self, hosts: Sequence[Host]) -> set[PeerId]:
        """Return who must never be let in."""
        strange = (STRANGER, THIEF)
        return {h.peer for h in hosts if self.parts.get(h.original) in strange}
