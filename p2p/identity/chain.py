"""The chain of signatures from a network's founder to one member.

    founding                         signed by the founder
    + grant:  1, invite key, role, issued, expires   signed by the member so far
    + accept: peer's key, when                        signed by the invite key, the peer
    + ... at most MAX_DEPTH pairs of grant and accept
    + subkey: 2, writer's key, when                   signed by the peer, the writer

Every signature covers every byte before it, so no part of a chain fits in another. A
chain that ends with an accept, a subkey or the founding is an *opening*; one that ends
with a grant is the public half of an *invite*. Keys are 32 bytes, dates 8 (big-endian
seconds since 1970), roles and the leading 1 and 2 one byte, signatures 64.
"""

import struct
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader
from p2p.identity.keys import SIGNATURE_BYTES, Key, peer_of, verify
from p2p.identity.network import Founding, check_date, read_founding, whole_s
from p2p.identity.rights import Role, code_of, may, role_of

MAX_DEPTH = 4  # invites between the founder and a member
MAX_BYTES = 2048  # of a chain; the longest has 1482
GRANTED, _SUBKEY = 1, 2
_GRANT = struct.Struct(">B32sBQQ")
_WHO = struct.Struct(">32sQ")
_GRANT_CONTEXT = "fedcore/invite/1"
_ADMIT_CONTEXT = "fedcore/admission/1"
_OPEN_CONTEXT = "fedcore/opening/1"
_SUBKEY_CONTEXT = "fedcore/subkey/1"
_WRITER_CONTEXT = "fedcore/writer/1"


@dataclass(frozen=True)
class Grant:
    """What an invite grants, and until when.

    Attributes:
        invite: the invite's id: its public key, 64 hexadecimal digits.
        issuer: the member that made it.
        role: of everyone who comes with it.
        issued_s: when, by the issuer's clock; seconds since 1970.
        expires_s: the last second at which it may be used.
    """

    invite: str
    issuer: PeerId
    role: Role
    issued_s: int
    expires_s: int


@dataclass(frozen=True)
class Admission:
    """One step of a lineage: ``peer`` came in with ``grant``, at ``when_s``."""

    peer: PeerId
    grant: Grant
    when_s: int


@dataclass(frozen=True)
class Chain:
    """A chain whose every signature has been checked.

    Attributes:
        founding: of the network it belongs to.
        lineage: everyone between the founder and this member, and the member last.
        writer: whose key signs the log; None after a grant.
        when_s: when the last part was added, by its owner's clock.
        granted: the grant at the end, if the chain is half an invite.
    """

    founding: Founding
    lineage: tuple[Admission, ...]
    writer: PeerId | None
    when_s: int
    granted: Grant | None = None

    @property
    def peer(self) -> PeerId:
        """The member at its end."""
        return self.lineage[-1].peer if self.lineage else self.founding.founder

    @property
    def role(self) -> Role:
        """The member's role."""
        return self.lineage[-1].grant.role if self.lineage else "admin"


def read_chain(data: bytes) -> Chain:
    """Return what ``data`` proves.

    Raises:
        ProtocolError: a signature is wrong, a role gives no right to invite, or the
            bytes are not exactly one chain.
    """
    if len(data) > MAX_BYTES:
        raise ProtocolError(f"an opening of {len(data)} bytes, above {MAX_BYTES}")
    reader = Reader(data)
    founding = read_founding(reader)
    chain = Chain(founding, (), founding.founder, founding.when_s)
    while reader.left():
        if chain.granted:
            chain = _read_accept(reader, chain, chain.granted)
        elif chain.writer != chain.peer:
            raise ProtocolError("an opening goes on after a writer's key")
        elif reader.data[reader.at] == GRANTED:
            chain = _read_grant(reader, chain)
        else:
            chain = _read_subkey(reader, chain)
    return chain


def add_grant(chain: bytes, key: Key, granted: Grant) -> bytes:
    """Return ``chain``, an opening of the owner of ``key``, with a grant added."""
    return _signed(chain + _packed(granted), (_GRANT_CONTEXT, key))


def add_accept(chain: bytes, invite: Key, key: Key, now_s: float) -> bytes:
    """Return ``chain``, which ends with a grant, with its use by ``key`` added."""
    body = chain + _WHO.pack(key.public, whole_s(now_s))
    return _signed(body, (_ADMIT_CONTEXT, invite), (_OPEN_CONTEXT, key))


def add_subkey(chain: bytes, key: Key, writer: Key, now_s: float) -> bytes:
    """Return ``chain``, an opening of ``key``, with a writer of its own added."""
    body = chain + bytes([_SUBKEY]) + _WHO.pack(writer.public, whole_s(now_s))
    return _signed(body, (_SUBKEY_CONTEXT, key), (_WRITER_CONTEXT, writer))


def _packed(granted: Grant) -> bytes:
    public, role = bytes.fromhex(granted.invite), code_of(granted.role)
    dates = (granted.issued_s, granted.expires_s)
    return _GRANT.pack(GRANTED, public, role, *dates)


def _signed(body: bytes, *signers: tuple[str, Key]) -> bytes:
    for context, key in signers:
        body += key.sign(context, body)
    return body


def _read_grant(reader: Reader, chain: Chain) -> Chain:
    _, public, role, issued_s, expires_s = _GRANT.unpack(reader.take(_GRANT.size))
    check_date(issued_s)
    check_date(expires_s)
    if len(chain.lineage) == MAX_DEPTH:
        raise ProtocolError(f"more than {MAX_DEPTH} invites, one after another")
    if not may(chain.role, "invite"):
        raise ProtocolError(f"{chain.peer} invites, though its role is {chain.role}")
    if issued_s > expires_s:
        raise ProtocolError("an invite that expired before it was made")
    granted = Grant(public.hex(), chain.peer, role_of(role), issued_s, expires_s)
    _check_signature(reader, chain.peer, _GRANT_CONTEXT)
    return Chain(chain.founding, chain.lineage, None, issued_s, granted)


def _read_accept(reader: Reader, chain: Chain, granted: Grant) -> Chain:
    public, when_s = _WHO.unpack(reader.take(_WHO.size))
    peer = peer_of(public)
    if when_s > granted.expires_s:
        raise ProtocolError(f"{peer} used an invite {_late(when_s, granted)}")
    if peer in (chain.founding.founder, *(step.peer for step in chain.lineage)):
        raise ProtocolError(f"{peer} was invited by its own guests")
    _check_signature(reader, peer_of(bytes.fromhex(granted.invite)), _ADMIT_CONTEXT)
    _check_signature(reader, peer, _OPEN_CONTEXT)
    lineage = (*chain.lineage, Admission(peer, granted, when_s))
    return Chain(chain.founding, lineage, peer, when_s)


def _late(when_s: int, granted: Grant) -> str:
    return f"{when_s - granted.expires_s} s after it had expired"


def _read_subkey(reader: Reader, chain: Chain) -> Chain:
    tag = reader.take(1)[0]
    if tag != _SUBKEY:
        raise ProtocolError(f"unknown part {tag} of an opening")
    public, when_s = _WHO.unpack(reader.take(_WHO.size))
    check_date(when_s)
    writer = peer_of(public)
    if writer == chain.peer:
        raise ProtocolError(f"{writer} is named as a second key of itself")
    _check_signature(reader, chain.peer, _SUBKEY_CONTEXT)
    _check_signature(reader, writer, _WRITER_CONTEXT)
    return Chain(chain.founding, chain.lineage, writer, when_s)


def _check_signature(reader: Reader, signer: PeerId, context: str) -> None:
    """Read a signature, which must be of everything before it."""
    body = bytes(reader.data[: reader.at])
    if not verify(signer, context, body, bytes(reader.take(SIGNATURE_BYTES))):
        raise ProtocolError(f"{signer} did not sign this, as {context} demands")
