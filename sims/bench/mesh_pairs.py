"""Both ends of a data channel in one process, for benchmarks."""

import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from p2p.channel.caps import Caps
from p2p.channel.channel import Channel
from sims.bench.peers.pipes import open_channel


def loopback_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def channel_pair(
    near: socket.socket, far: socket.socket, caps: Caps | None = None
) -> tuple[Channel, Channel]:
    """Return a channel over each of two connected sockets; ``caps`` are the near's."""
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(partial(open_channel, far, near=False))
        return open_channel(near, near=True, caps=caps), other.result()
