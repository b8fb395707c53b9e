"""What both sides must agree on before the first step."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from clients.split.cut import Cut, parts_of
from clients.split.messages import Message, Rows, rows_of
from clients.split.part import Part
from clients.trainers.adamw import AdamW
from clients.trainers.method import device_of, reproducible
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import fault_of, shown
from fedcore.strategy import PeerId, Work
from fedcore.task import Task

Trainer = SGD | AdamW
PLAIN: Trainer = SGD()
Terms = Mapping[str, int | float | str]  # fact -> what it must be on both sides


@dataclass(frozen=True, slots=True)
class Split:
    """One task, where its model is cut, and how both parts move.

    Attributes:
        task: its batches are pairs (inputs, labels), and ``loss(model, (x, y))``
            uses the model only through ``model(x)``.
        cut: how many blocks stay with the client.
        trainer: settings of the descent, the same on both sides. Without
            ``clip_norm``, which needs the gradient of the whole model in one place.

    Raises:
        ConfigError: the model cannot be cut there, or the batches are no pairs.
    """

    task: Task
    cut: Cut
    trainer: Trainer = PLAIN

    def __post_init__(self) -> None:
        if self.trainer.clip_norm:
            raise ConfigError(
                "clip_norm needs the gradient of the whole model in one place, and "
                "a split model has none: set trainer.clip_norm=0"
            )

    def parts(self, version: int) -> tuple[Part, Part, Part]:
        """Return new front, back and head, with rules that remember nothing."""
        model = self.task.model()
        total = sum(map(len, parts_of(model, Cut(0))))
        firsts = (0, self.cut.at, total - self.cut.head)
        device, work = device_of(self.trainer.device), Work(version, {})
        front, back, head = (
            Part(blocks, first, self.trainer.rule(work), device)
            for blocks, first in zip(parts_of(model, self.cut), firsts, strict=True)
        )
        return front, back, head


@dataclass(frozen=True, slots=True)
class Forms:
    """What crosses, as both sides find out for themselves.

    Attributes:
        activations: form of a row at the cut.
        labels: form of a row of labels.
        outputs: form of a row behind the back.
        pulls: the front has weights, and so needs the gradient at the cut.
        model: SHA-256 of the names, dtypes and shapes of the whole model.
    """

    activations: Rows
    labels: Rows
    outputs: Rows
    pulls: bool
    model: str


def forms_of(split: Split) -> Forms:
    """Return what crosses, from one batch of the task's own.

    Raises:
        ConfigError: the batches are no pairs of tensors.
    """
    batch = next(split.task.batches(0))
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ConfigError("split learning needs batches of pairs (inputs, labels)")
    model = split.task.model().eval()
    front, back, _ = parts_of(model, split.cut)
    pulls, whole = any(p.requires_grad for p in front.parameters()), digest_of(model)
    with reproducible(), torch.no_grad():
        middle = front(batch[0])
        rows = rows_of(middle), rows_of(batch[1]), rows_of(back(middle.clone()))
    return Forms(*rows, pulls, whole)


def terms_of(split: Split, forms: Forms) -> Terms:
    """Return what both sides of ``split`` must have in common."""
    trainer = asdict(split.trainer)
    del trainer["device"]  # the sides may differ in that
    trainer["schedule"] = str(split.trainer.schedule)
    return {
        "model": forms.model,
        "at": split.cut.at,
        "head": split.cut.head,
        "activations": str(forms.activations),
        "labels": "stay" if split.cut.head else str(forms.labels),
        "rule": type(split.trainer).__name__,
        **{f"trainer.{name}": value for name, value in trainer.items()},
    }


def digest_of(model: nn.Module) -> str:
    """Return the SHA-256 of the names, dtypes and shapes of ``model``, in hex."""
    own: Mapping[str, Tensor] = model.state_dict()
    lines = (f"{n}\x1f{t.dtype}\x1f{tuple(t.shape)}" for n, t in own.items())
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()


def hello(terms: Terms, peer: PeerId, version: int, done: int) -> Message:
    """Return the message that opens a session, or goes on with it."""
    return Message("hello", done, facts={"peer": peer, "version": version, **terms})


def greeted(message: Message, terms: Terms) -> tuple[PeerId, int]:
    """Return peer and version of a hello whose terms are ours.

    Raises:
        ProtocolError: they are not; names the first that differs.
    """
    if message.kind != "hello" or message.tensors:
        raise ProtocolError(f"order: {message.kind} came before a hello")
    if message.facts.keys() != {"peer", "version", *terms}:
        raise ProtocolError("a hello with other facts than the terms of a session")
    for name, ours in terms.items():
        theirs = message.facts[name]
        if theirs != ours:
            raise ProtocolError(
                f"terms: {name} is {shown(theirs)} with the client and {shown(ours)} "
                "with the server"
            )
    peer, version = message.facts["peer"], message.facts["version"]
    if fault_of(peer) or type(version) is not int or version < 0:
        raise ProtocolError("a hello without a proper peer and version")
    return str(peer), version
