"""How often each peer may try in a minute, in bounded memory."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from fedcore.names import PeerId


@dataclass
class Attempts:
    """Counts what each peer did lately.

    Attributes:
        most: how often a peer may do it in ``window_s`` seconds.
        window_s: how long an attempt counts, in seconds.
        peers: how many peers are remembered; who was quiet longest is forgotten.
    """

    most: int = 12
    window_s: float = 60.0
    peers: int = 4096
    _times: OrderedDict[PeerId, deque[float]] = field(default_factory=OrderedDict)

    def take(self, peer: PeerId, now_s: float) -> bool:
        """Note one attempt of ``peer``; return whether it was one too many."""
        times = self._times.setdefault(peer, deque(maxlen=self.most))
        self._times.move_to_end(peer)
        if len(self._times) > self.peers:
            self._times.popitem(last=False)
        if len(times) == self.most and now_s - times[0] < self.window_s:
            return True
        times.append(now_s)
        return False
