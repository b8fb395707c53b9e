"""Notices peers that vanished without a word, and learns how others see us.

A peer that was silent for one beat is asked; after three it is given up. The answer is
the address at which the other side sees us, the one thing that a machine behind a
router cannot know by itself.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.libp2p.asking import Asker

BEAT = "/beat/1"
MISSES = 3
MAX_SEEN_CHARS = 64
WITNESSES = 2


@dataclass
class Seen:
    """Where other peers see us, each by its newest word.

    Attributes:
        by: what each said.
        trusted: whose words count: anybody can connect and say anything.
    """

    by: dict[PeerId, str] = field(default_factory=dict)
    trusted: frozenset[PeerId] = frozenset()

    def note(self, peer: PeerId, address: str) -> None:
        """Record that ``peer`` sees us at ``address``, such as "/ip4/1.2.3.4/tcp/5".

        Raises:
            ProtocolError: it is no such address.
        """
        _, version, ip, tcp, port = _parts(address)
        try:
            right = version == f"ip{ipaddress.ip_address(ip).version}" and tcp == "tcp"
            right = right and port == str(int(port)) and 0 < int(port) < 1 << 16
        except ValueError:
            right = False
        if not right:
            raise ProtocolError(f"{peer} sees us at what is not an address")
        self.by[peer] = address

    def forget(self, peer: PeerId) -> None:
        """Forget the word of a peer that is gone."""
        self.by.pop(peer, None)

    def confirmed(self) -> list[str]:
        """Return where two trusted peers or more agree to see us, most agreed first."""
        counts = Counter(a for p, a in self.by.items() if a and p in self.trusted)
        return [a for a, n in counts.most_common() if n >= WITNESSES]


def _parts(address: str) -> list[str]:
    parts = address.split("/")
    return parts if len(parts) == 5 and len(address) <= MAX_SEEN_CHARS else [""] * 5


@dataclass
class Heartbeat:
    """Keeps the time of each peer's last word.

    Attributes:
        beat_s: see ``Libp2pConfig``.
        asker: asks.
        hang_up: ends all connections with a peer, for the reason given.
        elsewhere: returns the bytes that a peer has sent us by other ways, ever.
    """

    beat_s: float
    asker: Asker
    hang_up: Callable[[PeerId, str], None]
    heard_s: dict[PeerId, float] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    elsewhere: Callable[[PeerId], int] = lambda _: 0
    _counts: dict[PeerId, int] = field(default_factory=dict)
    _news: trio.Event = field(default_factory=trio.Event)

    def heard(self, peer: PeerId) -> None:
        """Note that ``peer`` has said something."""
        if peer in self.heard_s:
            self.heard_s[peer] = trio.current_time()

    def up(self, peer: PeerId) -> None:
        """Begin to watch ``peer``, and ask at once where it sees us."""
        self.heard_s[peer] = trio.current_time()
        self._news.set()

    def down(self, peer: PeerId) -> None:
        """Watch ``peer`` no more."""
        self.heard_s.pop(peer, None)
        self._counts.pop(peer, None)
        self.seen.forget(peer)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as nursery:
            asked: set[PeerId] = set()
            while True:
                self._turn(nursery, asked)
                await self.asker.sweep()
                with trio.move_on_after(self.beat_s / 2):
                    await self._news.wait()
                self._news = trio.Event()

    def _turn(self, nursery: trio.Nursery, asked: set[PeerId]) -> None:
        now_s = trio.current_time()
        for peer in list(self.heard_s):
            count = self.elsewhere(peer)
            if count > self._counts.get(peer, 0):
                self._counts[peer] = count
                self.heard(peer)
            silent_s = now_s - self.heard_s[peer]
            if silent_s >= MISSES * self.beat_s:
                self.hang_up(peer, f"silent for {silent_s:.0f} s")
            elif peer not in asked and (
                silent_s >= self.beat_s or peer not in self.seen.by
            ):
                asked.add(peer)
                nursery.start_soon(self._ask, peer, asked)

    async def _ask(self, peer: PeerId, asked: set[PeerId]) -> None:
        try:
            word = await self.asker.ask(peer, BEAT, b"", timeout_s=self.beat_s)
            self.heard(peer)
            self.seen.note(peer, word.decode("ascii", "replace"))
        except ProtocolError:
            self.heard(peer)  # another program; it is there all the same
            self.seen.by.setdefault(peer, "")
        except PeerLostError:
            pass
        finally:
            asked.discard(peer)
