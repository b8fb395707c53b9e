"""Who may use a splice relay: a chain of HMACs, checked without any table.

The relay makes ``key = HMAC(secret, owner, expiry)`` and gives it to the owner: a
*grant*. The owner makes ``HMAC(key, token)`` for one circuit and gives it to the
other peer: a *ticket*, worth nothing for another circuit. The relay can make both
anew from the ticket's open part, so strangers cost it one hash and no memory.

Over ``/splice/1`` a peer asks with one byte and is answered with a grant.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader, varint
from p2p.nat.addresses import Address, encode_address, read_address
from p2p.nat.hello import TOKEN_BYTES

TOPIC = "/splice/1"
WANTED = b"\x01"  # the whole question
MAGIC = b"FCs1"
PAIRED = b"="  # what a relay says when the other side is there
REFUSALS = {b"x": "ticket refused", b"f": "full", b"q": "quota used up"}
TAG_BYTES = 16
KEY_BYTES = 32
MAX_LIFETIME_S = 7 * 86_400
MAX_ADDRESSES = 4
_TICKET = struct.Struct(f">{TAG_BYTES}sQ{TOKEN_BYTES}s{KEY_BYTES}s")
TICKET_BYTES = _TICKET.size
KNOCK_BYTES = len(MAGIC) + 1 + TICKET_BYTES


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to open circuits at one relay.

    Attributes:
        owner: 16 bytes that stand for the peer at the relay.
        expires_s: by a clock that only the relay reads.
        lifetime_s: seconds from the answer on, for owners with other clocks.
        key: 32 secret bytes.
        addresses: where the relay listens for circuits.
    """

    owner: bytes
    expires_s: int
    lifetime_s: int
    key: bytes = field(repr=False)
    addresses: tuple[Address, ...]

    def ticket(self, token: bytes) -> "Ticket":
        """Return leave for the one circuit that ``token``, 16 bytes, names."""
        return Ticket(self.owner, self.expires_s, token, _mac(self.key, token))


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave for both ends of one circuit; see ``Grant``."""

    owner: bytes
    expires_s: int
    token: bytes
    proof: bytes = field(repr=False)


@dataclass(frozen=True)
class Warden:
    """Makes grants and checks tickets.

    Attributes:
        secret: 32 random bytes that only this relay knows.
        lifetime_s: how long a grant is good.
    """

    secret: bytes = field(repr=False)
    lifetime_s: int = 3600

    def grant(
        self, peer: PeerId, addresses: tuple[Address, ...], now_s: float
    ) -> Grant:
        """Return leave for ``peer`` from ``now_s`` on, by the relay's clock."""
        owner = hashlib.sha256(b"owner\0" + peer.encode()).digest()[:TAG_BYTES]
        expires_s = int(now_s) + self.lifetime_s
        key = self._key(owner, expires_s)
        return Grant(owner, expires_s, self.lifetime_s, key, addresses)

    def passes(self, ticket: Ticket, now_s: float) -> bool:
        """Return whether ``ticket`` comes from a grant of ours that is still good."""
        if ticket.expires_s <= now_s:
            return False
        proof = _mac(self._key(ticket.owner, ticket.expires_s), ticket.token)
        return hmac.compare_digest(proof, ticket.proof)

    def _key(self, owner: bytes, expires_s: int) -> bytes:
        return _mac(self.secret, owner + struct.pack(">Q", expires_s))


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"fedcore/splice/1\0" + body, "sha256")


def encode_grant(grant: Grant) -> bytes:
    """Return the answer of a relay that grants."""
    head = varint(grant.expires_s) + varint(grant.lifetime_s)
    places = b"".join(map(encode_address, grant.addresses))
    return grant.owner + head + grant.key + varint(len(grant.addresses)) + places


def read_grant(data: bytes) -> Grant:
    """Return the grant in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_grant`` writes.
    """
    reader = Reader(data)
    owner = bytes(reader.take(TAG_BYTES))
    expires_s, lifetime_s = reader.varint(), reader.varint(MAX_LIFETIME_S)
    key = bytes(reader.take(KEY_BYTES))
    count = reader.varint(MAX_ADDRESSES)
    addresses = tuple(read_address(reader) for _ in range(count))
    grant = Grant(owner, expires_s, lifetime_s, key, addresses)
    if encode_grant(grant) != data or not addresses or not lifetime_s:
        raise ProtocolError("not a grant in the one form that the encoder writes")
    return grant


def encode_ticket(ticket: Ticket) -> bytes:
    """Return ``TICKET_BYTES`` bytes."""
    return _TICKET.pack(ticket.owner, ticket.expires_s, ticket.token, ticket.proof)


def read_ticket(data: bytes | memoryview) -> Ticket:
    """Return the ticket in ``data``, which must have ``TICKET_BYTES`` bytes."""
    return Ticket(*_TICKET.unpack(data))


def knock(ticket: Ticket, *, dialer: bool) -> bytes:
    """Return the first bytes that a peer says to a relay."""
    return MAGIC + bytes([dialer]) + encode_ticket(ticket)


def read_knock(data: bytes) -> tuple[Ticket, bool]:
    """Return the ticket, and whether it is the dialler who knocks.

    Raises:
        ProtocolError: these are not the first bytes for a relay.
    """
    if len(data) != KNOCK_BYTES or data[:4] != MAGIC or data[4] > 1:
        raise ProtocolError("not the first bytes for a splice relay")
    return read_ticket(data[5:]), bool(data[4])
