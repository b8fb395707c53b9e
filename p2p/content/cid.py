"""Content ids: the name of a blob is the hash of its manifest, so a name cannot lie.

An id is a CIDv1 in its usual text: base32, the codec *raw*, SHA-256; 59 characters
that begin with ``bafkrei``. Other tools read it. It has exactly one spelling here, and
no character that means something to a file system, so files are named by it.

Source: multiformats, "CID (Content IDentifier) specification", version 1.
"""

import base64
import hashlib
import re

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import shown

Cid = str

DIGEST_BYTES = 32
_PREFIX = bytes([0x01, 0x55, 0x12, 0x20])  # version 1, raw, SHA-256, 32 bytes
_SPELLING = re.compile("bafkrei[a-z2-7]{52}")


def cid_of(data: bytes) -> Cid:
    """Return the id of ``data``, which is the encoded manifest of a blob."""
    return cid_from(hashlib.sha256(data).digest())


def cid_from(digest: bytes) -> Cid:
    """Return the id with this SHA-256 of 32 bytes."""
    raw = base64.b32encode(_PREFIX + digest)
    return "b" + raw.decode().rstrip("=").lower()


def digest_of(cid: Cid) -> bytes:
    """Return the SHA-256, 32 bytes, in ``cid``.

    Raises:
        ProtocolError: ``cid`` is no content id, or not in its one spelling.
    """
    if type(cid) is not str or not _SPELLING.fullmatch(cid):
        raise ProtocolError(f"{shown(cid)} is not a content id")
    digest = base64.b32decode(cid[1:].upper() + "======")[len(_PREFIX) :]
    if cid_from(digest) != cid:  # two bits to spare in the last character
        raise ProtocolError(f"{shown(cid)} is not the one spelling of its content id")
    return digest


def asked_cid(text: str) -> Cid:
    """Return the id that a user typed, with blanks around it forgiven.

    Raises:
        ConfigError: it is no content id.
    """
    try:
        digest_of(text.strip())
    except ProtocolError as error:
        raise ConfigError(
            f"{error}; it has 59 characters and begins with bafkrei: copy it whole"
        ) from error
    return text.strip()
