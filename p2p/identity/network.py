"""A network is named by the digest of one statement that its founder signed.

Statement: length of the name (1 byte), the name in UTF-8, the founder's public key
(32 bytes), a nonce (16), seconds since 1970 (8, big-endian). The network's id is its
SHA-256, so that nobody can found it again, or found another one with its id.
"""

import hashlib
import re
import secrets
import struct
from dataclasses import dataclass

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId, fault_of, shown
from fedcore.wire import Reader
from p2p.identity.keys import SIGNATURE_BYTES, Key, peer_of, public_of, verify

CONTEXT = "fedcore/founding/1"
NAME_BYTES = 64  # longest name, in UTF-8
NONCE_BYTES = 16
MAX_DATE_S = 1 << 40  # seconds since 1970
_FOUNDER = struct.Struct(f">32s{NONCE_BYTES}sQ")
_NETWORK = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Founding:
    """A founding statement and its signature; ``check_founding`` is the way to one.

    Attributes:
        name: what people call the network; any two networks may have the same.
        founder: the first member, an admin for ever.
        nonce: 16 random bytes.
        when_s: whole seconds since 1970, by the founder's clock.
        signature: the founder's, of the statement.
    """

    name: str
    founder: PeerId
    nonce: bytes
    when_s: int
    signature: bytes

    @property
    def statement(self) -> bytes:
        """What the founder signed."""
        name = self.name.encode()
        rest = _FOUNDER.pack(public_of(self.founder), self.nonce, self.when_s)
        return bytes([len(name)]) + name + rest

    @property
    def network(self) -> str:
        """The network's id: 64 hexadecimal digits."""
        return hashlib.sha256(self.statement).hexdigest()

    def encode(self) -> bytes:
        """Return the bytes that prove it: also the opening of the founder's log."""
        return self.statement + self.signature


def found(name: str, key: Key, now_s: float, nonce: bytes | None = None) -> Founding:
    """Found a network.

    Args:
        name: 1 to 64 bytes of printable text.
        key: of the founder.
        now_s: seconds since 1970.
        nonce: 16 bytes; random if None.

    Raises:
        ConfigError: the name is not fit.
    """
    wrong = _fault_of_name(name)
    if wrong:
        raise ConfigError(f"the network's name {wrong}; choose another")
    nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
    blank = Founding(name, key.peer, nonce, whole_s(now_s), b"")
    return check_founding(blank.statement + key.sign(CONTEXT, blank.statement))


def check_founding(data: bytes) -> Founding:
    """Return the founding that ``data`` is, all of it, and nothing but.

    Raises:
        ProtocolError: it is damaged, or was not signed by its founder.
    """
    reader = Reader(data)
    founding = read_founding(reader)
    if reader.left():
        raise ProtocolError(f"{reader.left()} bytes after a founding statement")
    return founding


def read_founding(reader: Reader) -> Founding:
    """Read a founding statement and its signature.

    Raises:
        ProtocolError: it is damaged, or was not signed by its founder.
    """
    name = _read_name(reader)
    public, nonce, when_s = _FOUNDER.unpack(reader.take(_FOUNDER.size))
    check_date(when_s)
    signature = bytes(reader.take(SIGNATURE_BYTES))
    founding = Founding(name, peer_of(public), nonce, when_s, signature)
    if not verify(founding.founder, CONTEXT, founding.statement, signature):
        raise ProtocolError(f"its founder did not sign network {shown(name)}")
    return founding


def check_network(network: str) -> str:
    """Return ``network`` if it has the form of a network's id.

    Raises:
        ProtocolError: it is not 64 hexadecimal digits in lower case.
    """
    if not _NETWORK.fullmatch(network):
        raise ProtocolError(f"{shown(network)} is not the id of a network")
    return network


def check_date(when_s: int) -> None:
    """Raise ProtocolError if no clock shows ``when_s``."""
    if when_s > MAX_DATE_S:
        raise ProtocolError(f"no date: {when_s} seconds since 1970")


def whole_s(now_s: float) -> int:
    """Return a clock's reading in whole seconds since 1970.

    Raises:
        ConfigError: the clock is before 1970, or absurdly late.
    """
    if not 0 <= now_s <= MAX_DATE_S:
        raise ConfigError(f"this machine's clock shows no date ({now_s:g}); set it")
    return int(now_s)


def _read_name(reader: Reader) -> str:
    size = reader.take(1)[0]
    try:
        name = bytes(reader.take(size)).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a network's name is not UTF-8: {error.reason}") from error
    wrong = _fault_of_name(name)
    if wrong:
        raise ProtocolError(f"a network's name {wrong}")
    return name


def _fault_of_name(name: str) -> str | None:
    wrong = fault_of(name)
    if wrong is None and len(name.encode()) > NAME_BYTES:
        wrong = f"has {len(name.encode())} bytes in UTF-8, not 1 to {NAME_BYTES}"
    return wrong
