"""What commands and the page can ask of a running node."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.peer.control import Json, Say
from clients.peer.tables import size
from clients.peer.verifying import verified
from clients.peer.ways import worth_telling
from fedcore.config import nearest
from fedcore.errors import ConfigError, FedError, PeerLostError
from fedcore.names import PeerId
from p2p.content.adding import add_file, copy_to
from p2p.content.manifest import BYTES, SAFETENSORS
from p2p.identity.dates import shown_date
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.removals import Removal, removal_of
from p2p.identity.rights import may
from p2p.machine import Ask
from p2p.members.pulse import TOPIC as PULSE
from p2p.nat.kinds import outlook
from p2p.state.bodies import Checkpoint, Presence
from p2p.state.chain import Kind

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

PING_S = 5.0
LEAVE_S = 2.0  # time for the others to hear of it
OWN_WAYS, OTHERS_WAYS = 5, 3  # addresses in an invite


@dataclass
class Actions:
    """Does what requests ask; called in threads of the control socket.

    Attributes:
        node: the running node.
    """

    node: "PeerNode"

    def do(self, request: Json, say: Say) -> Json:
        """Do what ``request["do"]`` names.

        Raises:
            FedError: it cannot be done; says why.
        """
        name = request["do"]
        acts: Mapping[str, Callable[[Json, Say], Json]] = {
            "status": lambda _, __: self.node.status(),
            "notes": lambda _, __: {"notes": self.node.notes.newest()},
            "invite": self._invite,
            "ping": self._ping,
            "netcheck": self._netcheck,
            "put": self._put,
            "get": self._get,
            "evict": self._evict,
            "revoke": self._revoke,
            "verify": self._verify,
            "leave": self._leave,
            "expose": self._expose,
            "tunnel": self._tunnel,
            "found": self.node.runs.found,
            "run": self.node.runs.described,
            "model": self.node.runs.model,
            "contribute": self.node.runs.contribute,
        }
        if name not in acts:
            raise ConfigError(f'nothing is called "{name}"; {nearest(name, acts)}')
        return acts[name](request, say)

    # The machine's thread

    def _call(self, action: Callable[[float], Any]) -> Any:
        """Return what ``action(now_s)`` returns in the machine's thread."""
        return self.node.driver.call(lambda now_s: (action(now_s), ()))

    def _write(self, said: Iterable[tuple[Kind, bytes]]) -> None:
        member, entries = self.node.member, list(said)

        def write(now_s: float) -> tuple[None, Any]:
            effects = member.replica.write(entries)
            return None, member.mesh.do("state", now_s, effects)

        self.node.driver.call(write)

    def _peer(self, word: str) -> PeerId:
        """Return the peer that ``word`` names: its name, its id, or the end of it."""
        peers = self.node.status()["peers"]
        ids = {p["peer"] for p in peers}
        named = {p["peer"] for p in peers if p["name"] == word}
        # Names are chosen by others: one that looks like an id must not win over it.
        found = {word} & ids or named | {i for i in ids if word and i.endswith(word)}
        if len(found) == 1:
            peer: PeerId = found.pop()
            return peer
        if found:
            raise ConfigError(f"several peers are called {word}; give the id")
        names = [p["name"] for p in peers]
        raise ConfigError(f"no peer is called {word}; {nearest(word, names)}")

    def _may(self, act: Any) -> None:
        role = self.node.home.opening.role
        if not may(role, act):
            raise ConfigError(f"role {role} may not {act}; ask an admin")

    # People

    def _invite(self, request: Json, say: Say) -> Json:
        self._may("invite")
        home = self.node.home
        terms = Terms(request["role"], request["lasts_s"], self._ways())
        text = invite(home.proof, home.key, terms, time.time())
        until = shown_date(read_invite(text).expires_s)
        return {"invite": text, "role": terms.role, "until": until}

    def _ways(self) -> list[str]:
        """Return where to find us, and a few others should we be gone by then."""
        mine = worth_telling(self.node.mesh.addresses(), OWN_WAYS)
        peers = [p["peer"] for p in self.node.status()["peers"] if p["inside"]]
        pulse = self.node.member.pulse
        theirs = [a for p in peers for a in list(pulse.addresses(p))[:1]]
        return [*mine, *theirs[:OTHERS_WAYS]]

    def _ping(self, request: Json, say: Say) -> Json:
        peer, took_s, why = self._peer(request["peer"]), [], ""
        for number in range(min(int(request["count"]), 100)):
            began_s = time.perf_counter()
            ask = Ask(peer, PULSE, b"", number, PING_S)
            answer: Future[bytes] = self.node.wires.ask(ask)
            try:
                answer.result(PING_S)
                took_s.append(time.perf_counter() - began_s)
            except (FedError, TimeoutError) as error:
                why = str(error) or "no answer in time"
        path = self._call(lambda _: self.node.member.reach.words.get(peer, "?"))
        return {"peer": peer, "took_s": took_s, "path": path, "why": why}

    def _evict(self, request: Json, say: Say) -> Json:
        self._may("evict")
        peer = self._peer(request["peer"])
        self._remove("peer", peer, spare=True)
        return {"peer": peer}

    def _revoke(self, request: Json, say: Say) -> Json:
        self._may("revoke")
        word = request["invite"]
        name = read_invite(word).id if word.startswith("fed1:") else word
        self._remove("invite", name, spare=not request["members_too"])
        return {"invite": name}

    def _remove(self, what: Any, name: str, *, spare: bool) -> None:
        replica = self.node.member.replica

        def removal(_: float) -> Removal:
            logs = [log for log in replica.logs.by_writer.values() if log.opening]
            lengths = {writer: n for writer, (n, _) in replica.heads().items()}
            openings = [log.opening for log in logs if log.opening]
            return removal_of(what, name, openings, lengths, spare=spare)

        self._write([(Kind.REMOVAL, self._call(removal).encode())])

    def _leave(self, request: Json, say: Say) -> Json:
        lamport = self._call(lambda _: self.node.member.replica.view.next_lamport)
        self._write([(Kind.LEAVE, Presence(lamport).encode())])
        time.sleep(LEAVE_S)
        self.node.end()
        return {}

    # Tunnels

    def _expose(self, request: Json, say: Say) -> Json:
        member = self.node.member
        self.node.wires.tunnel.expose(
            request["service"], request["host"], request["port"], member.is_member
        )
        return {}

    def _tunnel(self, request: Json, say: Say) -> Json:
        peer = self._peer(request["peer"])
        made = self.node.wires.tunnel.forward(
            peer, request["service"], port=request["port"]
        )
        return {"port": made.port}

    # Content

    def _put(self, request: Json, say: Say) -> Json:
        self._may("write")
        path, name = Path(request["file"]), request["name"]
        member = self.node.member
        kind = SAFETENSORS if path.suffix == ".safetensors" else BYTES
        cid = add_file(member.shelf, path, kind)
        view = self._call(lambda _: member.replica.view)
        shelf = view.checkpoints.get(name)
        version = shelf.newest.version + 1 if shelf else 0
        root = self._call(lambda _: member.replica.root())
        point = Checkpoint(name, version, cid, path.stat().st_size, root)
        self._write([(Kind.CHECKPOINT, point.encode())])
        return {"cid": cid, "name": name, "version": version}

    def _get(self, request: Json, say: Say) -> Json:
        member = self.node.member
        cid = self._named(request["content"])

        def want(now_s: float) -> tuple[None, Any]:
            return None, member.want(now_s, cid)

        blob = member.shelf.blob(cid)
        if blob is None or not blob.whole:
            self.node.driver.call(want)
            self._await(cid, say)
        blob = member.shelf.blob(cid)
        if request["out"] is not None:
            copy_to(member.shelf, cid, Path(request["out"]))
        return {"cid": cid, "bytes": blob.size_bytes if blob else 0}

    def _named(self, word: str) -> str:
        view = self._call(lambda _: self.node.member.replica.view)
        if word in view.checkpoints:
            cid: str = view.checkpoints[word].newest.cid
            return cid
        return word

    def _await(self, cid: str, say: Say) -> None:
        """Wait until ``cid`` is here, and say how far it is."""
        member = self.node.member
        while (why := member.ended.get(cid)) is None:
            now = self._call(lambda now_s: member.library.progress(cid, now_s))
            if now is not None:
                total = "?" if now.size_bytes is None else size(now.size_bytes)
                rate = f"{size(now.bytes_s)}/s from {len(now.sources)}"
                say({"words": f"{size(now.kept_bytes)} of {total}, {rate}"})
            if self.node.driver.ended.is_set():
                raise PeerLostError("the node has ended")
            time.sleep(0.2)
        say({"words": ""})
        if why:
            raise PeerLostError(f"{cid} could not be fetched: {why}")

    def _verify(self, request: Json, say: Say) -> Json:
        return verified(self.node, say)

    # The network

    def _netcheck(self, request: Json, say: Say) -> Json:
        node = self.node
        here = self._call(lambda _: node.member.reach.paths.here)
        found = [f"{c.kind:<9} {c.address}" for c in here.candidates] if here else []
        kind = outlook(here.nat) if here else "not known yet"
        lines = [f"router    {kind}", *found]
        lines.append(f"reachable {node.reachable.words}")
        if node.mapped is not None:
            lines.append(f"mapping   {node.mapped.words}")
        lines += [f"relay     {r.relay}: {r.words}" for r in node.relayed.states()]
        if not node.relayed.states():
            lines.append("relay     none is set; see find.relays in peer.toml")
        return {"lines": lines, "nat": here.nat.name.lower() if here else "unknown"}
