"""Messages between the engine and its workers: JSON for words, slabs for tensors.

A message is a length and a JSON text. Trees travel as references: which slab,
which byte, and which of the forms listed once in the message. Nothing is pickled.
"""

import json
import socket
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedcore.params import Params
from fedcore.strategy import Update, Work
from sims.engine.protocol import Job
from sims.engine.slab import Form, Slab, form_of

LENGTH = struct.Struct("<Q")
Message = dict[str, Any]


def send(wire: socket.socket, message: Message) -> None:
    """Send ``message``."""
    body = json.dumps(message).encode()
    wire.sendall(LENGTH.pack(len(body)) + body)


def receive(wire: socket.socket) -> Message | None:
    """Return the next message, or None if the other side is gone."""
    try:
        head = _exactly(wire, LENGTH.size)
        body = head and _exactly(wire, LENGTH.unpack(head)[0])
    except ConnectionError:
        return None
    if not body:
        return None
    message: Message = json.loads(body)
    return message


def _exactly(wire: socket.socket, size: int) -> bytes:
    """Return the next ``size`` bytes, or none at all if the stream ends first."""
    parts = bytearray()
    while len(parts) < size:
        part = wire.recv(min(size - len(parts), 1 << 20))
        if not part:
            return b""
        parts += part
    return bytes(parts)


class Sheaf:
    """Trees written one after the other into a slab, each once, with their forms.

    Attributes:
        forms: distinct forms of the trees, to be listed in the message.
    """

    def __init__(self, slab: Slab, mark: int, after: "Sheaf | None" = None) -> None:
        """Write into ``slab`` from its start, or behind what ``after`` has written."""
        self.forms: list[Form] = list(after.forms) if after else []
        self._slab = slab
        self._mark = mark  # tells this slab from others in a reference
        self._end: int = after._end if after else 0
        self._known = {form: i for i, form in enumerate(self.forms)}

    def put(self, tree: Params) -> Sequence[int] | None:
        """Write ``tree`` and return its reference; None stands for an empty tree."""
        if not tree:
            return None
        form, start = form_of(tree), self._end
        self._end = self._slab.write(tree, form, start)
        if form not in self._known:
            self._known[form] = len(self.forms)
            self.forms.append(form)
        return self._mark, start, self._known[form]


class Reader:
    """Finds the trees that references mean.

    Args:
        slabs: slabs by mark.
        forms: the lists of forms of the message, by mark.
    """

    def __init__(
        self, slabs: Sequence[Slab], forms: Mapping[int, Sequence[Any]]
    ) -> None:
        self._slabs = slabs
        self._forms = {m: [_form(words) for words in some] for m, some in forms.items()}
        self._trees: dict[tuple[int, int], Params] = {}

    def get(self, reference: Sequence[int] | None) -> Params:
        """Return views of the tree; the same object for the same reference."""
        if reference is None:
            return {}
        mark, start, form = reference
        if (mark, start) not in self._trees:
            tree = self._slabs[mark].read(self._forms[mark][form], start)
            self._trees[mark, start] = tree
        return self._trees[mark, start]


def _form(words: Sequence[Any]) -> Form:
    """Return a form that JSON made of lists."""
    return tuple((name, kind, tuple(shape)) for name, kind, shape in words)


class Put(Protocol):
    """Writes a tree where the other side finds it, and returns the reference."""

    def __call__(self, tree: Params, /) -> Sequence[int] | None: ...


def job_words(job: Job, put: Put) -> list[Any]:
    """Return ``job`` as plain data."""
    w = job.work
    trees = [put(w.params), put(w.aux), put(w.kept)]
    return [job.peer, w.version, w.steps, w.epochs, dict(w.hints), *trees]


def job_of(words: Sequence[Any], reader: Reader) -> Job:
    """Undo ``job_words``."""
    peer, version, steps, epochs, hints, *trees = words
    params, aux, kept = map(reader.get, trees)
    return Job(peer, Work(version, params, steps, epochs, aux, hints, kept))


def update_words(update: Update, put: Put) -> list[Any]:
    """Return ``update`` as plain data."""
    metrics = {name: _number(value) for name, value in update.metrics.items()}
    head = [update.peer, update.version, _number(update.examples)]
    return [*head, metrics, put(update.payload), put(update.keep)]


def _number(value: Any) -> int | float:
    """Return a number of Python, NumPy or torch as Python's."""
    plain: int | float = value if isinstance(value, int | float) else value.item()
    return plain


def update_of(words: Sequence[Any], reader: Reader) -> Update:
    """Undo ``update_words``; the tensors are copies."""
    peer, version, examples, metrics, *trees = words
    payload, keep = (
        {name: t.clone() for name, t in reader.get(tree).items()} for tree in trees
    )
    return Update(peer, version, payload, examples, metrics, keep)


def error_words(error: Exception) -> Message:
    """Return ``error`` as plain data, with its notes and traceback."""
    kind = type(error)
    plain = all(isinstance(a, str | int | float | None) for a in error.args)
    return {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "args": list(error.args) if plain else [str(error)],
        "notes": list(getattr(error, "__notes__", ())),
        "trace": "".join(traceback.format_tb(error.__traceback__)),
    }


def error_of(words: Mapping[str, Any]) -> Exception:
    """Return the error again, of its own class if this process knows that class.

    It carries the notes of the original, and its traceback as one more note.
    """
    error = _error_like(words)
    for note in words["notes"]:
        error.add_note(note)
    error.add_note(f"in a worker process:\n{words['trace']}")
    return error


def _error_like(words: Mapping[str, Any]) -> Exception:
    module = sys.modules.get(words["module"])  # looked up, never imported
    kind = getattr(module, words["name"], None)
    told = ", ".join(map(str, words["args"]))
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(*words["args"])
        except TypeError:  # its constructor wants something else
            pass
    return RuntimeError(f"{words['name']}: {told}")
