"""What a node says of itself: one object that all views are drawn from."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import psutil

from clients.peer.deeds import seen
from clients.peer.history import History
from clients.peer.tables import shortened
from fedcore.names import PeerId
from p2p.state.bodies import Checkpoint

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

State = Literal["waiting", "joining", "relayed", "direct", "training"]
Json = dict[str, Any]
MOST_LISTED = 200  # contents, and runs
MOST_NOTES = 100
MOST_BARS = 16  # members whose part in a run is told
GONE = {
    "left": "this peer has left the network; join anew with a fresh invite",
    "out": "this peer was sent away from the network",
}


@dataclass
class Report:
    """Made from a running node; every method may be called from any thread.

    Attributes:
        node: the node.
        history: some figures of the last minutes.
    """

    node: "PeerNode"
    history: History = field(default_factory=History)
    _since_s: float = field(default_factory=time.monotonic)
    _rates: dict[PeerId, tuple[float, int, int, float, float]] = field(
        default_factory=dict
    )

    def status(self) -> Json:
        """Return everything, as plain data for JSON."""
        node = self.node
        inner, peers = self._looked()
        inner |= seen(node, self._lists)
        state, why = _state(inner, peers)
        founding, home = node.home.opening.founding, node.home
        return {
            "peer": home.me,
            "name": node.settings.name,
            "role": home.opening.role,
            "version": node.member.program,
            "network": {"id": home.network, "name": founding.name},
            "state": state,
            "why": why,
            "uptime_s": time.monotonic() - self._since_s,
            "addresses": node.mesh.addresses(),
            "relays": [r._asdict() for r in node.relayed.states()],
            "reachable": {"kind": node.reachable.kind, "words": node.reachable.words},
            "traffic": _summed(peers) | self._caps(),
            "memory_bytes": psutil.Process(os.getpid()).memory_info().rss,
            "page": node.page_address(),
            "peers": peers,
        } | inner

    def page(self) -> Json:
        """Return what the page shows: also what happened, in words and figures."""
        notes = self.node.notes.newest(MOST_NOTES)
        return self.status() | {"notes": notes, "history": self.history.plain()}

    def state(self) -> tuple[State, str]:
        """Return what the node is doing, and why, in words."""
        return _state(*self._looked())

    def _looked(self) -> tuple[Json, Sequence[Json]]:
        """Return what the machine knows, and of each peer; keep some for the charts."""
        inner = seen(self.node, self._inner)
        peers = [self._moved(peer) for peer in inner.pop("peers")]
        sums = _summed(peers)
        figures = {name: sums[name] for name in ("up_bytes_s", "down_bytes_s")}
        figures |= {name: inner[name] for name in ("entries", "additions")}
        self.history.take(time.monotonic(), figures)
        return inner, peers

    def _caps(self) -> Json:
        up, down = self.node.caps.up.rate_bytes_s, self.node.caps.down.rate_bytes_s
        return {"up_cap_bytes_s": up, "down_cap_bytes_s": down}

    # In the driver's thread

    def _inner(self, now_s: float) -> Json:
        member = self.node.member
        replica, view = member.replica, member.replica.view
        logs = replica.logs.by_writer
        alive, me = set(member.pulse.alive(now_s)), self.node.home.me
        inside = member.door.members()
        others = sorted({*view.members, *inside} - {me})
        peers = [self._peer(peer, peer in alive, now_s) for peer in others]
        forks = [w for w, log in logs.items() if log.fork is not None]
        return {
            "root": replica.root(),
            "entries": sum(log.tip.length for log in logs.values()),
            "writers": len(logs),
            "additions": sum(map(len, view.facts.values())),
            "level": replica.ready,
            "disk": replica.why,
            "forks": [f"{w} told two stories; it is frozen" for w in forks],
            "standing": member.standing(),
            "members": sum(m.status == "in" for m in view.members.values()),
            "alive": sum(p["alive"] for p in peers if p["status"] == "in") + 1,
            "training": sorted(self.node.runs.lately()),
            "peers": peers,
        }

    def _lists(self, now_s: float) -> Json:
        view, most = self.node.member.replica.view, MOST_LISTED
        shelves, blobs = view.checkpoints.values(), self.node.member.shelf.blobs()
        return {
            "contents": list(islice(self._contents(), most)),
            "content_bytes": sum(b.size_bytes for b in blobs if b.whole),
            "contents_in_all": sum(len(shelf.all) for shelf in shelves),
            "runs": [self._run(name) for name in islice(view.runs, most)],
            "counts": dict(self.node.notes.counts),
        }

    def _peer(self, peer: PeerId, alive: bool, now_s: float) -> Json:
        member = self.node.member
        known = member.replica.view.members.get(peer)
        card, opening = member.pulse.record(peer), member.door.members().get(peer)
        role = known.role if known else opening.role if opening else "?"
        status = known.status if known else "in"
        path = member.reach.words.get(peer, "not tried")
        return {
            "peer": peer,
            "name": (card.about.name if card else member.names.get(peer)) or "?",
            "role": role,
            "status": status,
            "inside": status == "in" and opening is not None,
            "alive": status == "in" and (alive or opening is not None),
            "seen_s": member.pulse.silent_s(peer, now_s),
            "version": card.about.program if card else "",
            "relays": bool(card and card.about.relays),
            "path": path if status == "in" else status,
        }

    def _run(self, name: str) -> Json:
        node = self.node
        own, me = node.runs.own.get(name), node.home.me
        by = node.runs.added_by(name)
        return {
            "run": name,
            "additions": sum(by.values()),
            "own": by.get(me, 0),
            "by": dict(by.most_common(MOST_BARS)),
            "loss": own.loss if own else None,
            "losses": list(own.losses) if own else [],
        }

    def _contents(self) -> Iterator[Json]:
        """Yield what the network lists: by name, the newest version first."""
        for _, shelf in sorted(self.node.member.replica.view.checkpoints.items()):
            for point in nlargest(MOST_LISTED, shelf.all, key=lambda p: p.version):
                yield self._content(point, shelf.all[point])

    def _content(self, point: Checkpoint, peers: Sequence[PeerId]) -> Json:
        member = self.node.member
        blob = member.shelf.blob(point.cid)
        share = blob.kept / blob.chunks if blob and blob.chunks else 0.0
        return {
            "cid": point.cid,
            "name": point.run,
            "version": point.version,
            "bytes": point.size_bytes,
            "by": peers[0] if peers else "",
            "kind": blob.kind if blob else "",
            "here": bool(blob and blob.whole),
            "share": 1.0 if blob and blob.whole else share,
            "failed": member.ended.get(point.cid, ""),
        }

    # In any thread

    def _moved(self, peer: Mapping[str, Any]) -> Json:
        """Return ``peer`` with what was sent and received, and how fast."""
        name = peer["peer"]
        line = self.node.wires.lines().get(name)
        up, down = self.node.wires.moved(name)
        now_s = time.monotonic()
        then_s, old_up, old_down, up_s, down_s = self._rates.get(
            name, (now_s, up, down, 0.0, 0.0)
        )
        if now_s - then_s >= 1.0:
            span_s = now_s - then_s
            up_s, down_s = (up - old_up) / span_s, (down - old_down) / span_s
            then_s, old_up, old_down = now_s, up, down
        self._rates[name] = then_s, old_up, old_down, up_s, down_s
        return dict(peer) | {
            "channel": line is not None,
            "channels": self.node.wires.channels(name),
            "relay": line.relay if line else None,
            "rtt_s": line.channel.rtt_s() if line else None,
            "up_bytes": up,
            "down_bytes": down,
            "up_bytes_s": up_s,
            "down_bytes_s": down_s,
        }


def _summed(peers: Sequence[Json]) -> Json:
    names = ("up_bytes", "down_bytes", "up_bytes_s", "down_bytes_s")
    return {name: sum(peer[name] for peer in peers) for name in names}


def _why_alone(inner: Json, peers: Sequence[Json]) -> str:
    members = [p for p in peers if p["status"] == "in"]
    if inner["standing"] in GONE:
        return GONE[inner["standing"]]
    if not members and inner["members"] <= 1 and inner["level"]:
        return "nobody else is here; invite somebody: fedcore peer invite"
    if not members:
        return "nobody can be reached yet"
    why = shortened(min(p["path"] for p in members)).removeprefix("waiting: ")
    return f"nobody can be reached yet; of {len(members)}, the first: {why}"


def _state(inner: Json, peers: Sequence[Json]) -> tuple[State, str]:
    here = [p for p in peers if p["inside"]]
    if inner["disk"]:
        return "waiting", f"nothing is written or learnt until then: {inner['disk']}"
    if not here or inner["standing"] in GONE:
        return "waiting", _why_alone(inner, peers)
    if not inner["level"]:
        return "joining", f"learning from {len(here)} what was written so far"
    direct = [p for p in here if p["path"].startswith("direct")]
    if inner["training"]:
        runs = ", ".join(inner["training"])
        return "training", f"adding to {runs}, with {len(here)} others here"
    total = f"{len(here)} {'peer' if len(here) == 1 else 'peers'}"
    if direct:
        return "direct", f"connected with {total}, {len(direct)} of them directly"
    return (
        "relayed",
        f"connected with {total}, none of them directly: {here[0]['path']}",
    )
