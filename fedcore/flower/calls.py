"""The three calls to a Flower grid, with its failures in our words."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

from fedcore.errors import PeerLostError


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn what a grid raises, after retries of its own, into ``PeerLostError``."""
    try:
        yield
    except (httpx.HTTPError, OSError) as cause:
        raise PeerLostError(f"the SuperLink failed to {what}: {cause}") from cause


def online(grid: Grid) -> list[int]:
    """Return the ids of the nodes online.

    Raises:
        PeerLostError: the SuperLink does not answer.
    """
    with _translated("list its nodes"):
        return list(grid.get_node_ids())


def push(grid: Grid, messages: Sequence[Message]) -> list[str | None]:
    """Send ``messages``; return an id for each, None where one was not accepted.

    Raises:
        PeerLostError: the SuperLink does not answer.
    """
    with _translated("take messages"):
        ids = list(grid.push_messages(messages))
    if len(ids) == len(messages):
        return [i or None for i in ids]
    accepted = set(ids)  # some grids leave the others out
    own = [m.metadata.message_id for m in messages]
    return [i if i in accepted else None for i in own]


def pull(grid: Grid, message_ids: Iterable[str]) -> list[Message]:
    """Return the replies to ``message_ids`` that have come; does not wait.

    Raises:
        PeerLostError: the SuperLink does not answer.
    """
    with _translated("hand out replies"):
        return list(grid.pull_messages(list(message_ids)))
