"""Free documents: two edit at once, and nonsense is passed over."""

import pytest

from p2p.state.bodies import Note
from p2p.state.chain import Entry, Kind
from p2p.state.fold import Fold
from p2p.state.notes import edited, text_of
from tests.state_cases import copied, logs, merge, pen_of, said

pytest.importorskip("pycrdt")
ANNA, BEN = pen_of(1), pen_of(2)


def write(held, pen, text):
    said(held, pen, *[Entry(*one) for one in edited(Fold(held), "d", text)])


def test_a_document_is_what_was_written():
    held = logs()
    assert text_of(Fold(held), "d") == ""
    for text in ("hello", "hällo wörld", "hällo", "", "again ✓"):
        write(held, ANNA, text)
        assert text_of(Fold(held), "d") == text
    assert edited(Fold(held), "d", "again ✓") == []


def test_two_who_edit_at_once_both_are_heard():
    one = logs()
    write(one, ANNA, "rate = 1\nsteps = 5\n")
    other = copied(one)
    write(one, ANNA, "rate = 2\nsteps = 5\n")
    write(other, BEN, "rate = 1\nsteps = 50\n")
    merge(one, copied(other))
    merge(other, copied(one))
    assert text_of(Fold(one), "d") == text_of(Fold(other), "d")
    assert text_of(Fold(one), "d") == "rate = 2\nsteps = 50\n"


def test_what_is_no_change_is_passed_over():
    held = logs()
    write(held, ANNA, "text")
    said(held, BEN, Entry(Kind.NOTE, Note("d", b"\xff" * 20).encode()))
    assert text_of(Fold(held), "d") == "text"
