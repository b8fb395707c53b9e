"""The folder of a peer: its key, its place in a network, and what it keeps.

| file | what |
| --- | --- |
| ``key`` | the private key; whoever has it is this peer |
| ``opening`` | the proof of membership |
| ``ways`` | addresses that the invite gave, a line each |
| ``peer.toml`` | the owner's settings |
| ``fresh`` | the key has never been used; gone after the first start |
| ``ports.json`` | the ports that were free at the first start, kept |
| ``exposed.json`` | the services that members may reach through this peer |
| ``state.db``, ``shelf/``, ``addresses`` | replicated state, content, who was where |
| ``control.sock``, ``token``, ``lock`` | of the running node |
"""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from clients.peer.control import SOCKET
from clients.peer.ports import is_free
from clients.peer.settings import FILE, PeerSettings, as_toml
from fedcore.disk import TEMPORARY, RealDisk, told
from fedcore.errors import ConfigError, StorageError
from fedcore.names import PeerId
from p2p.identity.invites import Invite
from p2p.identity.keyfile import load_key, save_key
from p2p.identity.keys import Key
from p2p.identity.network import found
from p2p.identity.openings import Opening, check_opening, open_with

KEY, OPENING, WAYS, FRESH = "key", "opening", "ways", "fresh"
PORTS, LOCK, SHELF, STATE = "ports.json", "lock", "shelf", "state.db"
EXPOSED = "exposed.json"
OURS = {KEY, OPENING, WAYS, FRESH, PORTS, EXPOSED, LOCK, FILE, SOCKET}
OURS |= {"addresses", "token"}
REST = (
    "holds the rest of a peer that has left its network, or whose key was lost: "
    "`fedcore peer forget` deletes it, and then one can join with a fresh invite"
)


def usual_home() -> Path:
    """Return the folder of a peer whose owner chose none."""
    return Path.home() / ".fedcore" / "peer"


@dataclass(frozen=True)
class Home:
    """A peer's folder, read.

    Attributes:
        folder: where it is.
        key: the peer's.
        opening: the peer's proof of membership.
        proof: the bytes of ``opening``.
        ways: addresses of somebody, from the invite.
    """

    folder: Path
    key: Key
    opening: Opening
    proof: bytes
    ways: tuple[str, ...]

    @property
    def me(self) -> PeerId:
        """The peer's id."""
        return self.key.peer

    @property
    def network(self) -> str:
        """The network's id."""
        return self.opening.founding.network


def make(folder: Path, settings: PeerSettings, network: str) -> Home:
    """Make the folder of the first peer of a new network.

    Args:
        folder: must not hold a peer yet.
        settings: kept in ``peer.toml``.
        network: its name.

    Raises:
        ConfigError: there is a peer or the rest of one in it, or the name is not fit.
    """
    _check_free(folder)
    key = Key.fresh()
    proof = found(network, key, time.time()).encode()
    return _written(folder, key, proof, (), settings)


def join(folder: Path, settings: PeerSettings, invite: Invite) -> Home:
    """Make the folder of a peer that comes with ``invite``.

    Raises:
        ConfigError: there is a peer in it already, or the invite has expired.
    """
    _check_free(folder)
    key = Key.fresh()
    proof = open_with(invite, key, time.time())
    return _written(folder, key, proof, invite.addresses, settings)


def _check_free(folder: Path) -> None:
    if (folder / KEY).exists():
        raise ConfigError(
            f"{folder} holds a peer already: choose another folder with --home, or "
            "remove it with `fedcore peer forget`"
        )
    if is_rest(folder):
        raise ConfigError(f"{folder} {REST}")


def is_rest(folder: Path) -> bool:
    """Return whether ``folder`` holds what a peer without a key has left."""
    return (folder / STATE).exists() and not (folder / KEY).exists()


def give_up(folder: Path) -> None:
    """Delete the peer's key: nobody is this peer from now on."""
    RealDisk(folder).remove(KEY)


def _written(
    folder: Path,
    key: Key,
    proof: bytes,
    ways: Sequence[str],
    settings: PeerSettings,
) -> Home:
    disk = RealDisk(folder)
    disk.replace(OPENING, proof)
    disk.replace(WAYS, "".join(f"{way}\n" for way in ways).encode())
    disk.replace(FILE, as_toml(settings).encode())
    disk.replace(FRESH, b"")
    save_key(folder / KEY, key)  # last: a folder without it holds no peer yet
    return load(folder)


def check(folder: Path) -> None:
    """Raise ConfigError unless there is a peer in ``folder``."""
    if is_rest(folder):
        raise ConfigError(f"{folder} {REST}")
    if not (folder / KEY).exists():
        raise ConfigError(
            f"no peer in {folder}: make one with `fedcore peer init NAME` (a new "
            "network) or `fedcore peer join INVITE`, or point to it with --home"
        )


def load(folder: Path) -> Home:
    """Return the peer in ``folder``.

    Raises:
        ConfigError: there is none, or its files do not belong together.
        StorageError: they cannot be read.
    """
    check(folder)
    key, disk = load_key(folder / KEY), RealDisk(folder)
    proof = disk.read(OPENING)
    opening = check_opening(proof, _network_of(proof))
    if opening.peer != key.peer:
        raise ConfigError(f"{folder}: the key and the proof of membership do not match")
    ways = disk.read(WAYS).decode().split()
    return Home(folder, key, opening, proof, tuple(ways))


def _network_of(proof: bytes) -> str:
    from fedcore.wire import Reader
    from p2p.identity.network import read_founding

    return read_founding(Reader(proof)).network


def is_fresh(home: Home) -> bool:
    """Return whether the key was made for this start and has never been used."""
    return (home.folder / FRESH).exists()


def no_longer_fresh(home: Home) -> None:
    """Remember that the key is in use from now on."""
    RealDisk(home.folder).remove(FRESH)


def relay_key(folder: Path) -> Key:
    """Return the key of the relay in ``folder``, made at the first call."""
    path = folder / KEY
    if not path.exists():
        RealDisk(folder).replace(FRESH, b"")  # makes the folder, private
        save_key(path, Key.fresh())
    return load_key(path)


def with_ports(home: Home, settings: PeerSettings) -> PeerSettings:
    """Return ``settings`` with the ports that this peer had before, where free ones.

    The same ports at every start keep what routers and other peers remember. One that
    another program has taken meanwhile is given up.
    """
    path = home.folder / PORTS
    try:
        kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}); delete it") from error
    kept = {what: port for what, port in kept.items() if is_free(port)}
    listen, page, relay = settings.listen, settings.page, settings.relay
    return replace(
        settings,
        listen=replace(
            listen,
            control_port=listen.control_port or kept.get("control", 0),
            data_port=listen.data_port or kept.get("data", 0),
        ),
        page=replace(page, port=page.port or kept.get("page", 0)),
        relay=replace(relay, port=relay.port or kept.get("relay", 0)),
    )


def keep_ports(home: Home, ports: dict[str, int]) -> None:
    """Remember which ports were free."""
    RealDisk(home.folder).replace(PORTS, json.dumps(ports).encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make sure that only one node runs in ``folder``, while the block runs.

    Raises:
        ConfigError: another one does.
    """
    with (folder / LOCK).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"a node runs in {folder} already; see `fedcore peer status`"
            ) from None
        yield


def forget(folder: Path) -> None:
    """Delete the peer in ``folder``: key, membership, state and content.

    What is not ours stays, and the folder with it.

    Raises:
        ConfigError: there is none, or its node runs.
        StorageError: something could not be deleted.
    """
    if not (folder / KEY).exists() and not is_rest(folder):
        raise ConfigError(f"no peer in {folder}")
    with locked(folder), told(f"delete {folder}"):
        (folder / KEY).unlink(missing_ok=True)  # first: half a peer must not start
        shutil.rmtree(folder / SHELF, ignore_errors=True)
        # The state last: without a key it shows that there is a rest to delete.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == STATE):
            if _is_ours(path.name):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _is_ours(name: str) -> bool:
    """Return whether a file is one of a peer's, or the draft of one after a crash."""
    drafts = (STATE, f".{KEY}.")
    return name.removesuffix(TEMPORARY) in OURS or name.startswith(drafts)
