"""Several channels to one peer: spread, and resumed at the byte where one ended."""

import os
import struct
import threading
from concurrent.futures import Future

import pytest

from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from p2p.channel.bundle import Bundle
from p2p.channel.caps import Caps
from tests.channel_ends import A, B, C, Echo, both, channel, done, pair, sockets

pytestmark = pytest.mark.slow
RANGE = struct.Struct("<QQ")
DATA = os.urandom(9_000_001)


class Ranges:
    """Gives ranges of ``DATA``, and counts the bytes it was asked for."""

    def __init__(self):
        self.asked_bytes = 0

    def asked(self, peer, topic, body):
        if topic == "/short":
            return done(b"short")
        if topic == "/no":
            raise ProtocolError("none of your business")
        if topic == "/never":
            return Future()
        offset, count = RANGE.unpack(body)
        self.asked_bytes += count
        return done(memoryview(DATA)[offset : offset + count])

    def told(self, peer, topic, body):
        pass


@pytest.fixture
def bundle():
    caps = Caps()
    pairs = [pair(serve=(Echo(), Ranges()), caps=(None, caps)) for _ in range(3)]
    bundle = Bundle([near for near, _ in pairs])
    bundle.caps, bundle.pairs = caps, pairs
    bundle.services = []
    yield bundle
    for ends in pairs:
        for end in ends:
            end.close()


def test_a_range_is_spread_over_the_channels_and_comes_whole(bundle):
    into = memoryview(bytearray(len(DATA)))
    fetched = bundle.fetch("/range", RANGE.pack, into, 30, piece_bytes=700_000)
    assert fetched.result() == len(DATA)
    assert into == DATA
    used = [far.sent_bytes for _, far in bundle.pairs]
    assert min(used) > 500_000
    assert bundle.fetch("/range", RANGE.pack, memoryview(bytearray()), 5).result() == 0
    replies = [bundle.ask("/range", RANGE.pack(0, i), 5) for i in range(9)]
    assert [reply.result() for reply in replies] == [DATA[:i] for i in range(9)]


def test_what_a_lost_channel_had_begun_goes_on_at_the_byte(bundle):
    bundle.caps.up.set(2_000_000)  # slow enough to be cut in the middle
    into = memoryview(bytearray(len(DATA)))
    fetched = bundle.fetch("/range", RANGE.pack, into, 60, piece_bytes=1 << 20)
    cut = bundle.pairs[0]
    while cut[1].sent_bytes < 200_000:
        threading.Event().wait(0.01)
    cut[1].close("power cut")
    bundle.caps.up.set(None)
    assert fetched.result(30) == len(DATA)
    assert into == DATA
    assert len(bundle.channels) == 2
    sent = sum(far.sent_bytes for _, far in bundle.pairs)
    assert sent < 1.1 * len(DATA)  # no piece came twice


def test_a_fetch_ends_with_the_reason(bundle):
    into = memoryview(bytearray(3_000_000))
    with pytest.raises(ProtocolError, match="none of your business"):
        bundle.fetch("/no", RANGE.pack, into, 5).result()
    with pytest.raises(ProtocolError, match="5 bytes for 1000000"):
        bundle.fetch("/short", RANGE.pack, into, 5, piece_bytes=1_000_000).result()
    with pytest.raises(PeerLostError, match="in time"):
        bundle.fetch("/never", RANGE.pack, into, 0.1).result()
    pending = bundle.fetch("/never", RANGE.pack, into, 60)
    for near, _ in bundle.pairs:
        near.close()
    with pytest.raises(PeerLostError, match="no channel"):
        pending.result(5)
    with pytest.raises(PeerLostError, match="no channel"):
        bundle.ask("/range", b"", 5).result()


def test_a_bundle_is_of_one_peer(bundle):
    near, far = sockets()
    other, its = both(
        lambda: channel(near, A, C.certificate, dialer=True, serve=Echo()),
        lambda: channel(far, C, A.certificate, dialer=False, serve=Echo()),
    )
    with pytest.raises(ConfigError, match=f"{C.peer}, not to {B.peer}"):
        bundle.add(other)
    with pytest.raises(ConfigError, match="no channels"):
        Bundle([])
    other.close()
    its.close()
