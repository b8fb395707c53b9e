"""When one more channel to a peer is worth a try: by the round trip and the rate."""

from p2p.channel.width import MOST, SPAN_S, Width

LONG_S, MB = 0.05, 10**6


class Download:
    """Asks eight times a second, over as many channels as the rule wanted."""

    def __init__(self, rate_bytes_s, rtt_s=LONG_S):
        self.rate_bytes_s, self.rtt_s = rate_bytes_s, rtt_s
        self.width, self.now_s, self.channels, self.bytes = Width(), 100.0, 1, 0
        self.wanted_s = []

    def go_on(self, for_s):
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            self.now_s += 0.125
            self.bytes += round(0.125 * self.rate_bytes_s(self.channels))
            if self.width.wants(self.now_s, self.channels, self.rtt_s, self.bytes):
                self.wanted_s.append(self.now_s - 100.0)
                self.channels += 1
        return self.channels


def test_a_long_way_gets_more_channels_while_they_bring_more():
    download = Download(lambda channels: channels * MB)
    assert download.go_on(60) == MOST
    # Two seconds of each; the first ask, and that after each change, begins anew.
    assert download.wanted_s == [2.125, 4.25, 6.375]


def test_a_short_way_and_one_of_unknown_length_get_none():
    assert Download(lambda channels: channels * MB, 0.001).go_on(30) == 1
    assert Download(lambda channels: channels * MB, None).go_on(30) == 1


def test_a_cap_that_all_share_ends_it():
    download = Download(lambda channels: 2 * MB)
    assert download.go_on(60) == 2


def test_queues_do_not_make_a_way_long():
    download = Download(lambda channels: channels * MB, 0.002)
    download.go_on(0.2)
    download.rtt_s = 0.4  # now that we fill the line
    assert download.go_on(30) == 1


def test_a_short_download_gets_none_and_after_a_pause_it_begins_anew():
    download = Download(lambda channels: channels * MB)
    for _ in range(5):
        assert download.go_on(SPAN_S - 0.3) == 1
        download.now_s += 10
    assert download.go_on(SPAN_S + 0.3) == 2


def test_what_could_not_be_opened_is_no_gain():
    download = Download(lambda channels: MB)
    download.go_on(SPAN_S + 0.2)
    download.channels = 1  # the attempt failed
    download.width._channels = 1
    assert download.go_on(30) == 1
