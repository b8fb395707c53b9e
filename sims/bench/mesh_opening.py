"""How long it takes until two peers can talk; a part of "mesh".

All on one machine: what is measured are round trips of protocols and processor time,
not distance. Signalling, by which peers learn each other's addresses, is not in it.
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from p2p.libp2p.thread import MeshThread
from p2p.nat.addresses import Address, Candidate
from p2p.nat.effects import Punch, Splice
from p2p.nat.listener import Listener
from p2p.nat.punch import open_socket
from sims.bench.channel import WAIT_S, Far
from sims.bench.frame import Options, Row, middle, versus
from sims.bench.mesh_pairs import channel_pair, loopback_pair
from sims.bench.mesh_relay import relayed_mesh, started
from sims.bench.peers.pipes import ECHO, FAR, NEAR_KEY, fill, open_tls
from sims.bench.peers.relays import WARDEN

WORD = bytes(64)
Open = Callable[[], float]  # opens, says a word, closes; seconds till it is answered


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    options.say("opening ways, one after another")
    turns = 5 if options.quick else 25
    with ExitStack() as stack:
        ways = _ways(stack)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns + 1):
            for name, opens in ways.items():
                taken[name].append(1000 * opens())
    ms = {name: middle(each[1:]) for name, each in taken.items()}
    work = "opened, and 64 B there and back"
    note = "found by its token, the best way picked, then TLS; bare: both ends in one "
    note += "process, too"
    title = "channel, direct, vs bare TLS connection"
    yield versus(title, work, ms["direct"], ms["tls"], "ms", note)
    title = "channel, relayed, vs bare TLS connection"
    yield versus(
        title, work, ms["spliced"], ms["tls"], "ms", "both dial out, and are joined"
    )
    title = "channel, direct, vs libp2p connection"
    yield versus(title, work, ms["direct"], ms["libp2p"], "ms")
    title = "channel, relayed, vs libp2p circuit"
    yield versus(title, work, ms["spliced"], ms["circuit"], "ms")


def _ways(stack: ExitStack) -> dict[str, Open]:
    listeners = [stack.enter_context(Listener()) for _ in range(2)]
    splice, plain = started(stack, "splice"), Far("libp2p")
    stack.callback(plain.close)
    kept = started(stack, "kept", started(stack, "circuits").where)
    mesh = stack.enter_context(relayed_mesh(NEAR_KEY))
    return {
        "direct": lambda: _channel_s(listeners, direct_to),
        "spliced": lambda: _channel_s(listeners, partial(spliced_by, splice)),
        "tls": _tls_s,
        "libp2p": lambda: _libp2p_s(mesh, plain.where),
        "circuit": lambda: _libp2p_s(mesh, kept.where),
    }


def direct_to(other: Listener, token: bytes, dialer: bool) -> Punch:
    """Return what the driver of a peer on the same network is asked for."""
    place = Candidate("lan", Address("127.0.0.1", other.port))
    return Punch("other", 1, token, dialer, b"", (place,))


def spliced_by(relay: Far, other: Listener, token: bytes, dialer: bool) -> Punch:
    """Return what a driver is asked for that can only be joined by ``relay``."""
    place = Address("127.0.0.1", int(relay.where))
    leave = WARDEN.grant("bench", (place,), time.time()).ticket(token)
    splices = (Splice("relay", place, leave),)
    return Punch("other", 1, token, dialer, b"", (), splices=splices, patience_s=0.0)


def _channel_s(
    listeners: list[Listener], asked: Callable[[Listener, bytes, bool], Punch]
) -> float:
    token = secrets.token_bytes(16)
    near, far = listeners
    punches = [(asked(far, token, True), near), (asked(near, token, False), far)]
    began_s = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(open_socket, *each, random.Random(1)) for each in punches]
        socks = [end.result().sock for end in ends]
    pair = channel_pair(socks[0], socks[1])
    pair[0].ask(ECHO, WORD, WAIT_S).result()
    took_s = time.perf_counter() - began_s
    for channel in pair:
        channel.close()
    return took_s


def _tls_s() -> float:
    began_s = time.perf_counter()
    near, far = loopback_pair()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(partial(open_tls, far, near=False))
        pair = open_tls(near, near=True), other.result()
    into = memoryview(bytearray(len(WORD)))
    for source, sink in (pair, pair[::-1]):
        source.sendall(WORD)
        fill(sink, into)
    took_s = time.perf_counter() - began_s
    for line in pair:
        line.close()
    return took_s


def _libp2p_s(mesh: MeshThread, where: str) -> float:
    began_s = time.perf_counter()
    mesh.connect([where], WAIT_S).result()
    mesh.ask(FAR.peer, ECHO, WORD, WAIT_S).result()
    took_s = time.perf_counter() - began_s
    mesh.disconnect(FAR.peer)
    while FAR.peer in mesh.peers():
        time.sleep(0.005)
    return took_s
