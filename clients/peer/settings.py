"""What a peer's owner may set, in ``peer.toml`` or with ``--set``."""

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.config import Settings, build, dump, from_file, layered
from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import fault_of, shown
from p2p.members.places import read_place

FILE = "peer.toml"
SUCH_AS = "/ip4/192.0.2.7/tcp/4001/p2p/12D3..."
PORTS = range(1 << 16)
GB, NO_LIMIT = 10**9, 1 << 62  # bytes
PORTS_OF_RELAY = 3  # one after another


@dataclass(frozen=True, slots=True)
class Listen:
    """Where others reach us. 0 takes any free port, kept from then on.

    Attributes:
        addresses: of this machine, the only ones to listen on and to tell others of,
            with both ports; none means all that it has.
        control_port: for libp2p: finding, greeting, signalling.
        data_port: for models and all else, once two peers know each other.
    """

    addresses: tuple[str, ...] = ()
    control_port: int = 0
    data_port: int = 0

    def __post_init__(self) -> None:
        for name in ("control_port", "data_port"):
            if getattr(self, name) not in PORTS:
                raise ConfigError(f"{name} must be from 0 to 65535")


@dataclass(frozen=True, slots=True)
class Find:
    """How others are found, besides those that the invite names.

    Attributes:
        bootstrap: addresses of peers, such as /ip4/192.0.2.7/tcp/4001/p2p/12D3....
        relays: addresses of relays, for peers behind routers; of the same form.
        nearby: look for peers of our network on the local network (mDNS).
        map_ports: ask the home router to open our ports (UPnP, NAT-PMP).
    """

    bootstrap: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    nearby: bool = True
    map_ports: bool = True

    def __post_init__(self) -> None:
        for name in ("bootstrap", "relays"):
            for address in getattr(self, name):
                _check_address(name, address)


@dataclass(frozen=True, slots=True)
class Limit:
    """What the owner lends. 0 means no limit.

    Attributes:
        up_mbit: most megabits a second that leave, on the local network too.
        down_mbit: most megabits a second that arrive.
        disk_gb: most gigabytes of models and other content.
        state_gb: most gigabytes of what members write, about; see docs/mesh.md.
    """

    up_mbit: float = 0.0
    down_mbit: float = 0.0
    disk_gb: float = 20.0
    state_gb: float = 20.0

    def __post_init__(self) -> None:
        for name in ("up_mbit", "down_mbit", "disk_gb", "state_gb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more; 0 is no limit")

    @property
    def disk_bytes(self) -> int:
        """The most bytes of content."""
        return int(self.disk_gb * GB) or NO_LIMIT

    @property
    def state_bytes(self) -> int:
        """The most bytes of what members write."""
        return int(self.state_gb * GB) or NO_LIMIT


@dataclass(frozen=True, slots=True)
class Relay:
    """Help others that cannot reach each other. Needs an address they can reach.

    Attributes:
        serve: do it.
        port: of the blind relay for data; 0 takes any free one, kept from then on.
        address: the public IP address of this machine, if a router or a cloud hides
            it and peers could not find it out.
        circuit_gb: most gigabytes that one pair may send through us.
        circuits: most pairs at once.
    """

    serve: bool = False
    port: int = 0
    address: str = ""
    circuit_gb: float = 10.0
    circuits: int = 64

    def __post_init__(self) -> None:
        if self.port not in PORTS[: 1 - PORTS_OF_RELAY]:
            raise ConfigError("port must be from 0 to 65533: the next two are used too")
        if self.circuits < 1 or not 0 < self.circuit_gb < math.inf:
            raise ConfigError("circuits and circuit_gb must be above 0, and finite")
        if self.address:
            _check_ip(self.address)


def _check_ip(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"address {shown(text)} is no IP address, such as 192.0.2.7"
        ) from None


@dataclass(frozen=True, slots=True)
class Page:
    """The local web page.

    Attributes:
        serve: have one.
        port: on 127.0.0.1; 0 takes any free one, kept from then on.
    """

    serve: bool = True
    port: int = 0


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """All of it.

    Attributes:
        name: what people call this peer; shown to others, never trusted.
        keep_all: fetch and keep every checkpoint that the network lists.
        allow: ids of the only peers to speak with; none means every member.
    """

    name: str = "peer"
    keep_all: bool = True
    allow: tuple[str, ...] = ()
    listen: Listen = field(default_factory=Listen)
    find: Find = field(default_factory=Find)
    limit: Limit = field(default_factory=Limit)
    relay: Relay = field(default_factory=Relay)
    page: Page = field(default_factory=Page)

    def __post_init__(self) -> None:
        if fault := fault_of(self.name):
            raise ConfigError(f"name {fault}")


def _check_address(name: str, address: str) -> None:
    try:
        if read_place(address).peer is not None:
            return
        fault = f"{address} does not say who is there"
    except ProtocolError as error:
        fault = str(error)
    raise ConfigError(f"{name}: {fault}; write it as {SUCH_AS}")


def read_settings(home: Path, more: Settings) -> PeerSettings:
    """Return the settings in ``home``, with ``more`` on top.

    Raises:
        ConfigError: a key is unknown or a value cannot be; names the line.
    """
    path = home / FILE
    kept = from_file(path) if path.exists() else {}
    return build(PeerSettings, layered(kept, more))


def as_toml(settings: PeerSettings) -> str:
    """Return ``settings`` as the text of ``peer.toml``."""
    return dump(settings)
