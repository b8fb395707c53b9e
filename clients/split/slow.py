"""A channel as slow as a real link: for measurements on one machine."""

import time
from dataclasses import dataclass
from math import inf
from queue import SimpleQueue
from threading import Thread

from clients.split.channel import Channel
from fedcore.errors import ConfigError, PeerLostError


@dataclass(frozen=True, slots=True)
class Net:
    """A link, the same each way.

    Attributes:
        delay_s: seconds that every byte takes, each way, >= 0; half a round trip.
        bytes_per_s: rate, > 0; may be inf.
    """

    delay_s: float = 0.0
    bytes_per_s: float = inf

    def __post_init__(self) -> None:
        if not (0.0 <= self.delay_s < inf and self.bytes_per_s > 0.0):
            raise ConfigError(f"a link needs delay_s >= 0 and bytes_per_s > 0: {self}")

    def busy_s(self, size_bytes: int) -> float:
        """Return the seconds for which a message keeps the link busy."""
        return size_bytes / self.bytes_per_s


class SlowChannel:
    """A channel whose messages leave through ``net``.

    A bucket without burst: the link carries one message at a time at its rate, and
    each arrives ``delay_s`` after its last byte went out. ``send`` returns at once;
    a thread waits and sends.
    """

    def __init__(self, channel: Channel, net: Net) -> None:
        """Put ``net`` before what is sent over ``channel``."""
        self._channel, self._net = channel, net
        self._free_s = 0.0  # when the link has carried all that was sent
        self._queue: SimpleQueue[tuple[float, bytes] | None] = SimpleQueue()
        self._lost = False
        self._thread = Thread(target=self._carry, name="slow-channel", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        """Put one message on its way.

        Raises:
            PeerLostError: an earlier one did not get through.
        """
        if self._lost:
            raise PeerLostError("the connection is lost")
        self._free_s = max(self._free_s, time.perf_counter())
        self._free_s += self._net.busy_s(len(data))
        self._queue.put((self._free_s + self._net.delay_s, data))

    def receive(self) -> bytes:
        """Return the next message."""
        return self._channel.receive()

    def close(self) -> None:
        """Wait until all has been sent, and hang up."""
        self._queue.put(None)
        self._thread.join()
        self._channel.close()

    def _carry(self) -> None:
        while (item := self._queue.get()) is not None:
            due_s, data = item
            time.sleep(max(0.0, due_s - time.perf_counter()))
            try:
                self._channel.send(data)
            except PeerLostError:
                self._lost = True
                return
