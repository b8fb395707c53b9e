"""When a channel may send, and when it lets its peer send, under the node's caps."""

from p2p.channel.caps import Caps
from p2p.channel.limits import WINDOW_MIN_BYTES, Limits
from p2p.channel.outbox import Part
from p2p.channel.talk import Talk

_NEVER_S = float("inf")


class Pace:
    """The slots that one channel has taken from the shared caps."""

    def __init__(self, talk: Talk, limits: Limits, caps: Caps) -> None:
        self._talk, self._limits, self._caps = talk, limits, caps
        self._slot_bytes, self._slot_s = 0, _NEVER_S  # to send
        self._early = False  # something waits for that slot, and for nothing else
        self._grant_bytes, self._grant_s = 0, _NEVER_S  # to let the peer send

    def greet(self) -> None:
        """Say hello with the first credit."""
        credit = max(WINDOW_MIN_BYTES, self._ahead_bytes())
        self._caps.down.take(credit)
        self._talk.begin(credit)

    def _ahead_bytes(self) -> int:
        rtt_s = self._talk.rtt_s or 0.0
        return self._caps.down.ahead_bytes(self._limits.window_bytes, rtt_s)

    def next(self, now_s: float) -> Part | None:
        """Return what may be sent now, if anything."""
        out, up = self._talk.out, self._caps.up
        self._early = False
        if not out.waiting:
            return None
        most = min(self._limits.part_bytes, up.slot_bytes())
        if up.rate_bytes_s is None:
            self._slot_bytes, self._slot_s = 0, _NEVER_S
            return out.next(most)
        if not self._slot_bytes:
            self._slot_bytes = out.cost(most)
            self._slot_s = now_s + up.take(self._slot_bytes)
        self._early = now_s < self._slot_s
        if self._early:
            return None
        part = out.next(most)
        if part is not None:
            up.correct(part.cost - self._slot_bytes)
            self._slot_bytes, self._slot_s = 0, _NEVER_S
        return part

    def grant(self, now_s: float) -> None:
        """Let the peer send more, when it has used up most of what it may send."""
        talk, down = self._talk, self._caps.down
        if self._grant_bytes and now_s >= self._grant_s:
            talk.grant(self._grant_bytes)
            self._grant_bytes, self._grant_s = 0, _NEVER_S
        owed = 0 if self._grant_bytes else talk.owed(self._ahead_bytes())
        if owed and down.rate_bytes_s is None:
            talk.grant(owed)
        elif owed:
            # The same for every channel, whatever it has used: that is a fair share.
            share = down.ahead_bytes(self._limits.window_bytes, 0.0) // 4
            self._grant_bytes = min(owed, max(share, WINDOW_MIN_BYTES // 4))
            self._grant_s = now_s + down.take(self._grant_bytes)

    def due_s(self) -> float:
        """Return when ``next`` or ``grant`` has something to do that it had not."""
        return min(self._slot_s if self._early else _NEVER_S, self._grant_s)
