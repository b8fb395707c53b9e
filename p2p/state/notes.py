"""Free documents that many edit at once: notes of a run, a draft of its configuration.

The package ``pycrdt`` merges them. Its updates are kept inside signed entries, so that
it sees only bytes that a member has written; forgeries, damage and forks never reach
it. Without the package the entries are kept and told on all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedcore.errors import ConfigError
from p2p.state.bodies import Note, read_as
from p2p.state.chain import Kind
from p2p.state.fold import Fold
from p2p.state.said import Place

if TYPE_CHECKING:
    from pycrdt import Doc, Text

FIELD = "text"


def text_of(fold: Fold, document: str) -> str:
    """Return the text of ``document``; "" if nobody has written in it.

    Raises:
        ConfigError: the package ``pycrdt`` is not installed.
    """
    return str(_text(_doc(fold, document)))


def edited(fold: Fold, document: str, text: str) -> list[tuple[Kind, bytes]]:
    """Return what to write so that ``document`` has ``text``.

    Only what is between the first and the last difference is replaced, so that what
    others change elsewhere at the same time stays.

    Raises:
        ConfigError: the package ``pycrdt`` is not installed.
    """
    doc = _doc(fold, document)
    field, before = _text(doc), doc.get_state()
    old = str(field)
    if old == text:
        return []
    head = _shared(old, text)
    tail = _shared(old[head:][::-1], text[head:][::-1])
    start = len(old[:head].encode())  # offsets are in bytes of UTF-8
    stop = start + len(old[head : len(old) - tail].encode())
    with doc.transaction():
        if stop > start:
            del field[start:stop]
        if len(text) > head + tail:
            field.insert(start, text[head : len(text) - tail])
    return [(Kind.NOTE, Note(document, doc.get_update(before)).encode())]


def _shared(a: str, b: str) -> int:
    """Return how many first letters ``a`` and ``b`` have in common."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _text(doc: Doc[Any]) -> Text:
    from pycrdt import Text

    found: Text = doc.get(FIELD, type=Text)
    return found


def _doc(fold: Fold, document: str) -> Doc[Any]:
    """Return the document with all changes that can be read, in one order."""
    try:
        from pycrdt import Doc
    except ImportError as error:
        raise ConfigError(
            "documents need the package pycrdt; pip install 'fedcore[collab]'"
        ) from error
    doc: Doc[Any] = Doc()
    for place in sorted(fold.view().notes.get(document, ())):
        try:
            doc.apply_update(_update(fold, place))
        except ValueError:  # what a member wrote is no change: everybody passes it over
            continue
    return doc


def _update(fold: Fold, place: Place) -> bytes:
    [(entry, _)] = fold.logs.store.rows(
        place.writer, place.position - 1, place.position
    )
    return read_as(Note, entry).update
