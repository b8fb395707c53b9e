"""Members that come by different invites, for tests of who has a seat."""

from functools import cache
from hashlib import sha256

from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.identity.openings import Opening, open_with
from p2p.identity.removals import removal_of
from p2p.state import logs, seats, shown
from p2p.state.chain import Entry, Kind
from p2p.state.checking import check
from p2p.state.held import News, Pen
from p2p.state.logs import Logs
from tests.state_cases import OPENINGS, pen_of
from tests.state_world import FOUNDER, FOUNDING, WHEN_S

FOUNDERS = pen_of(0)


def key_of(name: str) -> Key:
    return Key(sha256(name.encode()).digest())


def invite_id(word: str) -> str:
    return key_of(f"invite {word}").public.hex()


@cache
def came(
    name: str, word: str, role: str = "peer", by: str = "", after_s: int = 0
) -> tuple[Pen, bytes]:
    """Return the pen and the opening of who came with the invite ``word``.

    Args:
        by: the admin that made the invite, who came with "admins"; "" is the founder.
        after_s: seconds after the invite was made.
    """
    issuer, opening = FOUNDER, FOUNDING.encode()
    if by:
        pen, opening = came(by, "admins", "admin")
        issuer = pen.key
    secret = key_of(f"invite {word}")
    text = invite(opening, issuer, Terms(role), WHEN_S, secret)
    mine = open_with(read_invite(text), key_of(name), WHEN_S + after_s)
    return Pen(key_of(name), OPENINGS(mine)), mine


def begins(held: Logs, who: tuple[Pen, bytes], *entries: Entry) -> list[News]:
    """Let somebody write a log; return what was taken."""
    pen, opening = who
    found = []
    if not held.tip(pen.writer).length:
        found += held.add(*held.say(pen, [Entry(Kind.OPENING, opening)]))
    if pen.writer in held.by_writer:
        found += held.add(*held.say(pen, entries))
    return found


def hears(target: Logs, source: Logs, pieces_each: int = 1 << 10) -> None:
    """Tell ``target`` all that ``source`` shows, so many pieces in a message."""
    pieces = [
        piece
        for writer in source.writers()
        if target.takes(writer)
        for piece in source.segments(writer, target.tip(writer).length)
    ]
    for at in range(0, len(pieces), pieces_each):
        judged = check(target, pieces[at : at + pieces_each])
        target.add(*(one for one in judged if isinstance(one, News)))


def removal(held: Logs, what: str, name: str, *, spare: bool = True) -> Entry:
    """Return the entry that sends away, as things stand in ``held``."""
    members = [log.opening for log in held.by_writer.values() if log.opening]
    lengths = {writer: log.shown.length for writer, log in held.by_writer.items()}
    body = removal_of(what, name, members, lengths, spare=spare)
    return Entry(Kind.REMOVAL, body.encode())


def openings(*who: tuple[Pen, bytes]) -> dict[str, Opening]:
    return {pen.writer: pen.opening for pen, _ in who}


def so_many(monkeypatch, count: int) -> None:
    """Let there be ``count`` seats."""
    for module in (logs, seats, shown):
        monkeypatch.setattr(module, "WRITERS", count)
