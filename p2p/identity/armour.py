"""Bytes as one line of text that people copy, and whose slips are noticed."""

import base64
import binascii
import hashlib

from fedcore.errors import ConfigError
from fedcore.names import shown

PREFIX = "fed1:"
MAX_TEXT = 8192  # characters; the longest that can be made has fewer
_SUM_BYTES = 4


def armoured(payload: bytes) -> str:
    """Return ``fed1:`` and base32 of ``payload`` and 4 bytes of its SHA-256."""
    raw = payload + _sum(payload)
    return PREFIX + base64.b32encode(raw).decode().rstrip("=").lower()


def opened(text: str) -> bytes:
    """Return the payload of ``text``.

    All capital letters (as in a QR code), and blanks around it, do not matter.

    Raises:
        ConfigError: it is something else, or was not copied well.
    """
    line = text.strip() if len(text) <= MAX_TEXT else ""
    line = line.lower() if line.isupper() else line
    kind, colon, body = line.partition(":")
    if not colon or not kind.startswith("fed") or not kind[3:].isdecimal():
        raise ConfigError(f"{shown(text)} is no invite: one begins with {PREFIX}")
    if f"{kind}:" != PREFIX:
        raise ConfigError(f"a newer program made this invite ({kind}); update this one")
    raw = _decoded(body)
    payload, found = raw[:-_SUM_BYTES], raw[-_SUM_BYTES:]
    if found != _sum(payload) or armoured(payload) != line:
        raise ConfigError(
            f"this invite has a slip or a gap ({len(line)} characters were read); copy "
            "the whole line again"
        )
    return payload


def _decoded(body: str) -> bytes:
    try:
        return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError):  # ValueError: not even ASCII
        return b""  # its sum is wrong


def _sum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_SUM_BYTES]
