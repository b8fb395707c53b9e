"""What the logs come to, said slowly and obviously: sort all entries, then look.

It stands beside ``p2p.state.fold`` and must say the same; a test compares them on drawn
histories.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.removals import Removal, Standing, standing
from p2p.identity.removals import Said as SaidRemoval
from p2p.state.bodies import (
    Body,
    Checkpoint,
    Count,
    Note,
    Presence,
    Run,
    RunFact,
    Score,
    read_body,
)
from p2p.state.chain import Kind
from p2p.state.members import removal_said
from p2p.state.said import Place, Said, may_say

B = TypeVar("B")


@dataclass(frozen=True)
class Plain:
    """The state in plain values.

    Attributes:
        status: of every member.
        runs: by name.
        facts: places by run, sorted.
        checkpoints: by run, who vouches for each.
        newest: by run.
        scores: by ratee and rater.
        totals: by counter.
        notes: places by document, sorted.
        lamport: the highest number.
    """

    status: Mapping[PeerId, str]
    runs: Mapping[str, Run]
    facts: Mapping[str, list[Place]]
    checkpoints: Mapping[str, Mapping[Checkpoint, list[PeerId]]]
    newest: Mapping[str, Checkpoint]
    scores: Mapping[tuple[PeerId, PeerId], int]
    totals: Mapping[str, int]
    notes: Mapping[str, list[Place]]
    lamport: int


def fold(everything: Iterable[Said]) -> Plain:
    """Return what all entries of all logs come to."""
    ordered = sorted(everything, key=lambda said: said.place)
    cut = standing(_removals(ordered))
    counted = [said for said in ordered if may_say(said, cut.kept(said.opening))]
    gone = {
        said.peer: said.entry.kind == Kind.LEAVE for said, _ in _of(counted, Presence)
    }
    checkpoints: dict[str, dict[Checkpoint, list[PeerId]]] = {}
    for said, body in _of(counted, Checkpoint):
        vouching = checkpoints.setdefault(body.run, {}).setdefault(body, [])
        vouching[:] = sorted({*vouching, said.peer})
    once = {_origin(said, count): count for said, count in _of(counted, Count)}
    totals: dict[str, int] = {}
    for count in once.values():
        totals[count.name] = totals.get(count.name, 0) + count.amount
    return Plain(
        _status(ordered, cut, gone),
        {run.name: run for _, run in _of(counted, Run)},
        _places((fact.run, said) for said, fact in _of(counted, RunFact)),
        checkpoints,
        {run: max(shelf, key=_rank) for run, shelf in checkpoints.items()},
        {(s.ratee, said.peer): s.millionths for said, s in _of(counted, Score)},
        totals,
        _places((note.document, said) for said, note in _of(counted, Note)),
        max((_lamport(body) for _, body in _read(counted)), default=0),
    )


def _removals(ordered: list[Said]) -> Iterator[SaidRemoval]:
    for said, _ in _of([said for said in ordered if may_say(said, None)], Removal):
        yield removal_said(said)


def _status(
    ordered: list[Said], cut: Standing, gone: Mapping[PeerId, bool]
) -> dict[PeerId, str]:
    found: dict[PeerId, str] = {}
    for peer in {said.peer for said in ordered}:
        whys = [cut.why(said.opening) for said in ordered if said.peer == peer]
        found[peer] = "out" if all(whys) else "left" if gone.get(peer) else "in"
    return found


def _read(counted: Iterable[Said]) -> Iterator[tuple[Said, Body]]:
    """Yield the entries that can be read, and what they say."""
    for said in counted:
        try:
            yield said, read_body(said.entry.kind, said.entry.body)
        except ProtocolError:
            continue


def _of(counted: Iterable[Said], kind: type[B]) -> list[tuple[Said, B]]:
    """Return the entries that say a ``kind``, those that count more last."""
    found = [(said, body) for said, body in _read(counted) if isinstance(body, kind)]
    return sorted(found, key=lambda row: (_lamport(row[1]), row[0].place))


def _lamport(body: object) -> int:
    return getattr(body, "lamport", 0)


def _origin(said: Said, count: Count) -> object:
    """Return what counts once."""
    return (count.name, said.peer, count.origin) if count.origin else said.place


def _places(named: Iterable[tuple[str, Said]]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for name, said in named:
        found[name] = sorted([*found.get(name, []), said.place])
    return found


def _rank(checkpoint: Checkpoint) -> tuple[int, str, int, str]:
    return (
        checkpoint.version,
        checkpoint.cid,
        checkpoint.size_bytes,
        checkpoint.state,
    )
