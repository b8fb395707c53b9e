"""The back of a model in one client's session, without any I/O."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clients.split.messages import (
    Message,
    check_names,
    checked,
    encode,
)
from clients.split.part import PartState, slopes, writable
from clients.split.terms import Forms, Split
from clients.trainers.method import reproducible
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.strategy import PeerId


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, and to what.

    Attributes:
        asked: CRC-32 of the message that asked for it.
        answer: the message that was sent, uint8 (bytes,).
    """

    asked: int
    answer: Tensor


@dataclass(frozen=True, slots=True)
class ServerState:
    """A back between two steps, as it is stored.

    Attributes:
        peer: whose session it is.
        version: of the session.
        done: steps behind it.
        part: the back.
        replies: answers of the last step by kind of message, for a client that
            did not get them.
    """

    peer: str
    version: int
    done: int
    part: PartState
    replies: Mapping[str, Reply]


class ServerSession:
    """The back of a model in one client's session.

    Attributes:
        done: steps behind it.
    """

    def __init__(
        self, split: Split, forms: Forms, peer: PeerId, version: int, start: Params
    ) -> None:
        """Begin with the back's part of ``start``, at step 0."""
        self.split, self.peer, self.version, self.done = split, peer, version, 0
        _, self.back, _ = split.parts(version)
        self.back.load(start)
        self.forms = forms
        self._replies: dict[str, Reply] = {}
        self._outputs: tuple[Tensor, Tensor] | None = None  # the back's leaf and end
        self._before: Params = {}  # buffers, as they were before a pass under way

    def take(self, data: bytes, message: Message) -> bytes:
        """Return the answer to ``message``, whose bytes are ``data``.

        Raises:
            ProtocolError: it breaks a rule; the back is as it was before it.
        """
        again = self._again(data, message)
        if again is not None:
            return again
        if message.step != self.done:
            raise ProtocolError(f"order: step {message.step} where {self.done} was due")
        if message.kind == "end":
            self.undo()
            return encode(Message("bye", self.done))
        with reproducible():
            answer = self._answer(message)
        if message.kind == "forward":  # whoever sends it has the last step's answers
            self._replies = {}
        copy = torch.frombuffer(bytearray(answer), dtype=torch.uint8)
        self._replies[message.kind] = Reply(zlib.crc32(data), copy)
        return answer

    def _again(self, data: bytes, message: Message) -> bytes | None:
        """Return what was answered before, if ``message`` has come before."""
        reply = self._replies.get(message.kind)
        last = self.done if self._outputs else self.done - 1
        if reply is None or message.step != last:
            return None
        if reply.asked != zlib.crc32(data):
            raise ProtocolError(
                f"repeat: {message.kind} of step {last} came again with other content"
            )
        return reply.answer.numpy().tobytes()

    def _answer(self, message: Message) -> bytes:
        try:
            if message.kind == "forward" and self._outputs is None:
                return encode(self._forward(message))
            if message.kind == "slope" and self._outputs is not None:
                return encode(self._slope(message, *self._outputs))
        except ProtocolError:
            self.undo()
            raise
        raise ProtocolError(f"order: {message.kind} is not due at step {self.done}")

    def _forward(self, message: Message) -> Message:
        stays = bool(self.split.cut.head)
        check_names(message, "activations", *([] if stays else ["labels"]))
        received = checked(message, "activations", self.forms.activations, None)
        leaf = self.back.leaf(received, self.forms.pulls)
        self._before = self.back.buffers()
        self.back.run.now = (self.peer, self.version, self.done)
        if stays:
            outputs = self._passed(leaf)
            self._outputs = (leaf, outputs)
            return Message("outputs", self.done, {"outputs": outputs.detach().cpu()})
        labels = checked(message, "labels", self.forms.labels, len(leaf))
        loss = self._loss(leaf, labels.to(self.back.device))
        answer = self._stepped(loss, None, leaf)
        facts = {"loss": float(loss.detach())}
        return Message("gradient", self.done - 1, answer, facts)

    def _slope(self, message: Message, leaf: Tensor, outputs: Tensor) -> Message:
        check_names(message, "slope")
        dy = checked(message, "slope", self.forms.outputs, len(outputs))
        answer = self._stepped(outputs, dy.to(self.back.device), leaf)
        return Message("gradient", self.done - 1, answer)

    def _passed(self, leaf: Tensor) -> Tensor:
        try:
            outputs: Tensor = self.back.run(writable(leaf))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ProtocolError(f"the back does not take them: {error}") from error
        return outputs

    def _loss(self, leaf: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; what the loss does not take is the sender's fault."""
        try:
            loss = self.split.task.loss(self.back.run, (writable(leaf), labels))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ProtocolError(f"back or loss do not take them: {error}") from error
        if not bool(loss.isfinite()):
            raise ProtocolError(f"the loss of step {self.done} is not finite")
        return loss

    def _stepped(self, y: Tensor, dy: Tensor | None, leaf: Tensor) -> Params:
        """Move the back along the gradients of ``y``; return the slope at the cut."""
        wanted = [*self.back.weights, *([leaf] if leaf.requires_grad else [])]
        grads = slopes(y, wanted, dy)
        slope = grads[len(self.back.weights) :]
        self.back.step(grads[: len(self.back.weights)])
        self._outputs, self._before = None, {}
        self.done += 1
        return {"slope": slope[0].cpu()} if slope else {}

    def undo(self) -> None:
        """Give up the step under way: the back is as it was before it."""
        self.back.load(self._before)
        if self._outputs is not None:
            self._replies = {}
        self._outputs, self._before = None, {}

    def state(self) -> ServerState:
        """Return what ``restore`` needs; only between steps."""
        return ServerState(
            self.peer, self.version, self.done, self.back.state(), dict(self._replies)
        )

    def restore(self, state: ServerState) -> None:
        """Go on from ``state``."""
        self.done, self._replies = state.done, dict(state.replies)
        self.back.restore(state.part)
