"""What commands can ask of a running node."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.peer.control import Json, Say
from clients.peer.deeds import peer_called, seen, write
from clients.peer.network import Network
from clients.peer.people import People, check_may
from clients.peer.tables import size
from clients.peer.verifying import verified
from fedcore.config import nearest
from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.names import fault_of, shown
from p2p.content.adding import add_file, copy_to
from p2p.content.cid import digest_of
from p2p.content.manifest import BYTES, SAFETENSORS
from p2p.state.bodies import Checkpoint
from p2p.state.chain import Kind

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode


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
        name, node = request["do"], self.node
        people, network = People(node), Network(node)
        acts: Mapping[str, Callable[[Json, Say], Json]] = {
            "status": lambda _, __: node.status(),
            "notes": lambda _, __: {"notes": node.notes.newest()},
            "invite": people.invite,
            "evict": people.evict,
            "revoke": people.revoke,
            "leave": people.leave,
            "ping": network.ping,
            "netcheck": network.netcheck,
            "put": self._put,
            "get": self._get,
            "verify": lambda _, say: verified(node, say),
            "tunnels": lambda _, __: node.tunnels.all(),
            "expose": self._expose,
            "tunnel": self._tunnel,
            "found": node.runs.found,
            "run": node.runs.described,
            "model": node.runs.model,
            "contribute": node.runs.contribute,
            "withdraw": node.runs.withdraw,
        }
        if name not in acts:
            raise ConfigError(f'nothing is called "{name}"; {nearest(name, acts)}')
        return acts[name](request, say)

    # Tunnels

    def _expose(self, request: Json, say: Say) -> Json:
        tunnels, name = self.node.tunnels, request["service"]
        if request["off"]:
            tunnels.hide(name)
        else:
            tunnels.expose(name, request["host"], request["port"])
        return {}

    def _tunnel(self, request: Json, say: Say) -> Json:
        peer, name = peer_called(self.node, request["peer"]), request["service"]
        if request["off"]:
            self.node.tunnels.unforward(peer, name)
            return {}
        return {"port": self.node.tunnels.forward(peer, name, request["port"])}

    # Content

    def _put(self, request: Json, say: Say) -> Json:
        check_may(self.node, "write")
        path, name = Path(request["file"]), request["name"]
        if wrong := fault_of(name):  # before a copy is pinned that nobody could name
            raise ConfigError(f"the name {shown(name)} {wrong}; give another: --name")
        member = self.node.member
        kind = SAFETENSORS if path.suffix == ".safetensors" else BYTES
        cid = add_file(member.shelf, path, kind)
        view = seen(self.node, lambda _: member.replica.view)
        shelf = view.checkpoints.get(name)
        version = shelf.newest.version + 1 if shelf else 0
        root = seen(self.node, lambda _: member.replica.root())
        point = Checkpoint(name, version, cid, path.stat().st_size, root)
        write(self.node, [(Kind.CHECKPOINT, point.encode())])
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
        """Return the id of the content that ``word`` names, or is.

        Raises:
            ConfigError: it is neither.
        """
        view = seen(self.node, lambda _: self.node.member.replica.view)
        if word in view.checkpoints:
            cid: str = view.checkpoints[word].newest.cid
            return cid
        try:
            digest_of(word)
        except ProtocolError as error:
            near = nearest(word, view.checkpoints)
            raise ConfigError(f'no content is called "{word}"; {near}') from error
        return word

    def _await(self, cid: str, say: Say) -> None:
        """Wait until ``cid`` is here, and say how far it is."""
        member = self.node.member
        while (why := member.ended.get(cid)) is None:
            now = seen(self.node, lambda now_s: member.library.progress(cid, now_s))
            if now is not None:
                total = "?" if now.size_bytes is None else size(now.size_bytes)
                rate = f"{size(now.bytes_s)}/s from {len(now.sources)}"
                far = f"{size(now.kept_bytes)} of {total}, {rate}"
                say({"words": far if now.sources else now.words})
            if self.node.driver.ended.is_set():
                raise PeerLostError("the node has ended")
            time.sleep(0.2)
        say({"words": ""})
        if why:
            raise PeerLostError(f"{cid} could not be fetched: {why}")
