"""What a node says of itself: one object that all views are drawn from."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import psutil

from fedcore.names import PeerId

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

State = Literal["waiting", "joining", "relayed", "direct", "training"]
Json = dict[str, Any]
GONE = {
    "left": "this peer has left the network; join anew with a fresh invite",
    "out": "this peer was sent away from the network",
}


@dataclass
class Report:
    """Made from a running node; every method may be called from any thread.

    Attributes:
        node: the node.
    """

    node: "PeerNode"
    _since_s: float = field(default_factory=time.monotonic)
    _rates: dict[PeerId, tuple[float, int, int, float, float]] = field(
        default_factory=dict
    )

    def status(self) -> Json:
        """Return everything, as plain data for JSON."""
        node = self.node
        inner: Json = node.driver.call(lambda now_s: (self._inner(now_s), ()))
        peers = [self._moved(peer) for peer in inner.pop("peers")]
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

    def state(self) -> tuple[State, str]:
        """Return what the node is doing, and why, in words."""
        inner: Json = self.node.driver.call(lambda now_s: (self._inner(now_s), ()))
        return _state(inner, [self._moved(peer) for peer in inner["peers"]])

    def _caps(self) -> Json:
        up, down = self.node.caps.up.rate_bytes_s, self.node.caps.down.rate_bytes_s
        return {"up_cap_bytes_s": up, "down_cap_bytes_s": down}

    # In the driver's thread

    def _inner(self, now_s: float) -> Json:
        member = self.node.member
        replica, view = member.replica, member.replica.view
        heads = replica.heads()
        alive, me = set(member.pulse.alive(now_s)), self.node.home.me
        inside = member.door.members()
        others = sorted({*view.members, *inside} - {me})
        forks = [w for w, log in replica.logs.by_writer.items() if log.fork is not None]
        return {
            "root": replica.root(),
            "entries": sum(length for length, _ in heads.values()),
            "writers": len(heads),
            "level": replica.ready,
            "forks": [f"{w} told two stories; it is frozen" for w in forks],
            "standing": view.members[me].status if me in view.members else "in",
            "members": sum(m.status == "in" for m in view.members.values()),
            "alive": len(alive - {me}) + 1,
            "contents": self._contents(now_s),
            "runs": [self._run(name) for name in view.runs],
            "training": sorted(self.node.runs.lately()),
            "counts": dict(self.node.notes.counts),
            "peers": [self._peer(peer, peer in alive, now_s) for peer in others],
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
            "inside": opening is not None,
            "alive": alive or opening is not None,
            "seen_s": member.pulse.silent_s(peer, now_s),
            "version": card.about.program if card else "",
            "relays": bool(card and card.about.relays),
            "path": path if status == "in" else status,
        }

    def _run(self, name: str) -> Json:
        facts = self.node.member.replica.view.facts.get(name, ())
        own = self.node.runs.own.get(name)
        return {
            "run": name,
            "additions": len(facts),
            "own": own.facts if own else 0,
            "loss": own.loss if own else None,
        }

    def _contents(self, now_s: float) -> Sequence[Json]:
        member = self.node.member
        rows = []
        for run, shelf in member.replica.view.checkpoints.items():
            for point, peers in shelf.all.items():
                blob = member.shelf.blob(point.cid)
                share = blob.kept / blob.chunks if blob and blob.chunks else 0.0
                rows.append(
                    {
                        "cid": point.cid,
                        "name": run,
                        "version": point.version,
                        "bytes": point.size_bytes,
                        "by": peers[0] if peers else "",
                        "kind": blob.kind if blob else "",
                        "here": bool(blob and blob.whole),
                        "share": 1.0 if blob and blob.whole else share,
                        "failed": member.ended.get(point.cid, ""),
                    }
                )
        return rows

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
    whys = sorted({p["path"] for p in members})[:1]
    return f"nobody can be reached yet; {whys[0] if whys else 'trying'}"


def _state(inner: Json, peers: Sequence[Json]) -> tuple[State, str]:
    here = [p for p in peers if p["inside"]]
    if not here:
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
    return "relayed", f"connected with {total}, all through relays: {here[0]['path']}"
