"""Hand-computed points, and the machinery that measures them."""

import threading

import pytest
import torch
from torch import nn

from clients.split.channel import MemoryChannel
from clients.split.cut import blocks_of
from clients.split.messages import Message, encode
from clients.split.pareto import Place, Point, front_of, predicted, step_s
from clients.split.profile import BlockCost, Crossing, Profile, profiled
from clients.split.slow import Net
from clients.split.sockets import Listening
from clients.split.stage import Runner, Stage, measured
from fedcore.errors import ConfigError, ProtocolError
from tests.split_cases import MODELS, conv, drops

# Two blocks of 10 and 30 ms; 1000, 100 and 10 bytes cross, and codecs take no time.
BLOCKS = (BlockCost("a", 0.01, 0.02), BlockCost("b", 0.03, 0.05))
PROFILE = Profile(BLOCKS, tuple(Crossing(n, 0.0, 0.0) for n in (1000, 100, 10)))


def test_points_by_hand():
    place = Place(client=4.0, server=1.0, net=Net(delay_s=0.005, bytes_per_s=1e4))
    there, middle, here = predicted(PROFILE, place)
    # sent 0.1 + answer 0.001 + round trip 0.01 + server 0.04; the link is narrowest
    assert there.latency_s == pytest.approx(0.151)
    assert there.per_s == pytest.approx(1 / 0.1)
    # client 0.04 + sent 0.01 + answer 0.001 + round trip 0.01 + server 0.03
    assert middle.latency_s == pytest.approx(0.091)
    assert middle.per_s == pytest.approx(1 / 0.04)
    assert (here.latency_s, here.per_s) == pytest.approx((0.16, 1 / 0.16))
    assert predicted(PROFILE, place, window=1)[1].per_s == pytest.approx(1 / 0.091)


def test_codec_and_training_by_hand():
    crossing = Crossing(1000, 0.001, 0.002)
    profile = Profile(BLOCKS, (crossing, crossing, crossing))
    place = Place(2.0, 3.0, Net(0.01, 1e6))
    # client 2 (10 + 1), link 1 + 1 + 20, server 3 (2 + 30 + 1), and 2 to read, in ms
    assert predicted(profile, place)[1].latency_s == pytest.approx(0.145)
    # client 2 (30 + 3), link 2 (1 + 10), server 3 (80 + 3)
    assert step_s(profile, place, 1) == pytest.approx(0.337)


def test_latency_and_throughput_may_want_different_cuts():
    """Two equal devices and a round trip: alone is quicker, together is more."""
    points = predicted(PROFILE, Place(net=Net(delay_s=0.05)))
    quickest = min(points, key=lambda p: p.latency_s)
    most = max(points, key=lambda p: p.per_s)
    assert (quickest.at, most.at) == (2, 1)
    assert [p.at for p in front_of(points)] == [1, 2]


def test_the_front_is_what_nothing_beats():
    a, b, c, d = (
        Point(0, 1.0, 1.0),
        Point(1, 2.0, 2.0),
        Point(2, 2.0, 1.5),
        Point(3, 3, 2),
    )
    assert front_of([a, b, c, d]) == [a, b]
    assert front_of([b, b]) == [b, b]
    close = [Point(0, 1.0, 1.0), Point(1, 1.05, 0.97)]
    assert front_of(close) == close[:1]
    assert front_of(close, tie=0.1) == close


@pytest.mark.parametrize("model", MODELS)
def test_a_profile_covers_every_block_and_every_cut(model):
    x = torch.randn(5, 6)
    profile = profiled(MODELS[model](), x, repeats=1)
    assert [b.name for b in profile.blocks] == [*blocks_of(MODELS[model]())]
    assert len(profile.crossings) == len(profile.blocks) + 1
    sent = encode(Message("infer", 0, {"activations": x}, {"at": 0}))
    assert profile.crossings[0].size_bytes == len(sent)
    assert all(b.forward_s > 0 for b in profile.blocks)
    assert any(b.backward_s > 0 for b in profile.blocks)


def test_inference_in_two_places_gives_the_outputs_of_one():
    for model in (conv().eval(), drops().eval()):
        x = torch.randn(4, 6)
        expected = model(x.clone()).detach()
        stage = Stage(model, x)
        for at in range(len(blocks_of(model)) + 1):
            outputs = Runner(model, at).infer(MemoryChannel(stage), x)
            assert torch.equal(outputs, expected)


BAD = {
    "hello came where infer": Message("hello"),
    "a cut that is not in 0 to 8": Message("infer", 0, {}, {"at": 9}),
    "activations is missing|brings nothing": Message("infer", 0, {}, {"at": 2}),
    "has rows of": Message("infer", 0, {"activations": torch.zeros(1, 5)}, {"at": 0}),
    "not finite": Message("infer", 0, {"activations": torch.ones(1, 6) / 0}, {"at": 0}),
}


@pytest.mark.parametrize("rule", BAD)
def test_what_a_stage_refuses(rule):
    stage = Stage(conv(), torch.zeros(1, 6))
    with pytest.raises(ProtocolError, match=rule):
        stage.take(encode(BAD[rule]))


def test_what_the_model_does_not_take_is_refused():
    stage = Stage(nn.Sequential(nn.Embedding(3, 2)), torch.zeros(1, 4).long())
    message = Message("infer", 0, {"activations": torch.full((1, 4), 9)}, {"at": 0})
    with pytest.raises(ProtocolError, match="the model does not take them: index"):
        stage.take(encode(message))


class Empty:
    """Answers without any outputs."""

    def take(self, data):
        return encode(Message("answer", 0))


def test_an_answer_without_outputs_is_refused():
    with pytest.raises(ProtocolError, match="brings nothing, not outputs"):
        Runner(conv(), 0).infer(MemoryChannel(Empty()), torch.zeros(1, 6))


def test_every_cut_is_measured_over_a_socket():
    x = torch.randn(4, 6)
    stage = Stage(conv(), x)
    with Listening(lambda: stage) as listening:
        found = measured(conv(), listening.dial, x, slowdown=1.0, repeats=4)
    assert len(found) == 9
    assert all(s.latency_s > 0 and s.per_s > 0 for s in found)


def test_a_refusal_ends_a_pipelined_measurement():
    x = torch.randn(4, 6)
    stage = Stage(nn.Sequential(nn.Linear(3, 3)), torch.zeros(1, 3))
    with Listening(lambda: stage) as listening:
        channel = listening.dial()
        with pytest.raises(ProtocolError, match="refused by the server"):
            Runner(conv(), 0).per_s(channel, x, 20, window=2)
        channel.close()


def test_nobody_can_play_a_faster_device():
    for make in (lambda: Place(client=0.5), lambda: Runner(conv(), 1, 0.9)):
        with pytest.raises(ConfigError, match="slowdown must be >= 1"):
            make()


def test_a_stage_runs_one_batch_at_a_time():
    """So that many visits at once need no more memory than one."""
    inside, most, stop = [], [], threading.Event()

    class Counting(nn.Module):
        def forward(self, x):
            inside.append(1)
            most.append(len(inside))
            stop.wait(0.02)
            inside.pop()
            return x

    stage = Stage(nn.Sequential(Counting()), torch.zeros(1, 3))
    ask = encode(Message("infer", 0, {"activations": torch.zeros(1, 3)}, {"at": 0}))
    threads = [threading.Thread(target=stage.take, args=(ask,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5  # the first is the stage's own
