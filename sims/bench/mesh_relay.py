"""What a relay pays: our blind splice beside circuits of libp2p; a part of "mesh".

Both ends of a circuit run in the bench's process or in one of their own; the cost is
the CPU time of the relay's process.
"""

import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from fedcore.errors import PeerLostError
from p2p.channel.channel import Channel
from p2p.identity.keys import Key
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.parts import Relayed
from p2p.libp2p.thread import MeshThread
from p2p.nat.addresses import Address
from p2p.nat.grants import PAIRED, knock
from sims.bench.channel import ECHO_BYTES, MEGA, WAIT_S, Far
from sims.bench.frame import Options, Row, middle, versus
from sims.bench.mesh_pairs import channel_pair
from sims.bench.peers.pipes import ECHO, FAR, GIVE, NEAR_KEY
from sims.bench.peers.relays import HERE, WARDEN

RELAYS = "sims.bench.peers.relays"
SPLICED_MB, CIRCUIT_MB = 200, 8
PIECE_BYTES = MEGA  # a message of libp2p; the largest are slightly larger
Pull = Callable[[int], object]  # moves so many bytes
Echo = Callable[[bytes], object]


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    options.say("a splice and a circuit of libp2p in turn")
    turns = 2 if options.quick else 7
    with ExitStack() as stack:
        near = {"splice": _spliced(stack), "circuit": _circuit(stack)}
        size = {"splice": SPLICED_MB, "circuit": CIRCUIT_MB}
        cost: dict[str, list[float]] = {name: [] for name in near}
        trips: dict[str, list[float]] = {name: [] for name in near}
        for _ in range(turns + 1):
            for name, (relay, pull, echo) in near.items():
                cost[name].append(_cost(relay, pull, size[name]))
                trips[name] += [_trip_ms(echo) for _ in range(50)]
    ours, other = (middle(cost[name][1:]) for name in near)
    note = f"{1000 / ours:.0f} against {1000 / other:.0f} MB per CPU-second"
    title, work = "splice relay vs libp2p circuit", "much data through one relay"
    yield versus(title, work, ours, other, "relay CPU-s/GB", note)
    work = f"{ECHO_BYTES} B there and back through the relay"
    ours, other = (middle(trips[name]) for name in near)
    yield versus(title, work, ours, other, "ms")


def _cost(relay: Far, pull: Pull, size_mb: int) -> float:
    """Return the CPU seconds of the relay for a GB."""
    before_s = relay.cpu_s()
    pull(size_mb * MEGA)
    return (relay.cpu_s() - before_s) / size_mb * 1000


def _trip_ms(echo: Echo) -> float:
    began_s = time.perf_counter()
    echo(bytes(ECHO_BYTES))
    return 1000 * (time.perf_counter() - began_s)


def _spliced(stack: ExitStack) -> tuple[Far, Pull, Echo]:
    """Return our relay, and a channel through it."""
    relay = started(stack, "splice")
    near, far = spliced_pair(int(relay.where))
    stack.callback(near.close)
    stack.callback(far.close)
    into = memoryview(bytearray(SPLICED_MB * MEGA // 2))

    def pull(count: int) -> None:
        for _ in range(count // len(into)):
            near.ask(GIVE, b"%d" % len(into), WAIT_S, into).result()

    return relay, pull, lambda body: near.ask(ECHO, body, WAIT_S).result()


def _circuit(stack: ExitStack) -> tuple[Far, Pull, Echo]:
    """Return libp2p's relay, and questions to a peer that is kept there."""
    relay = started(stack, "circuits")
    kept = started(stack, "kept", relay.where)
    mesh = stack.enter_context(relayed_mesh(NEAR_KEY))
    mesh.connect([kept.where], WAIT_S).result()
    path = mesh.path(FAR.peer)
    if path is None or path.kind != "relayed":
        raise PeerLostError(f"not through the relay, but {path}")

    def pull(count: int) -> None:
        for _ in range(count // PIECE_BYTES):
            mesh.ask(FAR.peer, GIVE, b"%d" % PIECE_BYTES, WAIT_S).result()

    return relay, pull, lambda body: mesh.ask(FAR.peer, ECHO, body, WAIT_S).result()


def started(stack: ExitStack, *words: str) -> Far:
    """Return a relay's process, or that of a peer at one; it ends with ``stack``."""
    far = Far(*words, module=RELAYS)
    stack.callback(far.close)
    return far


def relayed_mesh(key: Key) -> MeshThread:
    """Return a peer that can dial through relays, not yet started."""
    return MeshThread(Libp2pConfig(key, HERE, [Relayed([], random.Random(2))]))


def spliced_pair(port: int) -> tuple[Channel, Channel]:
    """Return both ends of a channel through the splice relay on ``port``.

    Raises:
        PeerLostError: the relay does not join the two.
    """
    grant = WARDEN.grant("bench", (Address("127.0.0.1", port),), time.time())
    leave = grant.ticket(secrets.token_bytes(16))
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for sock, dialer in zip(socks, (True, False), strict=True):
        sock.sendall(knock(leave, dialer=dialer))
    if [sock.recv(1) for sock in socks] != [PAIRED, PAIRED]:
        raise PeerLostError("the relay did not join the two")
    return channel_pair(socks[0], socks[1])
