"""Where others see us: their words, which may be anything."""

import pytest

from fedcore.errors import ProtocolError
from p2p.libp2p.heartbeat import Seen

PLACE = "/ip4/192.0.2.7/tcp/4001"


def test_two_must_agree_and_who_is_gone_counts_no_more():
    seen = Seen()
    seen.note("a", PLACE)
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
