"""Inference through a split model: the first blocks here, the others there.

``Stage`` is the serving side, stateless; ``Runner`` is the client's. Both can play a
slower device: they sleep so much longer as it would take.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from statistics import median
from threading import Lock, Semaphore, Thread

import torch
from torch import Tensor, nn

from clients.split.channel import Channel, Dial
from clients.split.cut import Cut, blocks_of, parts_of
from clients.split.messages import (
    Message,
    check_names,
    checked,
    decode,
    encode,
    rows_of,
    taken,
)
from fedcore.errors import ConfigError, FedError, ProtocolError


def check_slowdown(slowdown: float) -> None:
    """Check that a device is at most as fast as this one.

    Raises:
        ConfigError: it would be faster, which nobody can play.
    """
    if not 1.0 <= slowdown < inf:
        raise ConfigError(f"slowdown must be >= 1: {slowdown}")


def rest(began_s: float, slowdown: float) -> None:
    """Sleep as much longer as a slower device would have worked since ``began_s``."""
    if slowdown > 1.0:
        time.sleep((slowdown - 1.0) * (time.perf_counter() - began_s))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block, as when the profile was taken.

    The number belongs to the calling thread: a thread that serves a visit has its own.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Stage:
    """Runs the last blocks of a model on what comes, any cut at any time.

    Args:
        model: with its weights; used as for evaluation.
        example: inputs of the model, one row or more; only the form matters.
        slowdown: how many times slower than this machine to be, >= 1.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, slowdown: float = 1.0
    ) -> None:
        check_slowdown(slowdown)
        self._slowdown = slowdown
        self._lock = Lock()  # visits take turns: memory is that of one batch
        self._blocks = list(blocks_of(model.eval()).values())
        with one_thread(), torch.no_grad():
            self._rows = [rows_of(x) for x in _all(self._blocks, example)]

    def take(self, data: bytes) -> bytes:
        """Return the outputs for the activations in ``data``.

        Raises:
            ProtocolError: they are of another form, or not finite.
        """
        began_s = time.perf_counter()
        message = decode(data)
        at = message.facts.get("at")
        if message.kind != "infer" or set(message.facts) != {"at"}:
            raise ProtocolError(f"order: {message.kind} came where infer was due")
        if type(at) is not int or not 0 <= at <= len(self._blocks):
            raise ProtocolError(f"a cut that is not in 0 to {len(self._blocks)}")
        check_names(message, "activations")
        x = checked(message, "activations", self._rows[at], None)
        with self._lock, one_thread(), torch.no_grad():
            for block in self._blocks[at:]:
                x = _passed(block, x)
        answer = encode(Message("answer", message.step, {"outputs": x}))
        rest(began_s, self._slowdown)
        return answer


def _passed(block: nn.Module, x: Tensor) -> Tensor:
    try:
        y: Tensor = block(x)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ProtocolError(f"the model does not take them: {error}") from error
    return y


def _all(blocks: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Return the input, and the output of every block."""
    found = [x.clone()]
    for block in blocks:
        x = block(x)
        found.append(x.clone())  # the next block may work in place
    return found


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured for one cut.

    Attributes:
        latency_s: seconds from inputs to outputs, nothing else under way; median.
        per_s: batches per second with several under way.
    """

    latency_s: float
    per_s: float


class Runner:
    """The client's side: first blocks here, the rest through a channel.

    Args:
        model: with its weights; used as for evaluation.
        at: blocks to run here.
        slowdown: how many times slower than this machine to be, >= 1.
    """

    def __init__(self, model: nn.Module, at: int, slowdown: float = 1.0) -> None:
        check_slowdown(slowdown)
        front, back, _ = parts_of(model.eval(), Cut(at))
        self._front, self._all_here, self.at = front, not len(back), at
        self._slowdown = slowdown

    def begin(self, x: Tensor, number: int) -> bytes | Tensor:
        """Return the message for the other side, or the outputs if all runs here."""
        began_s = time.perf_counter()
        with torch.no_grad():
            y = self._front(x)
        if not self._all_here:
            y = encode(Message("infer", number, {"activations": y}, {"at": self.at}))
        rest(began_s, self._slowdown)
        found: bytes | Tensor = y
        return found

    def infer(self, channel: Channel, x: Tensor, number: int = 0) -> Tensor:
        """Return the outputs for ``x``; one batch at a time.

        Raises:
            ProtocolError: the other side refused, or broke a rule.
            PeerLostError: the other side is gone.
        """
        message = self.begin(x, number)
        if isinstance(message, Tensor):
            return message
        channel.send(message)
        answer = taken(channel.receive(), "answer", number)
        check_names(answer, "outputs")
        return answer.tensors["outputs"]

    def latency_s(self, channel: Channel, x: Tensor, repeats: int) -> float:
        """Return the median seconds of ``repeats`` single batches, after one more."""
        times = []
        for number in range(repeats + 1):
            began_s = time.perf_counter()
            self.infer(channel, x, number)
            times.append(time.perf_counter() - began_s)
        return median(times[1:])

    def per_s(self, channel: Channel, x: Tensor, count: int, window: int) -> float:
        """Return batches per second with up to ``window`` of ``count`` under way."""
        if self._all_here:
            return 1.0 / self.latency_s(channel, x, count)
        arrivals, places = list[float](), Semaphore(window)
        failed: list[FedError] = []

        def collect() -> None:
            try:
                for number in range(count):
                    taken(channel.receive(), "answer", number)
                    arrivals.append(time.perf_counter())
                    places.release()
            except FedError as error:
                failed.append(error)
                places.release()

        thread = Thread(target=collect, name="split-answers", daemon=True)
        thread.start()
        for number in range(count):
            places.acquire()
            if failed:
                break
            message = self.begin(x, number)
            if isinstance(message, bytes):
                channel.send(message)
        thread.join()
        if failed:
            raise failed[0]
        first = min(window, count // 2)  # until then the pipe was being filled
        return (count - 1 - first) / (arrivals[-1] - arrivals[first])


def measured(
    model: nn.Module, dial: Dial, x: Tensor, *, slowdown: float, repeats: int
) -> list[Speed]:
    """Return what every cut of ``model`` really takes, from 0 blocks here to all.

    Args:
        model: the same as at the other end of ``dial``.
        dial: opens a channel to a ``Stage``.
        x: inputs of the model.
        slowdown: how many times slower than this machine to be, >= 1.
        repeats: batches for the latency; thrice as many for the rate.
    """
    found = []
    with one_thread():
        for at in range(len(blocks_of(model)) + 1):
            runner, channel = Runner(model, at, slowdown), dial()
            try:
                latency_s = runner.latency_s(channel, x, repeats)
                per_s = runner.per_s(channel, x, 3 * repeats, WINDOW)
            finally:
                channel.close()
            found.append(Speed(latency_s, per_s))
    return found


WINDOW = 8  # batches under way
