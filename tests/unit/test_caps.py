"""Caps hold within 5 %, are shared fairly, and may change at any time."""

import random

import pytest

from fedcore.errors import ConfigError
from p2p.channel.caps import Bucket, Caps


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def run(bucket, clock, senders, seconds, late_s=0.0):
    """Let senders, each with one slot at a time, send; return bytes by sender.

    ``senders`` are functions from the time to the bytes that one has to send.
    """
    end_s = clock.now_s + seconds
    sent = [0] * len(senders)
    ready = [(clock.now_s, i, None) for i in range(len(senders))]
    rng = random.Random(1)
    while True:
        ready.sort()
        clock.now_s, i, slot = ready.pop(0)
        if clock.now_s >= end_s:
            return sent
        sent[i] += slot or 0
        has = senders[i](clock.now_s)
        if has:
            size = min(has, bucket.slot_bytes())
            wait_s = bucket.take(size)
            ready.append((clock.now_s + wait_s + rng.random() * late_s, i, size))
        else:
            ready.append((clock.now_s + 0.01, i, None))


@pytest.mark.parametrize("rate", [5_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize("late_s", [0.0, 0.02])
def test_a_busy_sender_gets_the_cap_within_five_percent(rate, late_s):
    clock = Clock()
    sent = run(Bucket(rate, clock), clock, [lambda _: 1 << 30], 3.0, late_s)
    assert 0.95 * 3 * rate < sum(sent) < 1.05 * 3 * rate


def test_bursts_after_silence_do_not_exceed_the_cap():
    clock = Clock()
    bucket = Bucket(1_000_000, clock)
    clock.now_s += 3600
    sent = run(bucket, clock, [lambda _: 1 << 30], 2.0)
    assert sum(sent) < 1.05 * 2_000_000


def test_busy_channels_share_alike_and_quiet_ones_get_what_they_need():
    clock = Clock()
    bucket = Bucket(1_000_000, clock)

    def quiet(now_s):
        return 1000 if int(now_s * 100) % 10 == 0 else 0

    first, second, small = run(bucket, clock, [lambda _: 1 << 30] * 2 + [quiet], 4.0)
    assert first / second == pytest.approx(1, rel=0.1)
    assert small >= 0.8 * 4 * 10 * 1000
    assert first + second + small < 1.05 * 4_000_000


def test_a_new_cap_holds_at_once():
    clock = Clock()
    bucket = Bucket(10_000, clock)
    assert bucket.take(200_000) == 0
    assert bucket.take(1) == pytest.approx(20)
    bucket.set(1_000_000)
    assert bucket.take(1) <= 0.02
    bucket.set(None)
    assert bucket.take(1 << 40) == 0
    assert bucket.rate_bytes_s is None
    bucket.set(50_000)
    sent = run(bucket, clock, [lambda _: 1 << 30], 3.0)
    assert 0.95 * 150_000 < sum(sent) < 1.05 * 150_000


def test_corrections_count():
    clock = Clock()
    bucket = Bucket(1000.0 * 1024, clock)
    bucket.take(1024)
    bucket.correct(1024 * 100)
    assert bucket.take(1) == pytest.approx(0.101)


def test_how_far_a_peer_may_be_ahead():
    caps = Caps(down_bytes_s=1_000_000)
    caps.join(1)
    assert caps.down.ahead_bytes(1 << 24, 0.0) == 30_000
    assert caps.down.ahead_bytes(1 << 24, 0.2) == 230_000
    assert caps.down.ahead_bytes(4096, 0.2) == 4096
    caps.join(1)
    assert caps.down.ahead_bytes(1 << 24, 0.0) == 15_000
    caps.join(-1)
    caps.down.set(None)
    assert caps.down.ahead_bytes(1 << 24, 0.2) == 1 << 24


@pytest.mark.parametrize("rate", [0, -5, 1023, float("nan")])
def test_caps_that_cannot_be(rate):
    with pytest.raises(ConfigError, match="give 1024 or more"):
        Caps(up_bytes_s=rate)
