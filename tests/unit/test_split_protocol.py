"""What each side refuses, and that a refusal leaves the weights as they were."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from clients.split.client import SplitClient
from clients.split.cut import Cut, blocks_of, parts_of
from clients.split.front import ClientSession
from clients.split.messages import (
    LIMITS,
    MOST_ROWS,
    Message,
    checked,
    decode,
    encode,
    rows_of,
)
from clients.split.server import SplitServer
from clients.split.terms import Split
from clients.trainers.sgd import SGD
from fedcore.codec import encode_work
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import digest
from fedcore.strategy import Work
from tests.split_cases import conv, mlp, start_of, task_of

TRAINER = SGD(lr=0.1, momentum=0.5)
X, Y = torch.zeros(8, 4, 1, 2), torch.zeros(8, dtype=torch.int64)  # after five blocks


FIVE = Cut(5)


def opened(cut=FIVE):
    """Return a server after one good step, its visit, and the client's session."""
    task, start = task_of("conv"), start_of("conv")
    server = SplitServer(task, cut, start, TRAINER)
    session = ClientSession(Split(task, cut, TRAINER), "client", 0, start, steps=9)
    visit = server.visit()
    session.take(visit.take(session.begin()))
    while session.done < 1:
        session.take(visit.take(session.say()))
    return server, visit, session


def forward(step=1, **changes):
    tensors = {"activations": X, "labels": Y, **changes}
    return Message("forward", step, {k: t for k, t in tensors.items() if t is not None})


BAD = {
    "is missing|brings": forward(labels=None),
    "brings": forward(extra=Y),
    "has rows of torch.float64": forward(activations=X.double()),
    r"rows of torch.float32 \(4, 2, 1\)": forward(activations=X.view(8, 4, 2, 1)),
    "has rows of torch.float32 ()": forward(activations=torch.zeros(())),
    "has 0 rows": forward(activations=X[:0], labels=Y[:0]),
    "labels has 7 rows, not 8": forward(labels=Y[:7]),
    "labels has rows of torch.int32": forward(labels=Y.int()),
    "activations has a number that is not finite": forward(activations=X / 0),
    "back or loss do not take them": forward(labels=Y + 99),
    "the loss of step 1 is not finite": forward(labels=Y - 100),
    "step 5 where 1 was due": forward(5),
    "came again with other content": forward(0),
    "slope is not due": Message("slope", 1, {"slope": X}),
    "welcome is not due": Message("welcome", 1),
    "infer is not due": Message("infer", 1, {"activations": X}, {"at": 5}),
}


@pytest.mark.parametrize("rule", BAD)
def test_what_the_server_refuses_leaves_the_back_as_it_was(rule):
    server, visit, session = opened()
    before = digest(server.params())
    with pytest.raises(ProtocolError, match=rule.replace("()", r"\(\)")):
        visit.take(encode(BAD[rule]))
    assert digest(server.params()) == before
    while session.done < 3:  # and the session goes on as if nothing had been
        session.take(visit.take(session.say()))
    assert digest(server.params()) == undisturbed()


@cache
def undisturbed():
    server, visit, session = opened()
    while session.done < 3:
        session.take(visit.take(session.say()))
    return digest(server.params())


def test_a_refused_slope_undoes_the_pass_before_it():
    """Running means moved in the forward pass; they must go back."""
    server, visit, session = opened(Cut(1, 1))
    before = digest(server.params())
    visit.take(session.say())
    for bad in (torch.zeros(8, 9), torch.full((8, 8), float("nan"))):
        with pytest.raises(ProtocolError, match="slope of step 1: slope has"):
            visit.take(encode(Message("slope", 1, {"slope": bad})))
        assert digest(server.params()) == before
        visit.take(session._step.forward)  # the same step may be tried again


@pytest.mark.parametrize(
    ("theirs", "rule"),
    [
        ({"trainer": SGD(lr=0.2)}, r"terms: trainer.lr is 0.2 with the client and 0.1"),
        ({"cut": Cut(1, 1)}, "terms: at is 1 with the client and 2"),
        ({"task": task_of("drops")}, "terms: model is"),
    ],
)
def test_terms_that_differ_are_named(theirs, rule):
    ours = {"task": task_of("mlp"), "cut": Cut(2), "trainer": SGD(lr=0.1)}
    server = SplitServer(ours["task"], ours["cut"], start_of("mlp"), ours["trainer"])
    client = SplitClient(**{**ours, **theirs})
    with pytest.raises(ProtocolError, match=rule):
        client.train(server.dial, 1, start_of("drops" if "task" in theirs else "mlp"))


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (Message("refused", 0, {}, {"reason": "go away"}), "refused by the server: go"),
        (Message("bye", 1), "bye came where gradient was due"),
        (Message("gradient", 2), "step 2 where 1 was due"),
        (Message("gradient", 1), "no finite loss"),
        (Message("gradient", 1, {}, {"loss": float("nan")}), "no finite loss"),
        (Message("gradient", 1, {}, {"loss": 0.5}), "brings nothing, not slope"),
        (Message("gradient", 1, {"slope": X / 0}, {"loss": 0.5}), "is not finite"),
        (Message("gradient", 1, {"slope": X[:3]}, {"loss": 0.5}), "has 3 rows, not 8"),
    ],
)
def test_what_the_client_refuses_leaves_the_front_as_it_was(message, rule):
    _, visit, session = opened()
    out = session.say()
    before = digest(session.front.params())
    with pytest.raises(ProtocolError, match=rule):
        session.take(encode(message))
    assert digest(session.front.params()) == before
    session.take(visit.take(out))
    assert session.done == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FCW\x01" + bytes(40),
        encode(Message("hello"))[:-1],
        encode_work(Work(0, {}, hints={"kind": "dance"})),
        encode_work(Work(0, {}, steps=1, hints={"kind": "end"})),
        encode_work(Work(0, {}, aux={"x": X}, hints={"kind": "end"})),
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ProtocolError):
        decode(data)


@pytest.mark.parametrize(
    "facts",
    [{}, {"peer": "a"}, {"peer": "../x", "version": 0}, {"peer": "a", "version": -1}],
)
def test_a_hello_must_be_whole(facts):
    server, _, session = opened()
    terms = facts and {**session.terms, **facts}
    with pytest.raises(ProtocolError, match="a hello with"):
        server.visit().take(encode(Message("hello", 0, {}, terms)))
    with pytest.raises(ProtocolError, match="end came before a hello"):
        server.visit().take(encode(Message("end")))


def test_a_new_session_ends_the_one_before_on_a_shared_back():
    server, visit, _ = opened()
    other = SplitClient(task_of("conv"), Cut(5), TRAINER, peer="other")
    other.train(server.dial, 1, start_of("conv"))
    with pytest.raises(ProtocolError, match="of client is over, session 0 of other"):
        visit.take(encode(forward()))


def test_a_client_whose_session_is_over_does_not_end_another():
    server, _, session = opened()
    visit = server.visit()
    other = ClientSession(session.split, "other", 0, start_of("conv"), 9)
    other.take(visit.take(other.begin()))
    with pytest.raises(ProtocolError, match=r"session 0 of client .* at step 1: begin"):
        server.visit().take(session.begin())
    other.take(visit.take(other.say()))
    assert other.done == 1


def test_a_message_above_the_limit_is_not_sent(monkeypatch):
    small = replace(LIMITS, message_bytes=1 << 12)
    monkeypatch.setattr("clients.split.messages.LIMITS", small)
    assert encode(Message("forward", 0, {"activations": torch.zeros(900)}))
    with pytest.raises(ProtocolError, match=r"forward has 41\d\d.* batches smaller"):
        encode(Message("forward", 0, {"activations": torch.zeros(1 << 10)}))


def test_backs_apart_are_counted():
    task, start = task_of("mlp"), start_of("mlp")
    server = SplitServer(task, Cut(1), start, TRAINER, apart=True, most=1)
    SplitClient(task, Cut(1), TRAINER, peer="a").train(server.dial, 1, start)
    with pytest.raises(ProtocolError, match="1 clients already"):
        SplitClient(task, Cut(1), TRAINER, peer="b").train(server.dial, 1, start)
    with pytest.raises(ConfigError, match="no session of 'b'"):
        server.params("b")


def test_models_that_cannot_be_cut_are_named():
    tied = mlp()
    tied[2].weight = tied[0].weight
    half = nn.Linear(2, 2)
    half.blocks = lambda: {"weight_norm": nn.Identity()}
    with pytest.raises(ConfigError, match="Linear cannot be cut: make it"):
        blocks_of(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="'bias' is on one side only"):
        blocks_of(half)
    with pytest.raises(ConfigError, match=r"'2.weight' and '0.weight' are one weight"):
        parts_of(tied, Cut(1))
    assert parts_of(tied, Cut(0))
    with pytest.raises(ConfigError, match="the model has 3 blocks"):
        parts_of(mlp(), Cut(2, 2))
    with pytest.raises(ConfigError, match="at >= 0"):
        Cut(-1)
    with pytest.raises(ConfigError, match=r"trainer.clip_norm=0"):
        Split(task_of("mlp"), Cut(1), SGD(clip_norm=1.0))


def test_parts_keep_the_names_of_the_model():
    front, back, head = parts_of(conv(), Cut(2, 1))
    assert [*front.state_dict()] == ["1.weight", "1.bias"]
    assert "2.running_mean" in back.state_dict()
    assert [*head.state_dict()] == ["7.weight", "7.bias"]


def test_backs_on_the_disk_count_too(tmp_path):
    task, start, cut = task_of("mlp"), start_of("mlp"), Cut(1)

    def server():
        return SplitServer(
            task, cut, start, TRAINER, apart=True, most=1, folder=tmp_path
        )

    SplitClient(task, cut, TRAINER, peer="a").train(server().dial, 1, start)
    with pytest.raises(ProtocolError, match="1 clients already"):
        SplitClient(task, cut, TRAINER, peer="b").train(server().dial, 1, start)
    SplitClient(task, cut, TRAINER, peer="a").train(server().dial, 1, start, 1)


def test_a_batch_of_too_many_rows_is_refused():
    short = Message("forward", 0, {"activations": torch.zeros(MOST_ROWS + 1, 1)})
    with pytest.raises(ProtocolError, match="4097 rows, above 4096: make batches"):
        checked(short, "activations", rows_of(torch.zeros(1, 1)), None)
