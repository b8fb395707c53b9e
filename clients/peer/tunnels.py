"""What this node exposes, kept from start to start, and ports that lead to others."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from clients.peer.control import Json
from clients.peer.home import EXPOSED
from clients.peer.tables import shortened
from fedcore.config import nearest
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, PeerLostError, ProtocolError, StorageError
from fedcore.names import PeerId
from p2p.channel.services import Forward
from p2p.channel.tunnel import Tunnel

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

MOST = 64  # services, and ports
TRY_S = 5.0  # for a peer to say whether it has a service


@dataclass
class Tunnels:
    """The tunnels of a running node.

    Attributes:
        node: the node.

    Raises:
        StorageError: what was kept cannot be read.
    """

    node: "PeerNode"
    _exposed: dict[str, tuple[str, int]] = field(default_factory=dict)
    _forwards: list[Forward] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, (host, port) in _kept(self._disk).items():
            self._expose(name, host, port)

    @property
    def _tunnel(self) -> Tunnel:
        return self.node.wires.tunnel

    @property
    def _disk(self) -> RealDisk:
        return RealDisk(self.node.home.folder)

    def all(self) -> Json:
        """Return what is exposed, and which ports lead where."""
        exposed = [
            {"service": name, "host": host, "port": port}
            for name, (host, port) in sorted(self._exposed.items())
        ]
        return {"exposed": exposed, "forwards": [asdict(f) for f in self._forwards]}

    def expose(self, name: str, host: str, port: int) -> None:
        """Let members reach ``host:port`` as ``name``, now and after each start.

        Raises:
            ConfigError: the name or the port cannot be, or there are too many.
        """
        if len(self._exposed) >= MOST and name not in self._exposed:
            raise ConfigError(f"{MOST} services are exposed already; end one: --off")
        self._expose(name, host, port)
        self._keep()

    def hide(self, name: str) -> None:
        """End what ``expose`` began; connections that are open go on.

        Raises:
            ConfigError: nothing is exposed under that name.
        """
        if name not in self._exposed:
            raise ConfigError(
                f'nothing is exposed as "{name}"; {nearest(name, self._exposed)}'
            )
        del self._exposed[name]
        self._tunnel.hide(name)
        self._keep()

    def forward(self, peer: PeerId, name: str, port: int) -> int:
        """Open a port, here, that leads to a service of ``peer``; return which.

        Raises:
            ConfigError: the name or the port cannot be, there are too many, or the
                peer says that it has no such service.
        """
        if len(self._forwards) >= MOST:
            raise ConfigError(f"{MOST} ports lead to others already; end some: --off")
        made = self._tunnel.forward(peer, name, port=port)
        try:
            self._tunnel.tried(peer, name).result(TRY_S)
        except ProtocolError as error:
            self._tunnel.unforward(made)
            raise ConfigError(f"{shortened(peer)} refuses: {error}") from error
        except (PeerLostError, TimeoutError):
            pass  # it may come later
        self._forwards.append(made)
        return made.port

    def unforward(self, peer: PeerId, name: str) -> None:
        """Close the ports that lead to a service; connections that are open go on.

        Raises:
            ConfigError: there are none.
        """
        ended = [f for f in self._forwards if (f.peer, f.name) == (peer, name)]
        if not ended:
            raise ConfigError(f'no port leads to "{name}" of that peer')
        for one in ended:
            self._forwards.remove(one)
            self._tunnel.unforward(one)

    def _expose(self, name: str, host: str, port: int) -> None:
        self._tunnel.expose(name, host, port, self.node.member.was_member)
        self._exposed[name] = host, port

    def _keep(self) -> None:
        self._disk.replace(EXPOSED, json.dumps(self._exposed).encode())


def _kept(disk: RealDisk) -> Mapping[str, tuple[str, int]]:
    if EXPOSED not in disk.names():
        return {}
    try:
        found = json.loads(disk.read(EXPOSED))
        return {
            str(name): (str(host), int(port)) for name, (host, port) in found.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        path = disk.folder / EXPOSED
        raise StorageError(f"{path} is damaged ({error}); delete it") from error
