"""Where peers can be reached, as text from others: multiaddrs with ``/p2p/`` ids."""

import re
from itertools import pairwise

from fedcore.errors import ProtocolError
from fedcore.names import shown
from p2p.identity.keys import public_of

MAX_CHARS = 256
MAX_ADDRESSES = 8  # that one peer may name
_FORM = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._:%+-]*)+")


def check_address(text: str) -> str:
    """Return ``text`` if it has the form of an address of some peer.

    Such as ``/ip4/192.0.2.1/tcp/4001/p2p/<peer id>``, or through a relay
    ``.../p2p/<relay's id>/p2p-circuit/p2p/<peer id>``. Whether anybody can be reached
    there, and which protocols there are, is for the transport to find out.

    Raises:
        ProtocolError: it is too long, has odd characters, or names no peer at its end.
    """
    if not 0 < len(text) <= MAX_CHARS or not _FORM.fullmatch(text):
        raise ProtocolError(f"{shown(text)} is not an address")
    parts = text.split("/")
    ids = [b for a, b in pairwise(parts) if a == "p2p"]
    if len(parts) < 3 or parts[-2] != "p2p":
        raise ProtocolError(f"address {shown(text)} does not end with /p2p/ and an id")
    for peer in ids:
        public_of(peer)
    return text
