"""Every touch on Flower's private parts, in one place; checked with flwr 1.41.

Flower builds a ``Message`` only inside a run, whose identity it keeps in a class; the
id of a message, a message with given metadata, and the record of a run have no public
constructor either.
"""

import copy
from typing import Any

from flwr.app import Message, Metadata, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SUPERLINK_NODE = 1  # the node id that every ServerApp has

__all__ = [
    "SUPERLINK_NODE",
    "Run",
    "assume_run",
    "metadata_from",
    "metadata_values",
    "new_run",
    "stamp",
    "with_content",
]


def assume_run(run_id: int) -> None:
    """Let this process create messages as the ServerApp of run ``run_id``."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SUPERLINK_NODE


def new_run(run_id: int) -> Run:
    """Return the record of a run that no SuperLink knows."""
    return Run.create_empty(run_id)


def stamp(message: Message, message_id: str) -> Message:
    """Give ``message`` its id, as a SuperLink does when it takes it in."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def with_content(metadata: Metadata, content: RecordDict) -> Message:
    """Return a message with ``metadata`` of its own and ``content``."""
    return Message(content, metadata=copy.copy(metadata))  # type: ignore[call-overload,no-any-return]


def metadata_values(metadata: Metadata) -> dict[str, Any]:
    """Return ``metadata`` as plain values that ``metadata_from`` reads."""
    values = {name.removeprefix("_"): v for name, v in metadata.__dict__.items()}
    values.pop("delivered_at", None)
    return values


def metadata_from(values: dict[str, Any]) -> Metadata:
    """Return the metadata that ``metadata_values`` wrote down."""
    return Metadata(**values)
