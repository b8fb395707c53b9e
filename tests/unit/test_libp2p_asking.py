"""Our requests to a peer that is slow: what waits for it is bounded."""

import pytest
import trio
import trio.testing

from fedcore.errors import PeerLostError
from p2p.identity.keys import Key
from p2p.libp2p.asking import Asker
from p2p.libp2p.config import Quotas

PEER = Key(bytes(32)).peer


class Slow:
    """A connection that breaks, but only after a second."""

    async def new_stream(self):
        await trio.sleep(1)
        raise OSError("it broke")


def test_the_bytes_that_wait_for_a_peer_are_bounded_and_given_back():
    quotas = Quotas(asks_per_peer=1, waiting_bytes_per_peer=2048)

    async def main():
        async with trio.open_nursery() as nursery:
            asker = Asker(nursery, lambda _: Slow(), quotas)
            for _ in range(3):  # also after those before were given up
                await asker.tell(PEER, "/t/1", bytes(1500))
                with pytest.raises(PeerLostError, match="too many wait"):
                    await asker.ask(PEER, "/t/1", bytes(1500), timeout_s=9)
                with pytest.raises(PeerLostError, match="it broke"):
                    await asker.ask(PEER, "/t/1", bytes(100), timeout_s=9)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
