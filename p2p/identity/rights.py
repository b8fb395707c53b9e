"""What each role may do. The role comes with the invite, and never changes."""

from typing import Literal, get_args

from fedcore.errors import ProtocolError
from fedcore.names import shown

Role = Literal["admin", "peer", "observer", "relay"]
Act = Literal["invite", "revoke", "evict", "write", "read", "relay"]
ROLES: tuple[Role, ...] = get_args(Role)
RIGHTS: dict[Role, frozenset[Act]] = {
    "admin": frozenset({"invite", "revoke", "evict", "write", "read", "relay"}),
    "peer": frozenset({"write", "read", "relay"}),  # facts, checkpoints, scores, notes
    "observer": frozenset({"read"}),
    "relay": frozenset({"relay"}),  # carries what it cannot open
}


def may(role: Role, act: Act) -> bool:
    """Return whether a member with ``role`` may do ``act``."""
    return act in RIGHTS[role]


def code_of(role: Role) -> int:
    """Return the byte that stands for ``role``."""
    return ROLES.index(role)


def role_of(code: int) -> Role:
    """Return the role that a byte stands for.

    Raises:
        ProtocolError: there is no such role.
    """
    if code >= len(ROLES):
        raise ProtocolError(f"role {shown(code)} is unknown")
    return ROLES[code]
