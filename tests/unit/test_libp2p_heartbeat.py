"""Where others see us: their words, which may be anything; and who is given up."""

import pytest
import trio
import trio.testing

from fedcore.errors import PeerLostError, ProtocolError
from p2p.libp2p.heartbeat import Heartbeat, Seen

PLACE = "/ip4/192.0.2.7/tcp/4001"


def test_two_must_agree_and_who_is_gone_counts_no_more():
    seen = Seen(trusted=frozenset("ab"))
    seen.note("a", PLACE)
    seen.note("stranger", PLACE)
    seen.note("b", "/ip6/2001:db8::7/tcp/4001")
    assert seen.confirmed() == []
    seen.note("b", PLACE)
    assert seen.confirmed() == [PLACE]
    seen.forget("a")
    assert seen.confirmed() == []


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/192.0.2.7/tcp/0",
        "/ip4/192.0.2.7/tcp/65536",
        "/ip4/192.0.2.7/tcp/04001",
        "/ip4/192.0.2.7/tcp/+4001",
        "/ip4/192.0.2.7/udp/4001",
        "/ip6/192.0.2.7/tcp/4001",
        "/ip 4/192.0.2.7/tcp/4001",
        "/4/192.0.2.7/tcp/4001",
        "/ip4/example.org/tcp/4001",
        "/ip4/192.0.2.7/tcp/4001/ws",
        "/ip4/192.0.2.7/tcp/" + "1" * 64,
    ],
)
def test_what_is_no_address_is_refused(address):
    seen = Seen()
    with pytest.raises(ProtocolError, match="not an address"):
        seen.note("a", address)
    assert not seen.by


class Mute:
    """Asks, and nobody ever answers: as on a link that is full, or dead."""

    async def ask(self, peer, topic, body, timeout_s):
        await trio.sleep(timeout_s)
        raise PeerLostError(peer)

    async def sweep(self):
        await trio.lowlevel.checkpoint()


def test_who_sends_elsewhere_is_not_given_up_until_that_ends_too():
    gone = []

    async def main():
        def hang_up(peer, why):
            gone.append((peer, round(trio.current_time())))
            heart.down(peer)

        def elsewhere(peer):  # 1 MB a second, until it ends
            return int(min(trio.current_time(), 60.0) * 1e6) if peer == "busy" else 0

        heart = Heartbeat(5.0, Mute(), hang_up, elsewhere=elsewhere)
        heart.up("busy")
        heart.up("dead")
        with trio.move_on_after(200):
            await heart.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    (first, soon_s), (second, late_s) = gone
    assert (first, second) == ("dead", "busy")
    assert 15 <= soon_s <= 18
    assert 75 <= late_s <= 78
