"""The lookup (``/find/1``): whoever is still here is found by what it has.

Peers know a few others at first, and dial whom they want to ask. Some have a blob each.
While things go wrong peers come and go for ever (*churn*), and liars answer what they
like. In the end each blob whose provider lives is found by its name, from anywhere, and
nobody is named as a provider who never had it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from p2p.content.cid import Cid, cid_of
from p2p.content.lookup import Lookup
from p2p.content.search import Found
from p2p.machine import Machine
from sims.mesh.faults import ALL, Faults
from sims.mesh.host import Host
from sims.mesh.place import Place
from sims.mesh.weight import Scales
from sims.mesh.world import World

LINKS = 4  # that a peer has at first
BLOBS = 6
ASK_S = 15.0  # between two searches for a blob that was not found
CHURN_S = 20.0  # between two peers that go for ever, with 30 peers
CROWD = 30
MEMORY_BYTES = 4 << 20
# A date that is wrong by hours makes records that others must refuse.
FAULTS = replace(ALL, jumps=0.0, skewed=0.0, clones=0.0, rollbacks=0.0)


@dataclass
class LookupScene:
    """See the module.

    Attributes:
        providers: who has each blob.
        found: blobs that were found after things had stopped going wrong.
        asks: how many peers each search asked.
    """

    nodes: int = 30
    minutes: float = 1.0
    settle_s: float = 600.0
    faults: Faults = FAULTS
    providers: dict[Cid, int] = field(default_factory=dict)
    found: set[Cid] = field(default_factory=set)
    asks: list[int] = field(default_factory=list)
    scales: Scales = field(default_factory=lambda: Scales(MEMORY_BYTES, 60.0))

    def build(self, place: Place) -> Machine:
        lookup = Lookup(place.key, "net", place.rng, place.wall)
        for cid, index in self.providers.items():
            if index == place.index:
                lookup.provide(0.0, cid)
        return lookup

    def begin(self, world: World) -> None:
        dice, count = world.dice("blobs"), len(world.hosts)
        for number in range(BLOBS):
            self.providers[cid_of(bytes([number]))] = dice.randrange(count)
        links = min(LINKS, count)
        near = {h.index: set(dice.sample(range(count), links)) for h in world.hosts}
        world.wanted = lambda a, b: b.index in near[a.index] or a.index in near[b.index]
        world.dials = True
        world.carry_out = partial(self._heard, world)
        world.looks.append(self.scales)
        world.later(CHURN_S, lambda: self._leave(world, dice))
        world.later(ASK_S, lambda: self._ask(world, dice))

    def _leave(self, world: World, dice: random.Random) -> None:
        """Let somebody go for ever, but never more than a third of all."""
        gone = sum(host.retired for host in world.hosts)
        if world.nemesis.done or 3 * (gone + 1) > len(world.hosts):
            return
        world.retire(dice.choice(world.hosts[1:]))
        wait_s = CHURN_S * CROWD / len(world.hosts)
        world.later(wait_s, lambda: self._leave(world, dice))

    def _ask(self, world: World, dice: random.Random) -> None:
        for cid in self.providers:
            asker = dice.choice(world.honest or world.hosts)
            world.call(asker, partial(_find, cid))
        world.later(ASK_S, lambda: self._ask(world, dice))

    def _heard(self, world: World, host: Host, effect: object) -> None:
        if not isinstance(effect, Found):
            raise TypeError(f"not an effect of a lookup: {effect!r}")
        provider = world.hosts[self.providers[effect.cid]].peer
        if wrong := {*effect.peers} - {provider}:
            world.violate(f"finds {world.name(min(wrong))}, who never had it", host)
        if world.nemesis.done and host.honest and effect.peers:
            self.found.add(effect.cid)
        self.asks += [effect.asks] if effect.over else []

    def missing(self, world: World) -> str | None:
        if len(world.honest) < 2:
            return None  # nobody but the provider asks
        for cid, index in self.providers.items():
            provider = world.hosts[index]
            if provider.up and provider.honest and cid not in self.found:
                return f"nobody finds what {provider.name} has"
        return None

    def figures(self, _world: World) -> Mapping[str, float]:
        most, count = max(self.asks, default=0), max(1, len(self.asks))
        return {
            "bytes of a lookup": self.scales.heaviest,
            "peers asked in a search, on average": sum(self.asks) / count,
            "peers asked in a search, at most": most,
        }


def _find(cid: Cid, lookup: Any, now_s: float) -> Sequence[Any]:
    return () if cid in lookup.provided else lookup.find(now_s, cid)
