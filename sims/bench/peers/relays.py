"""Relays, and a peer that is reached through one, in processes of their own.

    python -m sims.bench.peers.relays splice | circuits | kept RELAY

``splice`` is our blind relay, ``circuits`` libp2p's relay v2, ``kept`` a peer with a
reservation there. Each prints where it can be reached, and answers every line that it
reads with the CPU time, in seconds, that it has used.
"""

import random
import sys
import time
from contextlib import ExitStack

from fedcore.errors import PeerLostError
from p2p.identity.keys import Key
from p2p.libp2p.allowance import RelayLimits
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.parts import Relayed, Relaying
from p2p.libp2p.thread import MeshThread
from p2p.nat.grants import Warden
from p2p.nat.relay import SpliceRelay
from sims.bench.peers.pipes import FAR_KEY, cpu_s, serve_mesh

HERE = ("/ip4/127.0.0.1/tcp/0",)
WARDEN = Warden(b"bench" * 6 + b"..")
RELAY_KEY = Key(b"\3" * 32)
HELD_S = 20.0  # longest wait for a reservation
LIMITS = RelayLimits(circuit_bytes=1 << 34)


def main(way: str, *words: str) -> None:
    """Be what ``way`` says until the input ends."""
    with ExitStack() as stack:
        if way == "splice":
            where = str(
                stack.enter_context(SpliceRelay(WARDEN, "127.0.0.1")).address.port
            )
        elif way == "circuits":
            where = _circuits(stack)
        else:
            where = _kept(words[0], stack)
        print(where, flush=True)  # noqa: T201 - the bench reads it
        for _ in sys.stdin:
            print(cpu_s(), flush=True)  # noqa: T201 - the bench reads it


def _circuits(stack: ExitStack) -> str:
    config = Libp2pConfig(RELAY_KEY, HERE, [Relaying(LIMITS)])
    return stack.enter_context(MeshThread(config)).addresses()[0]


def _kept(relay: str, stack: ExitStack) -> str:
    part = Relayed([relay], random.Random(1))
    mesh = stack.enter_context(MeshThread(Libp2pConfig(FAR_KEY, HERE, [part])))
    serve_mesh(mesh)
    until_s = time.monotonic() + HELD_S
    while time.monotonic() < until_s:
        found = [a for a in mesh.addresses() if "/p2p-circuit" in a]
        if found:
            return found[0]
        time.sleep(0.05)
    raise PeerLostError(f"no reservation at {relay}")


if __name__ == "__main__":
    main(*sys.argv[1:])
