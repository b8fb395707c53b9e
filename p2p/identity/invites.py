"""An invite: one line of text that lets whoever holds it join a network.

The text is ``fed1:`` and base32 (RFC 4648, lower case, unpadded) of, in this order:
the size of the issuer's opening (2 bytes), the opening, the secret of the invite's key
(32), role (1), issued and expires (8 each), the issuer's signature (64), the addresses
(see ``p2p.identity.places``), and 4 bytes of SHA-256 of all that, which tell a slip in
copying from a forgery.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId, shown
from fedcore.wire import Reader
from p2p.identity.address import MAX_ADDRESSES, check_address
from p2p.identity.armour import armoured, opened
from p2p.identity.chain import GRANTED, Grant, add_grant, read_chain
from p2p.identity.keys import SEED_BYTES, SIGNATURE_BYTES, Key
from p2p.identity.network import whole_s
from p2p.identity.places import pack_places, read_places
from p2p.identity.rights import ROLES, Role

DAY_S = 86400
_TERMS_BYTES = 1 + 8 + 8 + SIGNATURE_BYTES


@dataclass(frozen=True)
class Invite:
    """What an invite says. Whoever knows its secret may use it.

    Attributes:
        name: of the network, for people.
        network: the network's id.
        id: the invite's own id, by which it can be revoked; it gives nothing away.
        issuer: who made it.
        role: of everyone who comes with it.
        issued_s: when, by the issuer's clock; seconds since 1970.
        expires_s: the last second at which it may be used.
        addresses: where some member can be reached; at most 8.
        grant: the chain of signatures from the founder to this invite.
        secret: the invite's key.
    """

    name: str
    network: str
    id: str
    issuer: PeerId
    role: Role
    issued_s: int
    expires_s: int
    addresses: tuple[str, ...]
    grant: bytes
    secret: Key = field(repr=False)


@dataclass(frozen=True)
class Terms:
    """What an invite shall grant.

    Attributes:
        role: of everyone who comes with it.
        lasts_s: how long it may be used, in seconds from now.
        addresses: where a member can be reached, best first; at most 8.
    """

    role: Role = "peer"
    lasts_s: float = 7 * DAY_S
    addresses: Sequence[str] = ()


def invite(
    opening: bytes, key: Key, terms: Terms, now_s: float, secret: Key | None = None
) -> str:
    """Return an invite: one line of text, for as many peers as shall come.

    Args:
        opening: the issuer's own.
        key: the issuer's.
        terms: what is granted.
        now_s: seconds since 1970.
        secret: a fresh key; random if None.

    Raises:
        ConfigError: the issuer may not invite, or a term cannot be granted.
    """
    secret = Key.fresh() if secret is None else secret
    try:
        granted = _granted(key, terms, now_s, secret)
        grant = add_grant(opening, key, granted)
        read_chain(grant)
        places = pack_places(key.peer, [check_address(a) for a in terms.addresses])
    except ProtocolError as error:
        raise ConfigError(f"no such invite can be made: {error}") from error
    terms_sent = grant[len(opening) + 1 + SEED_BYTES :]
    head = struct.pack(">H", len(opening)) + opening
    return armoured(head + secret.seed + terms_sent + places)


def _granted(key: Key, terms: Terms, now_s: float, secret: Key) -> Grant:
    if terms.role not in ROLES:
        known = ", ".join(ROLES)
        raise ConfigError(f"role {shown(terms.role)} is unknown: one of {known}")
    if len(terms.addresses) > MAX_ADDRESSES:
        raise ConfigError(f"{len(terms.addresses)} addresses: at most {MAX_ADDRESSES}")
    if terms.lasts_s <= 0:
        raise ConfigError(f"an invite must last longer than {terms.lasts_s:g} s")
    dates = whole_s(now_s), whole_s(now_s + terms.lasts_s)
    return Grant(secret.public.hex(), key.peer, terms.role, *dates)


def read_invite(text: str) -> Invite:
    """Return what an invite says, all its signatures checked.

    Raises:
        ConfigError: it is no invite, was copied badly, or is forged.
    """
    try:
        return _read(opened(text))
    except ProtocolError as error:
        raise ConfigError(f"this invite is forged, do not use it: {error}") from error


def _read(payload: bytes) -> Invite:
    reader = Reader(payload)
    opening = bytes(reader.take(struct.unpack(">H", reader.take(2))[0]))
    secret = Key(bytes(reader.take(SEED_BYTES)))
    signed_terms = bytes(reader.take(_TERMS_BYTES))
    grant = opening + bytes([GRANTED]) + secret.public + signed_terms
    chain = read_chain(grant)
    granted = chain.granted
    if granted is None:
        raise ProtocolError("it grants nothing")
    addresses = read_places(reader, granted.issuer)
    return Invite(
        chain.founding.name,
        chain.founding.network,
        granted.invite,
        granted.issuer,
        granted.role,
        granted.issued_s,
        granted.expires_s,
        addresses,
        grant,
        secret,
    )
