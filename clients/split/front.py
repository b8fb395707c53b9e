"""The front of a model, and its head, in one session, without any I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from clients.split.messages import Message, check_names, checked, encode, taken
from clients.split.part import PartState, slopes, writable
from clients.split.terms import Split, forms_of, hello, terms_of
from clients.trainers.method import reproducible
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.seeds import seed_of
from fedcore.strategy import PeerId
from fedcore.task import Batch


@dataclass(frozen=True, slots=True)
class Trained:
    """What a client has after a session.

    Attributes:
        params: weights and floating-point buffers of the client's parts.
        loss: mean over the steps.
        steps: taken, >= 1.
    """

    params: Params
    loss: float
    steps: int


@dataclass(frozen=True, slots=True)
class ClientState:
    """A client between two steps, as it is stored.

    Attributes:
        peer: whose session it is.
        version: of the session.
        done: steps behind it.
        total: sum of their losses.
    """

    peer: str
    version: int
    done: int
    total: float
    front: PartState
    head: PartState


@dataclass(slots=True)
class _Step:
    """The step under way, kept until its gradient has come."""

    forward: bytes
    y: Tensor  # at the cut, with the front's graph
    labels: Tensor
    slope: bytes = b""  # what the head answered, once it has
    loss: float = 0.0
    head_grads: list[Tensor] = field(default_factory=list)


class ClientSession:
    """One session as the client sees it: bytes in, bytes out.

    ``begin`` opens it, and opens it again after a lost connection; what was under way
    is then said again, word by word. After it, ``take`` and ``say`` alternate.

    Attributes:
        done: steps behind it.
    """

    def __init__(
        self, split: Split, peer: PeerId, version: int, start: Params, steps: int
    ) -> None:
        """Begin with the parts of ``start`` that are the client's, at step 0."""
        self.split, self.peer, self.version, self.steps = split, peer, version, steps
        self.front, _, self.head = split.parts(version)
        for part in (self.front, self.head):
            part.load(start)
        self.forms = forms_of(split)
        self.terms = terms_of(split, self.forms)
        self.done, self.total = 0, 0.0
        self._step: _Step | None = None
        self._awaited = "welcome"
        self._batches: Iterator[Batch] | None = None

    def begin(self) -> bytes:
        """Return the hello of a new connection."""
        self._awaited = "welcome"
        return encode(hello(self.terms, self.peer, self.version, self.done))

    @property
    def over(self) -> bool:
        """Whether both sides have said goodbye."""
        return self._awaited == ""

    def say(self) -> bytes:
        """Return what to send next, after a ``take``."""
        if self.done >= self.steps:
            self._awaited = "bye"
            return encode(Message("end", self.done))
        if self._awaited == "outputs":
            self._awaited = "gradient"
            return self._under_way().slope
        with reproducible():
            self._step = self._step or self._begun()
        self._awaited = "outputs" if self.split.cut.head else "gradient"
        return self._step.forward

    def take(self, data: bytes) -> None:
        """Take what came.

        Raises:
            ProtocolError: the server refused, or broke a rule; names it.
        """
        ours = None if self._awaited == "welcome" else self.done
        message = taken(data, self._awaited, ours)
        with reproducible():
            if self._awaited == "welcome":
                self._on_welcome(message)
            elif self._awaited == "outputs":
                self._on_outputs(message)
            elif self._awaited == "gradient":
                self._on_gradient(message)
            else:
                self._awaited = ""

    def _on_welcome(self, message: Message) -> None:
        if message.step - self.done not in (0, 1):
            raise ProtocolError(
                f"the server is at step {message.step} of session {self.version} of "
                f"{self.peer}, the client at {self.done}: begin another version"
            )

    def _begun(self) -> _Step:
        x, labels = self._batch()
        self.front.run.now = (self.peer, self.version, self.done)
        y = self.front.run(x.to(self.front.device))
        tensors = {"activations": y.detach().cpu()}
        if not self.split.cut.head:
            tensors["labels"] = labels
        return _Step(encode(Message("forward", self.done, tensors)), y, labels)

    def _batch(self) -> tuple[Tensor, Tensor]:
        if self._batches is None:
            batches = self.split.task.batches(
                seed_of("batches", self.peer, self.version)
            )
            self._batches = islice(batches, self.done, None)
        x, labels = next(self._batches)
        return x, labels

    def _on_outputs(self, message: Message) -> None:
        step = self._under_way()
        if not step.slope:  # else it came again, over a new connection
            check_names(message, "outputs")
            outputs = checked(message, "outputs", self.forms.outputs, len(step.y))
            step.slope = self._slope(step, outputs)

    def _slope(self, step: _Step, outputs: Tensor) -> bytes:
        """Return what the head answers to ``outputs``."""
        head, leaf = self.head, self.head.leaf(outputs, True)
        head.run.now = (self.peer, self.version, self.done)
        labels = step.labels.to(head.device)
        loss = self.split.task.loss(head.run, (writable(leaf), labels))
        *step.head_grads, slope = slopes(loss, [*head.weights, leaf], None)
        step.loss = float(loss.detach())
        return encode(Message("slope", self.done, {"slope": slope.cpu()}))

    def _on_gradient(self, message: Message) -> None:
        step, loss = self._under_way(), message.facts.get("loss")
        if not self.split.cut.head:
            if not isinstance(loss, float) or not torch.tensor(loss).isfinite():
                raise ProtocolError(f"gradient of step {self.done}: no finite loss")
            step.loss = loss
        self.front.step(self._front_grads(step, message))
        self.head.step(step.head_grads)
        self.total += step.loss
        self.done += 1
        self._step = None

    def _front_grads(self, step: _Step, message: Message) -> list[Tensor]:
        if not self.forms.pulls:
            check_names(message)
            return []
        check_names(message, "slope")
        dy = checked(message, "slope", self.forms.activations, len(step.y))
        return slopes(step.y, self.front.weights, dy.to(self.front.device))

    def _under_way(self) -> _Step:
        if self._step is None:
            raise ProtocolError(f"order: nothing is under way at step {self.done}")
        return self._step

    def state(self) -> ClientState:
        """Return what ``restore`` needs; only between steps."""
        parts = (self.front.state(), self.head.state())
        return ClientState(self.peer, self.version, self.done, self.total, *parts)

    def restore(self, state: ClientState) -> None:
        """Go on from ``state``, which a session like this one returned."""
        self.front.restore(state.front)
        self.head.restore(state.head)
        self.done, self.total = state.done, state.total

    def trained(self) -> Trained:
        """Return the client's weights as they are now, and the mean loss."""
        params = {**self.front.params(), **self.head.params()}
        return Trained(params, self.total / max(self.done, 1), self.done)
