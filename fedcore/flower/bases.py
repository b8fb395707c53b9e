"""Base models by name in Flower messages: what goes out, and who lacks what.

Beside what ``fedcore.flower.records`` lists, a message holds

    work    ``work``    ``base``, the digest of the model; ``arrays`` may be missing
    answer  ``lacks``   ``base``, alone: the node has no such model

The link first sends the name alone. A node that has the model by that name goes to
work; another one answers that it lacks it, and gets the work again with the model.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedcore.bases import Shelf, check_digest, checked_name, default_folder, name_of
from fedcore.errors import ConfigError, ProtocolError
from fedcore.flower.trees import LAYOUT, record_of
from fedcore.params import Params
from fedcore.strategy import Work

BASE = "base"
LACKS = "lacks"
FOLDER = "bases"  # key of a node's configuration
MAX_STRANGE = 4  # models checked and remembered at once


def shelf_of(node_config: Mapping[str, Any]) -> Shelf | None:
    """Return where a node keeps base models.

    In the folder that its setting ``bases`` names, or the user's own; nowhere if the
    setting is empty. The server has no say in it.
    """
    folder = node_config.get(FOLDER)
    if folder == "":
        return None
    return Shelf(default_folder() if folder is None else Path(str(folder)).expanduser())


def put_base(records: RecordDict, base: str, *, whole: bool) -> None:
    """Say in packed work that its model is ``base``; leave the model out or in."""
    record_of(records, "work", ConfigRecord)[BASE] = base
    if not whole:
        records.pop("arrays", None)
        records.pop("arrays" + LAYOUT, None)


def base_of(records: RecordDict, key: str = "work") -> str | None:
    """Return the digest of the model that a message names, if it names one.

    Raises:
        ProtocolError: what it names is no digest.
    """
    name = record_of(records, key, ConfigRecord).get(BASE)
    return None if name is None else checked_name(name)


def lacking(base: str) -> RecordDict:
    """Return the answer of a node that has no model ``base``."""
    return RecordDict({LACKS: ConfigRecord({BASE: base})})


@dataclass(frozen=True, slots=True)
class Parcel:
    """How one piece of work travels.

    Attributes:
        node: Flower's id of the node it goes to.
        base: the digest of its model, if the model may go by name.
        whole: the model goes along.
    """

    node: int
    work: Work
    base: str | None = None
    whole: bool = True

    def packable(self) -> Work:
        """Return the work as it is packed."""
        return self.work if self.whole else replace(self.work, params={})


@dataclass
class Shipments:
    """Decides which nodes get models by name; checks names before they go out.

    Attributes:
        sent: the base that each node was last sent whole.
        forgetful: nodes that lacked it again: they get it whole at once.
    """

    sent: dict[int, str] = field(default_factory=dict)
    forgetful: set[int] = field(default_factory=set)
    _checked: deque[tuple[str, Params]] = field(
        default_factory=lambda: deque(maxlen=MAX_STRANGE)
    )

    def parcel(self, node: int, work: Work, *, lacked: bool) -> Parcel:
        """Return how ``work`` goes to ``node``, which may have said it lacked it.

        Raises:
            ConfigError: the strategy names a base by another model's digest.
        """
        base = self._named(work)
        if base is None:
            return Parcel(node, work)
        whole = lacked or node in self.forgetful
        if whole:
            self.sent[node] = base
        return Parcel(node, work, base, whole)

    def lacks(self, parcel: Parcel, answer: RecordDict) -> bool:
        """Return whether ``answer`` says that the model of ``parcel`` is needed.

        Raises:
            ProtocolError: it says so of a model that it was sent, or of another.
        """
        if LACKS not in answer:
            return False
        named = base_of(answer, LACKS)
        if parcel.base is None or named != parcel.base:
            raise ProtocolError("lacks a base model that it was not asked to use")
        if parcel.whole:
            raise ProtocolError(f"lacks base {named[:16]} after it was sent whole")
        if self.sent.get(parcel.node) == named:
            self.forgetful.add(parcel.node)
        return True

    def _named(self, work: Work) -> str | None:
        try:
            base = name_of(work)
            if base and not self._known(base, work.params):
                check_digest(base, work.params)
                self._checked.append((base, work.params))
        except ProtocolError as cause:
            raise ConfigError(f"the strategy's hint base is wrong: {cause}") from cause
        return base

    def _known(self, base: str, params: Params) -> bool:
        return any(base == b and params is p for b, p in self._checked)
