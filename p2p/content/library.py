"""A peer's blobs as one machine: fetched from whoever has them, and found by others.

The swarm asks for sources and the lookup finds them; what was fetched is provided, and
what left the shelf is not. ``Ended`` and ``Found`` are passed on to the owner.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from fedcore.errors import ConfigError
from p2p.composed import Composed
from p2p.content.cid import Cid
from p2p.content.kept import Blob
from p2p.content.lookup import Lookup
from p2p.content.manifest import MAX_BLOB_BYTES
from p2p.content.progress import Progress
from p2p.content.search import Found
from p2p.content.shelf import Shelf
from p2p.content.swarm import PATIENCE_S, Ended, Seek, Swarm
from p2p.machine import Event, Woken

ANNOUNCE_S = 10.0  # between looks at what is on the shelf


class Library:
    """A ``Machine`` made of a ``Swarm`` and a ``Lookup``."""

    def __init__(self, swarm: Swarm, lookup: Lookup) -> None:
        self.swarm, self.lookup = swarm, lookup
        self._both = Composed({"swarm": swarm, "lookup": lookup})
        self._announced_s = -math.inf

    @property
    def topics(self) -> Collection[str]:
        return self._both.topics

    @property
    def shelf(self) -> Shelf:
        """Where the blobs are."""
        return self.swarm.shelf

    def step(self, now_s: float, event: Event) -> Sequence[Any]:
        """See ``p2p.machine.Machine``."""
        out = list(self._both.step(now_s, event))
        if isinstance(event, Woken) and now_s >= self._announced_s + ANNOUNCE_S:
            self._announced_s = now_s
            out += self._announce(now_s)
        return self._settled(now_s, out)

    def want(
        self,
        now_s: float,
        cid: Cid,
        *,
        limit_bytes: int = MAX_BLOB_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> Sequence[Any]:
        """Fetch a blob; see ``Swarm.want``."""
        given = self.swarm.want(
            now_s, cid, limit_bytes=limit_bytes, patience_s=patience_s
        )
        return self._settled(now_s, self._both.take("swarm", given))

    def cancel(self, now_s: float, cid: Cid) -> Sequence[Any]:
        """Stop fetching a blob; see ``Swarm.cancel``."""
        given = self.swarm.cancel(now_s, cid)
        return self._settled(now_s, self._both.take("swarm", given))

    def added(self, now_s: float, cid: Cid) -> Sequence[Any]:
        """Let others find a blob that was put on the shelf."""
        given = self.lookup.provide(now_s, cid)
        return self._settled(now_s, self._both.take("lookup", given))

    def find(self, now_s: float, cid: Cid) -> Sequence[Any]:
        """Find out who has a blob; ``Found`` says so. See ``Lookup.find``."""
        given = self.lookup.find(now_s, cid)
        return self._settled(now_s, self._both.take("lookup", given))

    def progress(self, cid: Cid, now_s: float) -> Progress | None:
        """Return how far a download is; None if there is none of this blob."""
        return self.swarm.progress(cid, now_s)

    def whole(self) -> list[Blob]:
        """Return the blobs that are here, whole: what a catalogue may name."""
        return [blob for blob in self.shelf.blobs() if blob.whole]

    def _announce(self, now_s: float) -> list[Any]:
        """Provide what is on the shelf, and nothing else."""
        here = {blob.cid for blob in self.whole()}
        for cid in self.lookup.provided - here:
            self.lookup.withdraw(cid)
        out: list[Any] = []
        for cid in sorted(here - self.lookup.provided)[: self.lookup.room]:
            out += self._both.take("lookup", self.lookup.provide(now_s, cid))
        return out

    def _settled(self, now_s: float, effects: Sequence[Any]) -> list[Any]:
        """Return ``effects`` after the two have told each other what they need."""
        todo, out = list(effects), list[Any]()
        for effect in todo:  # grows meanwhile
            match effect:
                case Seek(cid):
                    with suppress(ConfigError):  # too busy: it will be asked again
                        found = self.lookup.find(now_s, cid)
                        todo += self._both.take("lookup", found)
                    continue
                case Found(cid, peers):
                    given = self.swarm.add_sources(now_s, cid, peers)
                    todo += self._both.take("swarm", given)
                case Ended(cid, ""):
                    given = self.lookup.provide(now_s, cid) if self.lookup.room else ()
                    todo += self._both.take("lookup", given)
            out.append(effect)
        return [*out, *self._both.alarm()]
