"""How a member proves that it belongs, to anyone and with nobody's help.

An opening is the first entry of every writer's log. It is a chain of signatures (see
``p2p.identity.chain``) from the founder to the member, so checking it needs no state
and no network, only the network's id. The founder's opening is the founding itself.
"""

from dataclasses import dataclass
from functools import lru_cache

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId
from p2p.identity.chain import (
    Admission,
    Chain,
    add_accept,
    add_subkey,
    read_chain,
)
from p2p.identity.dates import shown_date
from p2p.identity.invites import Invite
from p2p.identity.keys import Key
from p2p.identity.network import Founding, check_network
from p2p.identity.rights import Role


@dataclass(frozen=True)
class Opening:
    """What an opening proves.

    Attributes:
        peer: the member.
        writer: the key that signs the log; not ``peer`` when it took a new one.
        role: what the member may do; see ``p2p.identity.rights``.
        invite: the id of the invite it came with; "" for the founder.
        issuer: who made that invite; the founder itself for the founder.
        when_s: seconds since 1970, by the member's clock, when this was signed.
        founding: of the network.
        lineage: everyone between the founder and the member, and the member last.
    """

    peer: PeerId
    writer: PeerId
    role: Role
    invite: str
    issuer: PeerId
    when_s: int
    founding: Founding
    lineage: tuple[Admission, ...]

    @property
    def expires_s(self) -> int | None:
        """The last second at which its invite may be used; None for the founder."""
        return self.lineage[-1].grant.expires_s if self.lineage else None

    @property
    def depth(self) -> int:
        """How many invites are between the founder and the member; 0 to 4."""
        return len(self.lineage)


@lru_cache(maxsize=1024)
def check_opening(data: bytes, network: str) -> Opening:
    """Return what ``data``, the opening of a log in ``network``, proves.

    It does not say that the member is still welcome, nor that it came in time: that
    is for those who know who was sent away, and what time it is.

    Raises:
        ProtocolError: it is damaged or forged, or belongs to another network.
    """
    chain = read_chain(data)
    if chain.founding.network != check_network(network):
        raise ProtocolError(f"{chain.peer} belongs to another network")
    return _opening(chain)


def open_with(invite: Invite, key: Key, now_s: float) -> bytes:
    """Return the opening of ``key``, which comes in with ``invite``.

    Args:
        invite: from ``read_invite``.
        key: of the new member; its writer is the same key.
        now_s: seconds since 1970.

    Raises:
        ConfigError: the invite has expired, or the key is already in its chain.
    """
    if now_s > invite.expires_s:
        raise ConfigError(
            f"this invite expired on {shown_date(invite.expires_s)}, and the clock "
            f"here shows {shown_date(now_s)}; ask for a new invite, or set the clock"
        )
    data = add_accept(invite.grant, invite.secret, key, now_s)
    try:
        check_opening(data, invite.network)
    except ProtocolError as error:
        raise ConfigError(
            f"this key cannot use this invite: {error}; use another key"
        ) from error
    return data


def open_subkey(opening: bytes, key: Key, writer: Key, now_s: float) -> bytes:
    """Return the opening of a second log, signed by ``writer``, of the same member.

    Args:
        opening: the member's own, as it came from ``open_with`` or ``found``.
        key: the member's key.
        writer: a fresh key, for this log only.
        now_s: seconds since 1970.

    Raises:
        ProtocolError: ``opening`` is not the opening of ``key``.
    """
    data = add_subkey(opening, key, writer, now_s)
    read_chain(data)
    return data


def _opening(chain: Chain) -> Opening:
    if chain.writer is None:
        raise ProtocolError("an invite, not yet used, is no opening")
    if chain.lineage:
        grant = chain.lineage[-1].grant
        invite, issuer = grant.invite, grant.issuer
    else:
        invite, issuer = "", chain.peer
    return Opening(
        chain.peer,
        chain.writer,
        chain.role,
        invite,
        issuer,
        chain.when_s,
        chain.founding,
        chain.lineage,
    )
