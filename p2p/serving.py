"""What comes in, on its way to the driver: over channels, and over libp2p."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import PeerId
from p2p.channel import tunnel as tunnels
from p2p.channel.tunnel import Tunnel
from p2p.driver import Driver
from p2p.machine import Told

Handler = Callable[[PeerId, bytes], "Future[bytes]"]


@dataclass(frozen=True)
class Service:
    """What a channel gives to the driver, and to the tunnel."""

    driver: Driver
    tunnel: Tunnel

    def asked(self, peer: PeerId, topic: str, body: bytes) -> "Future[bytes]":
        if topic == tunnels.TOPIC:
            return self.tunnel.asked(peer, topic, body)
        if topic not in self.driver.machine.topics:
            raise ProtocolError("nothing here answers that")
        return self.driver.asked(peer, topic, body)

    def told(self, peer: PeerId, topic: str, body: bytes) -> None:
        self.driver.post(Told(peer, topic, body))


def asking(driver: Driver, topic: str) -> Handler:
    """Return what answers ``topic`` over libp2p."""
    return lambda peer, body: driver.asked(peer, topic, body)


def telling(driver: Driver, topic: str) -> Handler:
    """Return what takes, over libp2p, what is told on ``topic``."""

    def told(peer: PeerId, body: bytes) -> "Future[bytes]":
        driver.post(Told(peer, topic, body))
        done: Future[bytes] = Future()
        done.set_result(b"")
        return done

    return told


def passed_on(done: "Future[bytes]", future: "Future[bytes]") -> None:
    """Let ``future`` end as ``done`` did."""
    if not future.set_running_or_notify_cancel():
        return
    if done.cancelled():
        future.set_exception(PeerLostError("given up"))
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
