"""Whether replicas are level: the same logs, the same forks, the same view of them."""

from collections.abc import Mapping

from fedcore.names import PeerId
from p2p.identity.removals import removal_of
from p2p.state.fold import View
from p2p.state.lasting import Lasting
from p2p.state.replica import Replica

AnyReplica = Replica | Lasting


def parted(replicas: Mapping[str, AnyReplica]) -> str | None:
    """Return in what the replicas differ, by the names of their hosts; None if not."""
    roots = {name: replica.root()[:8] for name, replica in replicas.items()}
    if len(set(roots.values())) > 1:
        return f"roots {roots}"
    forks = {name: forks_of(replica) for name, replica in replicas.items()}
    if len(set(map(str, forks.values()))) > 1:
        return f"forks {forks}"
    sums = {name: summed(replica.view) for name, replica in replicas.items()}
    return f"other views in {' '.join(sums)}" if len(set(sums.values())) > 1 else None


def lacking(replicas: Mapping[str, AnyReplica], sure: set[str]) -> str | None:
    """Return who does not know an entry that all must know; None if all know all."""
    for name, replica in replicas.items():
        if lost := sure - {*replica.view.counters}:
            return f"{name} lacks {len(lost)} entries such as {min(lost)}"
    return None


def forks_of(replica: AnyReplica) -> dict[str, int]:
    """Return where each frozen log ends."""
    logs = sorted(replica.logs.by_writer.items())
    return {writer: log.fork.position for writer, log in logs if log.fork}


def summed(view: View) -> str:
    """Return what is in ``view``, but for what depends on the order of arrival."""
    members = {m.peer: (m.status, m.role, m.writers) for m in view.members.values()}
    scores = {ratee: dict(s) for ratee, s in view.scores.by_ratee.items()}
    parts = (members, scores, dict(view.runs), dict(view.counters), view.lamport)
    return "\n".join(str(sorted(part.items())) for part in parts[:4]) + str(parts[4])


def removal(replica: AnyReplica, peer: PeerId) -> bytes:
    """Return the body that sends ``peer`` away, as things stand at ``replica``."""
    logs = replica.logs.by_writer
    openings = [log.opening for log in logs.values() if log.opening]
    lengths = {writer: log.tip.length for writer, log in logs.items()}
    return removal_of("peer", peer, openings, lengths).encode()
