"""Who belongs to the network: invites, who leaves, who is sent away."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.peer.control import Json, Say
from clients.peer.deeds import peer_called, seen, write
from clients.peer.home import give_up
from clients.peer.ways import reach_words, worth_telling
from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId
from p2p.identity.dates import shown_date
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import public_of
from p2p.identity.openings import Opening
from p2p.identity.removals import Removal, removal_of
from p2p.identity.rights import may
from p2p.state.bodies import Presence
from p2p.state.chain import Kind

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

LEAVE_S = 2.0  # time for the others to hear of it
OWN_WAYS, OTHERS_WAYS = 5, 3  # addresses in an invite
LETTERS = 8  # of an invite's id that are enough to name one that was used
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class People:
    """What requests about members ask of a running node.

    Attributes:
        node: the node.
    """

    node: "PeerNode"

    def invite(self, request: Json, say: Say) -> Json:
        """Make an invite, and say what it cannot do."""
        check_may(self.node, "invite")
        home, ways = self.node.home, self._ways()
        terms = Terms(request["role"], request["lasts_s"], ways)
        text = invite(home.proof, home.key, terms, time.time())
        read = read_invite(text)
        found = {"invite": text, "role": terms.role, "id": read.id}
        until, lacks = shown_date(read.expires_s), reach_words(ways)
        return found | {"until": until, "ways": ways, "lacks": lacks}

    def _ways(self) -> list[str]:
        """Return where to find us, and a few others should we be gone by then."""
        mine = worth_telling(self.node.mesh.addresses(), OWN_WAYS)
        peers = [p["peer"] for p in self.node.status()["peers"] if p["inside"]]
        pulse = self.node.member.pulse
        theirs = [a for p in peers for a in list(pulse.addresses(p))[:1]]
        return [*mine, *theirs[:OTHERS_WAYS]]

    def evict(self, request: Json, say: Say) -> Json:
        """Send a member away."""
        check_may(self.node, "evict")
        peer = peer_called(self.node, request["peer"])
        self._remove("peer", peer, spare=True)
        return {"peer": peer}

    def revoke(self, request: Json, say: Say) -> Json:
        """Make an invite worthless."""
        check_may(self.node, "revoke")
        name = self._invite_called(request["invite"])
        spared = [self._peer(word) for word in request["but"]]
        self._remove("invite", name, spare=spared or not request["members_too"])
        return {"invite": name}

    def _peer(self, word: str) -> PeerId:
        """Return the peer that is called so, or has this id, known to us or not."""
        try:
            public_of(word)
        except ProtocolError:
            return peer_called(self.node, word)
        return word

    def _invite_called(self, word: str) -> str:
        """Return the id of the invite that ``word`` is, or whose id it is.

        Raises:
            ConfigError: it is none of this network.
        """
        if word.startswith("fed1:"):
            read = read_invite(word)
            if read.network != self.node.home.network:
                raise ConfigError(f"this invite is one of another network, {read.name}")
            return read.id
        if _ID.fullmatch(word):
            return word
        used = {opening.invite for opening in self._openings()}
        found = [i for i in used if len(word) >= LETTERS and i.startswith(word)]
        if len(found) == 1:
            return found[0]
        raise ConfigError(
            f'"{word}" is no invite that was used here: give the line that begins with '
            "fed1: or all 64 digits of its id"
        )

    def _openings(self) -> Sequence[Opening]:
        logs = self.node.member.replica.logs.by_writer
        return seen(
            self.node, lambda _: [x.opening for x in logs.values() if x.opening]
        )

    def _remove(self, what: Any, name: str, *, spare: bool | Sequence[PeerId]) -> None:
        replica, openings = self.node.member.replica, self._openings()

        def removal(_: float) -> Removal:
            lengths = {writer: n for writer, (n, _) in replica.heads().items()}
            return removal_of(what, name, openings, lengths, spare=spare)

        write(self.node, [(Kind.REMOVAL, seen(self.node, removal).encode())])

    def leave(self, request: Json, say: Say) -> Json:
        """Leave for good: tell the others, delete the key, and end."""
        node, status = self.node, self.node.status()
        others = [p for p in status["peers"] if p["status"] == "in"]
        here = [p for p in others if p["inside"]]
        if not request["sure"]:
            _check_leaving(status["role"], others, here)
        lamport = seen(node, lambda _: node.member.replica.view.next_lamport)
        write(node, [(Kind.LEAVE, Presence(lamport).encode())])
        give_up(node.home.folder)
        time.sleep(LEAVE_S if here else 0.0)
        node.end()
        return {"network": status["network"]["name"], "told": len(here)}


def check_may(node: "PeerNode", act: Any) -> None:
    """Raise ConfigError unless our role may ``act``."""
    role = node.home.opening.role
    if not may(role, act):
        raise ConfigError(f"role {role} may not {act}; ask an admin")


def _check_leaving(role: str, others: Sequence[Json], here: Sequence[Json]) -> None:
    """Raise ConfigError if somebody is likely to regret it."""
    if others and not here:
        raise ConfigError(
            "nobody else is here to hear of it, and so the others would go on to count "
            "this peer: try again later, or say --yes"
        )
    if role == "admin" and others and not any(p["role"] == "admin" for p in others):
        raise ConfigError(
            "this is the only admin: without one nobody can be invited or sent away. "
            "Invite another (fedcore peer invite --role admin), or say --yes"
        )
