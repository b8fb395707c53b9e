"""What commands need of a running node: to look, to write, and to know who is meant."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from fedcore.config import nearest
from fedcore.errors import ConfigError
from fedcore.names import PeerId
from p2p.state.chain import Kind

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

T = TypeVar("T")


def seen(node: "PeerNode", look: Callable[[float], T]) -> T:
    """Return what ``look(now_s)`` returns in the machine's thread."""
    found: T = node.driver.call(lambda now_s: (look(now_s), ()))
    return found


def write(node: "PeerNode", said: Iterable[tuple[Kind, bytes]]) -> None:
    """Write into the node's log.

    Raises:
        ConfigError: our role may not write that.
    """
    member, entries = node.member, list(said)

    def written(now_s: float) -> tuple[None, Any]:
        effects = member.replica.write(entries)
        return None, member.mesh.do("state", now_s, effects)

    node.driver.call(written)


def peer_called(node: "PeerNode", word: str) -> PeerId:
    """Return the peer that ``word`` names: its name, its id, or the end of it.

    Raises:
        ConfigError: none is called so, or several are.
    """
    peers = node.status()["peers"]
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
