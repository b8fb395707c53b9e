"""How many channels to one peer are worth it: a rule on what was measured.

One more is tried when much data has been on its way without a pause over a long way; if
it made nothing quicker, that was the last one. So whatever holds the data back, the
rule ends: a cap or a slow line gives no more to many channels than to a few.
"""

from dataclasses import dataclass

MOST = 4  # channels to one peer
LONG_S = 0.02  # a round trip from which on a way is long
SPAN_S = 2.0  # for so long is measured what the channels bring
PAUSE_S = 1.0  # without asks for so long, measuring begins anew
GAIN = 1.1  # what one more channel has to bring


@dataclass(slots=True)
class Width:
    """The rule for one peer; ask it at every ask for much data.

    Notation: what was measured is for ``_channels``, since ``_since_s``.
    """

    _rtt_s: float | None = None  # the least: what waits in queues is not the way
    _channels: int = 0
    _since_s: float = 0.0
    _since_bytes: int = 0
    _last_s: float = 0.0
    _before_bytes_s: float = 0.0  # with a channel less
    _enough: bool = False

    def wants(
        self, now_s: float, channels: int, rtt_s: float | None, received_bytes: int
    ) -> bool:
        """Return whether to open one more.

        Args:
            now_s: a clock that never goes back.
            channels: that are open.
            rtt_s: round trip of one of them, if it is known.
            received_bytes: over all of them, ever.
        """
        if rtt_s is not None:
            self._rtt_s = min(rtt_s, self._rtt_s or rtt_s)
        paused, self._last_s = now_s > self._last_s + PAUSE_S, now_s
        if paused or channels != self._channels:
            if paused or channels < self._channels:
                self._before_bytes_s, self._enough = 0.0, False
            self._channels, self._since_s = channels, now_s
            self._since_bytes = received_bytes
            return False
        span_s = now_s - self._since_s
        if span_s < SPAN_S or self._enough or channels >= MOST:
            return False
        if self._rtt_s is None or self._rtt_s < LONG_S:
            return False
        rate_bytes_s = (received_bytes - self._since_bytes) / span_s
        self._enough = rate_bytes_s < GAIN * self._before_bytes_s
        self._before_bytes_s = rate_bytes_s
        self._since_s, self._since_bytes = now_s, received_bytes
        return not self._enough
