"""How well a cap on a node's bytes a second is kept, both ways; a part of "mesh"."""

import time
from collections.abc import Iterator, Sequence

from p2p.channel.caps import Caps
from p2p.channel.channel import Channel
from sims.bench.channel import MEGA, WAIT_S
from sims.bench.frame import Options, Row
from sims.bench.mesh_pairs import channel_pair, loopback_pair
from sims.bench.peers.pipes import GIVE

RATES_MB_S = (1, 10)
CHANNELS = 3
GIVEN_MB = 40  # asked for on each channel: more than there is time for
PROMISED = 5.0  # per cent


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    options.say("caps of both directions")
    seconds, rates = (1.5, RATES_MB_S[:1]) if options.quick else (8.0, RATES_MB_S)
    for rate_mb_s in rates:
        for up in (True, False):
            yield _row(rate_mb_s, up, seconds)


def _row(rate_mb_s: float, up: bool, seconds: float) -> Row:
    bytes_s = rate_mb_s * MEGA
    caps = Caps(up_bytes_s=bytes_s) if up else Caps(down_bytes_s=bytes_s)
    pairs = [channel_pair(*loopback_pair(), caps) for _ in range(CHANNELS)]
    into = [memoryview(bytearray(GIVEN_MB * MEGA)) for _ in pairs]
    takers = [far if up else near for near, far in pairs]
    try:
        for taker, buffer in zip(takers, into, strict=True):
            taker.ask(GIVE, b"%d" % len(buffer), WAIT_S, buffer)
        rate = _rate(takers, seconds)
    finally:
        for channel in (end for pair in pairs for end in pair):
            channel.close()
    name = f"cap {'up' if up else 'down'}, {rate_mb_s:g} MB/s: off vs promised"
    work = f"{CHANNELS} channels with more to come, {seconds:g} s"
    error = 100 * abs(rate / bytes_s - 1)
    # A ratio of errors would say little: the smaller one is chance.
    note = f"measured {rate / MEGA:.3f} MB/s, what waits in buffers included"
    return Row(name, work, error, PROMISED, None, "%", note)


def _rate(takers: Sequence[Channel], seconds: float) -> float:
    """Return the bytes a second that ``takers`` get together."""
    time.sleep(0.5)  # what the buffers took at once is over
    began_s, before = time.perf_counter(), sum(t.received_bytes for t in takers)
    time.sleep(seconds)
    count = sum(t.received_bytes for t in takers) - before
    return count / (time.perf_counter() - began_s)
