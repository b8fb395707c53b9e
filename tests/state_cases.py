"""Logs and replicas for tests of the state."""

from collections.abc import Iterable, Sequence
from functools import partial

from p2p.identity.openings import check_opening
from p2p.state.bodies import Count
from p2p.state.chain import Entry, Kind
from p2p.state.checking import check
from p2p.state.exchange import news_for, nothing
from p2p.state.fold import View
from p2p.state.held import News, Pen
from p2p.state.logs import Logs
from p2p.state.reference import Plain
from p2p.state.store import LogStore, MemoryLogStore
from tests.state_world import NETWORK, opening_of

OPENINGS = partial(check_opening, network=NETWORK)


def pen_of(number: int, role: str = "peer") -> Pen:
    """Return the pen of a member; number 0 is the founder."""
    key, opening = opening_of(number, role)
    return Pen(key, OPENINGS(opening))


def logs(store: LogStore | None = None) -> Logs:
    return Logs(NETWORK, store or MemoryLogStore(), OPENINGS)


def said(target: Logs, pen: Pen, *entries: Entry) -> list[News]:
    """Sign and add entries; a log that is new begins with its opening."""
    added: list[News] = []
    if not target.tip(pen.writer).length:
        number = next(n for n in range(64) if opening_of(n)[0] == pen.key)
        opening = Entry(Kind.OPENING, opening_of(number)[1])
        added += target.say(pen, [opening])
        target.add(added[-1])
    for new in target.say(pen, entries) if entries else ():
        target.add(new)
        added.append(new)
    return added


def count(number: int, name: str = "c") -> Entry:
    return Entry(Kind.COUNT, Count(name, number).encode())


def counts(numbers: Iterable[int]) -> list[Entry]:
    return [count(number) for number in numbers]


def told(target: Logs, source: Logs) -> None:
    """Tell ``target`` all that ``source`` knows, as far as it can be taken in."""
    for writer in sorted(source.by_writer):
        fork = source.by_writer[writer].fork
        if fork:
            target.freeze(fork, ours=False)
        item = target.item(writer)
        if item.length > source.tip(writer).length or source.differs(item):
            continue
        for new in check(target, list(source.segments(writer, item.length))):
            assert isinstance(new, News)
            target.add(new)


def merge(target: Logs, source: Logs) -> None:
    """Make both one, in ``target``: forks between the two are found and proved."""
    for writer in sorted(target.by_writer.keys() & source.by_writer.keys()):
        while (at := parting(target, source, writer)) is not None:
            fork = target.fork(writer, at, source.branch(writer, at))
            assert fork is not None
            target.freeze(fork, ours=False)
            source.freeze(fork, ours=False)
    told(target, source)


def parting(a: Logs, b: Logs, writer: str) -> int | None:
    """Return the first position at which two logs differ; slow and obvious."""
    shortest = min(a.tip(writer).length, b.tip(writer).length)
    for position in range(1, shortest + 1):
        if a.link(writer, position) != b.link(writer, position):
            return position
    return None


def copied(source: Logs) -> Logs:
    """Return logs that hold the same, on another disk."""
    source.store.commit()
    assert isinstance(source.store, MemoryLogStore)
    return logs(source.store.copy())


def all_news(source: Logs) -> Sequence[object]:
    """Return all that ``source`` can tell to one who knows nothing."""
    found = news_for(source, [nothing(source, w) for w in sorted(source.by_writer)])
    assert not found.left
    return found.segments


def plain(view: View) -> Plain:
    """Return ``view`` in plain values, as the reference has them."""
    return Plain(
        {peer: member.status for peer, member in view.members.items()},
        dict(view.runs),
        {run: sorted(places) for run, places in view.facts.items()},
        {
            run: {one: list(peers) for one, peers in shelf.all.items()}
            for run, shelf in view.checkpoints.items()
        },
        {run: shelf.newest for run, shelf in view.checkpoints.items()},
        {
            (ratee, rater): score
            for ratee, raters in view.scores.by_ratee.items()
            for rater, score in raters.items()
        },
        {name: tally.total for name, tally in view.counters.items()},
        {name: sorted(places) for name, places in view.notes.items()},
        view.lamport,
    )
