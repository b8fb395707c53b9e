"""The first bytes on a data connection: proof that signalling announced it.

Whoever dialled says magic, token and role; whoever was dialled answers with its own
once it has recognised the token, so strangers learn nothing. Several connections may
come about; the one that signalling made the dialler picks one with ``PICK`` and the
other confirms with ``TAKEN``. Then the socket belongs to the layer above.
"""

from fedcore.errors import ProtocolError

MAGIC = b"FCd1"
TOKEN_BYTES = 16
HELLO_BYTES = len(MAGIC) + TOKEN_BYTES + 1
PICK = b"P"
TAKEN = b"T"
_ROLES = (b"A", b"D")  # answers, dials


def hello(token: bytes, *, dialer: bool) -> bytes:
    """Return the first bytes of a side.

    Args:
        token: 16 bytes that signalling agreed on.
        dialer: whether this side is the one that picks.
    """
    return MAGIC + token + _ROLES[dialer]


def read_hello(data: bytes) -> tuple[bytes, bool]:
    """Return the token, and whether the other side says it is the dialler.

    Raises:
        ProtocolError: these are not the first bytes of a data connection.
    """
    token, role = data[len(MAGIC) : -1], data[-1:]
    if len(data) != HELLO_BYTES or data[: len(MAGIC)] != MAGIC or role not in _ROLES:
        raise ProtocolError("not the first bytes of a data connection")
    return token, role == _ROLES[True]
