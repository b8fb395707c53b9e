"""The addresses in an invite, packed: the long ids in them are written once.

How many keys (1 byte) and the keys (32 bytes each), in the order in which the addresses
first name them; how many addresses (1), and for each its size (1) and text, in which
``~N`` stands for the Nth id. ``~0`` is the invite's issuer and is not written.
"""

import re
from collections.abc import Sequence

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from fedcore.wire import Reader
from p2p.identity.address import MAX_ADDRESSES, check_address
from p2p.identity.keys import peer_of, public_of

_MAX_IDS = 32
_ID = re.compile(r"(?<=/p2p/)[^/]+")
_NTH = re.compile(r"(?<=/p2p/)~([0-9]{1,2})(?=/|$)")


def pack_places(issuer: PeerId, addresses: Sequence[str]) -> bytes:
    """Return ``addresses``, each good for ``check_address``, in few bytes.

    Raises:
        ProtocolError: there are too many, or they name too many peers.
    """
    found = [name for text in addresses for name in _ID.findall(text)]
    ids = [*dict.fromkeys([issuer, *found])]
    if len(addresses) > MAX_ADDRESSES or len(ids) > _MAX_IDS:
        raise ProtocolError(f"{len(addresses)} addresses that name {len(ids)} peers")
    texts = [_ID.sub(lambda m: f"~{ids.index(m[0])}", text) for text in addresses]
    rows = [bytes([len(text)]) + text.encode() for text in texts]
    keys = b"".join(map(public_of, ids[1:]))
    return bytes([len(ids) - 1]) + keys + bytes([len(rows)]) + b"".join(rows)


def read_places(reader: Reader, issuer: PeerId) -> tuple[str, ...]:
    """Read what ``pack_places`` wrote, to the end of the message.

    Raises:
        ProtocolError: it did not write this.
    """
    begin = reader.at
    ids = [issuer, *(peer_of(bytes(reader.take(32))) for _ in range(_count(reader)))]
    rows = [bytes(reader.take(reader.take(1)[0])) for _ in range(_count(reader))]
    texts = tuple(check_address(_unpacked(row, ids)) for row in rows)
    if reader.left() or pack_places(issuer, texts) != bytes(reader.data[begin:]):
        raise ProtocolError("addresses in a form that nobody writes")
    return texts


def _count(reader: Reader) -> int:
    return min(reader.take(1)[0], _MAX_IDS)  # what is cut off shows in the comparison


def _unpacked(row: bytes, ids: Sequence[PeerId]) -> str:
    def name(match: re.Match[str]) -> str:
        number = int(match[1])
        return ids[number] if number < len(ids) else match[0]

    return _NTH.sub(name, row.decode("ascii", "replace"))
