"""What the two sides say to each other, as bytes and back.

=========  =========  ==============================================================
kind       from       tensors and facts
=========  =========  ==============================================================
hello      client     facts: the terms of the session (``clients.split.terms``)
welcome    server     step: steps that the back has behind it
forward    client     activations; labels, unless the head is the client's
outputs    server     outputs of the back, when the head is the client's
slope      client     slope: gradient of the loss for those outputs
gradient   server     slope: gradient for the activations, if any; fact: loss
end, bye   both       the session is over
infer      client     activations; fact: at, the blocks behind them
answer     server     outputs of the whole model
refused    server     fact: reason
=========  =========  ==============================================================

A message is a ``Work`` of ``fedcore.codec``: bounded, checked against damage, with one
form for every value, and decoded without running code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedcore.codec import decode_work, encode_work
from fedcore.errors import ProtocolError
from fedcore.names import shown
from fedcore.params import Params
from fedcore.strategy import Work
from fedcore.wire import Limits

TRAINING = ("hello", "welcome", "forward", "outputs", "slope", "gradient", "end", "bye")
KINDS = frozenset([*TRAINING, "infer", "answer", "refused"])
LIMITS = Limits(message_bytes=1 << 26, updates=1, items=32)
MOST_ROWS = 4096  # in a batch: short rows may grow long on the way through a model
REASON_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        kind: one of ``KINDS``.
        step: the step it belongs to, counted from 0.
    """

    kind: str
    step: int = 0
    tensors: Params = field(default_factory=dict)
    facts: Mapping[str, int | float | str] = field(default_factory=dict)


def encode(message: Message) -> bytes:
    """Return ``message`` as bytes.

    Raises:
        ProtocolError: a tensor or fact cannot be sent, or it is above the limit.
    """
    facts = {"kind": message.kind, **message.facts}
    data = encode_work(Work(message.step, message.tensors, hints=facts))
    if len(data) > LIMITS.message_bytes:
        raise ProtocolError(
            f"{message.kind} has {len(data)} bytes, above {LIMITS.message_bytes}: "
            "make batches smaller, or cut elsewhere"
        )
    return data


def decode(data: bytes, limits: Limits = LIMITS) -> Message:
    """Return the message in ``data``.

    Raises:
        ProtocolError: it is not what ``encode`` writes, or exceeds ``limits``.
    """
    work = decode_work(data, limits)
    facts = dict(work.hints)
    kind = facts.pop("kind", "")
    if kind not in KINDS or work.aux or (work.steps, work.epochs) != (0, 1):
        raise ProtocolError(f"{shown(kind)} is no message of split learning")
    return Message(str(kind), work.version, work.params, facts)


def refused(error: ProtocolError) -> Message:
    """Return the message that tells the other side what it did wrong."""
    return Message("refused", facts={"reason": str(error)[:REASON_CHARS]})


def taken(data: bytes, awaited: str, step: int | None = None) -> Message:
    """Return the message in ``data`` if it is the one that is due.

    Raises:
        ProtocolError: the other side refused, or it is another kind, or step.
    """
    message = decode(data)
    if message.kind == "refused":
        raise ProtocolError(f"refused by the server: {message.facts.get('reason')}")
    if message.kind != awaited:
        raise ProtocolError(f"order: {message.kind} came where {awaited} was due")
    if step is not None and message.step != step:
        raise ProtocolError(f"order: step {message.step} where {step} was due")
    return message


@dataclass(frozen=True, slots=True)
class Rows:
    """The form of a batch, whatever its number of rows.

    Attributes:
        dtype: such as ``"torch.float32"``.
        shape: of one row.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def rows_of(t: Tensor) -> Rows:
    """Return the form of batch ``t``, whose first dimension counts rows."""
    return Rows(str(t.dtype), tuple(t.shape[1:]))


def checked(message: Message, name: str, rows: Rows, count: int | None) -> Tensor:
    """Return tensor ``name`` of ``message``: right form, all numbers finite.

    Args:
        message: what came.
        name: of the tensor.
        rows: the form that its rows must have.
        count: rows it must have; None for any number from 1 to ``MOST_ROWS``.

    Raises:
        ProtocolError: it is missing, of another form, or not finite; names the rule.
    """
    t = message.tensors.get(name)
    what = f"{message.kind} of step {message.step}: {name}"
    if t is None:
        raise ProtocolError(f"{what} is missing")
    if t.dim() == 0 or rows_of(t) != rows:
        found = f"{t.dtype} {tuple(t.shape[1:])}"
        raise ProtocolError(f"{what} has rows of {found}, not of {rows}")
    if len(t) < 1 or len(t) != (count or len(t)):
        raise ProtocolError(f"{what} has {len(t)} rows, not {count or '1 or more'}")
    if len(t) > MOST_ROWS:
        raise ProtocolError(
            f"{what} has {len(t)} rows, above {MOST_ROWS}: make batches smaller"
        )
    if t.is_floating_point() and not bool(t.isfinite().all()):
        raise ProtocolError(f"{what} has a number that is not finite")
    return t


def check_names(message: Message, *names: str) -> None:
    """Check that ``message`` brings the tensors ``names`` and no other.

    Raises:
        ProtocolError: it brings others.
    """
    if set(message.tensors) != set(names):
        found = ", ".join(map(shown, sorted(message.tensors))) or "nothing"
        raise ProtocolError(
            f"{message.kind} of step {message.step} brings {found}, not "
            f"{', '.join(names) or 'nothing'}"
        )
