"""Who has a seat if there are more logs than seats; all replicas choose alike.

A key costs nothing and an invite may be used by many, so somebody can begin as many
logs as it likes. Seats are therefore handed out in turn: to each invite one, then to
each a second, and so on, as long as there are any. Within an invite it goes by peers,
whoever came first coming first, and within a peer by its logs and by the invites that
it has made itself. So a crowd takes seats from its own invite only, and a newcomer with
another finds one, if fewer than all seats are taken by invites.

    first      logs of admins, at most ``ADMIN_SEATS``: what they say of removals counts
    then       logs of members, in turn
    last       logs of which nothing counts, in the order of their names: of those sent
               away with nothing kept, or who signed two openings

It depends on nothing but the openings and on what admins have said, which are the same
on all replicas in the end, and whoever was left out of some logs is left out of more:
so it makes no difference in what order they come, nor who was let go in between. Only
the proof that somebody signed two openings goes with its log: then either may come
again, until it meets the other.

Source: choice in turn is "max-min fair" as in Bertsekas & Gallager, "Data Networks",
1992, section 6.5; that it can be made in any grouping is "path independence" as in
Plott, "Path Independence, Rationality, and Social Choice", 1973.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from fedcore.names import PeerId
from p2p.identity.openings import Opening
from p2p.identity.removals import Said, Standing, standing
from p2p.state.chain import WRITERS

ADMIN_SEATS = WRITERS // 4

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def judged(
    openings: Mapping[PeerId, Opening],
    removals: Mapping[PeerId, Sequence[Said]],
    spoilt: Collection[PeerId],
) -> tuple[Standing, Collection[PeerId]]:
    """Return who was sent away, and which logs have no seat.

    Args:
        openings: of all logs, by writer.
        removals: what stands in logs, by writer.
        spoilt: writers that signed two openings: which one we hold says nothing.
    """
    sound = [o for writer, o in openings.items() if writer not in spoilt]
    admins = _in_order([o for o in sound if o.role == "admin"], 0)
    first, late = admins[:ADMIN_SEATS], admins[ADMIN_SEATS:]
    cut = standing(one for writer in first for one in removals.get(writer, ()))
    if len(openings) <= WRITERS:
        return cut, ()
    members = [o for o in sound if o.role != "admin"]
    count = _in_order([o for o in members if not _idle(cut, o)], 0)
    last = {*spoilt, *late, *(o.writer for o in members if _idle(cut, o))}
    return cut, frozenset([*first, *count, *sorted(last)][WRITERS:])


def _idle(cut: Standing, opening: Opening) -> bool:
    """Return whether nothing that follows on this opening counts."""
    kept = cut.kept(opening)
    return kept is not None and kept <= 1


def _in_order(openings: Sequence[Opening], depth: int) -> list[PeerId]:
    """Return the writers of one peer's logs and of those it brought in, in turn.

    Args:
        openings: of all of them; they share the first ``depth`` steps of lineage.
        depth: of that peer.
    """
    own = sorted((o for o in openings if o.depth == depth), key=_age)
    guests = [o for o in openings if o.depth > depth]
    invites = _grouped((o.lineage[depth].grant.invite, o) for o in guests)
    below = [_guests(group, depth) for _, group in sorted(invites.items())]
    return _in_turn([[o.writer for o in own], *below])


def _guests(openings: Sequence[Opening], depth: int) -> list[PeerId]:
    """Return the writers that came by one invite, in turn."""
    steps = ((o.lineage[depth], o) for o in openings)
    peers = _grouped(((step.when_s, step.peer), o) for step, o in steps)
    return _in_turn([_in_order(peers[peer], depth + 1) for peer in sorted(peers)])


def _age(opening: Opening) -> tuple[int, PeerId]:
    return opening.when_s, opening.writer


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _in_turn(queues: Sequence[Sequence[PeerId]]) -> list[PeerId]:
    """Return the first of every queue, then the second, and so on."""
    found: list[PeerId] = []
    turn = 0
    while queues := [queue for queue in queues if len(queue) > turn]:
        found += [queue[turn] for queue in queues]
        turn += 1
    return found
