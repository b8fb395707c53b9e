"""One message at one virtual node: isolation, seeds, and a truthful failure.

Apps written for Flower draw from the global generators of Python, NumPy and torch.
So that their runs repeat, these are seeded for every message from the run's seed,
the node's partition and the number of messages that the node had before, whatever
process the message runs in; the ServerApp's own generators are put back afterwards.
"""

import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from sims.flower.identity import with_content

UNKNOWN, RAISED, EXPIRED, GONE, CRASHED = 0, 2, 3, 5, 8  # Flower's error codes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node gave no answer.

    Attributes:
        code: Flower's error code.
        reason: the exception, in one line.
        trace: where it was raised; empty if nothing was.
    """

    code: int
    reason: str
    trace: str = ""


Outcome = RecordDict | Failure


def answer(client: ClientApp, message: Message, context: Context) -> Outcome:
    """Return what ``client`` answers to ``message``, or why it did not.

    The client gets records of its own, so that it cannot change what others get;
    ``context.state`` keeps what the client put there even if it raised.
    """
    try:
        own = with_content(message.metadata, own_records(message.content))
        reply = client(own, context)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the request border
        reason = f"{type(error).__name__}: {error}"
        return Failure(RAISED, reason, _user_trace(error))
    if not isinstance(reply, Message):
        kind = type(reply).__name__
        return Failure(RAISED, f"TypeError: the ClientApp returned {kind}, no Message")
    if reply.has_error():
        return Failure(reply.error.code, reply.error.reason or "")
    return own_records(reply.content)


def as_reply(outcome: Outcome, message: Message) -> Message:
    """Return ``outcome`` as the reply to ``message``."""
    if isinstance(outcome, Failure):
        return Message(Error(outcome.code, outcome.reason), reply_to=message)
    return Message(outcome, reply_to=message)


def round_of(message: Message) -> str:
    """Return what ``message`` says of its round; empty if nothing."""
    if message.metadata.group_id:
        return message.metadata.group_id
    for record in message.content.values():
        if isinstance(record, ConfigRecord) and "server-round" in record:
            return str(record["server-round"])
    return ""


def own_records(records: RecordDict) -> RecordDict:
    """Return copies of ``records``; array bytes are immutable and stay shared."""
    copies = RecordDict()
    for key, record in records.items():
        copy: Any = record.copy()
        if not isinstance(record, ArrayRecord):
            for name, value in record.items():
                if isinstance(value, list):
                    copy[name] = list(value)
        copies[key] = copy
    return copies


def _user_trace(error: BaseException) -> str:
    """Return the traceback from the app's own code on, without ours and Flower's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "/flwr/" not in f.filename]
    lines = traceback.format_list(own or frames)
    return "".join(lines + traceback.format_exception_only(error))


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and, if it is loaded, torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


@contextmanager
def borrowed_generators(threads: int = 0) -> Iterator[None]:
    """Put the global generators, and torch's thread count, back at the end.

    Args:
        threads: of torch meanwhile; 0 leaves them alone. Results of apps depend on
            it, so every message runs with the same number.
    """
    python, numpy, torch = random.getstate(), np.random.get_state(), _torch()
    bits = torch.get_rng_state() if torch else None
    before = torch.get_num_threads() if torch and threads else 0
    if before and before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch:
            torch.set_rng_state(bits)
        if before and before != threads:
            torch.set_num_threads(before)


def _torch() -> Any:
    """Return torch if somebody imported it; simulating must not cost its import."""
    return sys.modules.get("torch")
