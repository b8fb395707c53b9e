"""One Ed25519 key is a peer's name, its signature and its address.

A peer id is the public key in libp2p's form (the base58 of an identity multihash), so
that the id a transport has authenticated is the id that signatures are checked with.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, shown

SEED_BYTES = 32
SIGNATURE_BYTES = 64
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])  # identity, 36 bytes, Ed25519
_ID_CHARS = 52
_FIELD = (1 << 255) - 19
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_WEAK = {0, 1, _FIELD - 1, _FIELD, _FIELD + 1, _EIGHTH, _FIELD - _EIGHTH}


@dataclass(frozen=True)
class Key:
    """A private key. Its seed is never shown.

    Attributes:
        seed: 32 secret bytes.
    """

    seed: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> "Key":
        """Return a key of the machine's best randomness."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @cached_property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    @cached_property
    def peer(self) -> PeerId:
        """The name that goes with this key."""
        return peer_of(self.public)

    def sign(self, context: str, body: bytes) -> bytes:
        """Return the signature, 64 bytes, of ``body`` said in ``context``.

        A signature made for one context, such as "fedcore/head/1", never passes in
        another.
        """
        return self._private.sign(_said(context, body))

    @cached_property  # kept here, and nowhere else: it goes when its owner goes
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def verify(peer: PeerId, context: str, body: bytes, signature: bytes) -> bool:
    """Return whether ``peer`` signed ``body`` in ``context``; False if it is no id."""
    try:
        public = public_of(peer)
        if _is_weak(public):
            return False
        _public(public).verify(signature, _said(context, body))
    except (InvalidSignature, ProtocolError):
        return False
    return True


@lru_cache(maxsize=8192)
def peer_of(public: bytes) -> PeerId:
    """Return the peer id of a public key of 32 bytes."""
    number = int.from_bytes(_PREFIX + public, "big")
    letters = ""
    while number:
        number, digit = divmod(number, 58)
        letters = _ALPHABET[digit] + letters
    return "1" + letters  # the prefix begins with one zero byte


@lru_cache(maxsize=8192)
def public_of(peer: PeerId) -> bytes:
    """Return the public key, 32 bytes, of ``peer``.

    Raises:
        ProtocolError: ``peer`` is not the id of an Ed25519 key, in its one spelling.
    """
    number = 0
    if len(peer) == _ID_CHARS and set(peer) <= set(_ALPHABET):
        for letter in peer:
            number = number * 58 + _VALUES[letter]
    raw = number.to_bytes(max(38, (number.bit_length() + 7) // 8), "big")
    if raw[:6] != _PREFIX or len(raw) != 38 or peer_of(raw[6:]) != peer:
        raise ProtocolError(f"{shown(peer)} is not the id of an Ed25519 key")
    return raw[6:]


def _is_weak(public: bytes) -> bool:
    """Return whether anybody can sign for this key: its point has order 1, 2, 4 or 8.

    Nobody has such a key by chance. OpenSSL takes one, and then one signature fits
    many messages.
    """
    return int.from_bytes(public, "little") & (1 << 255) - 1 in _WEAK


def _said(context: str, body: bytes) -> bytes:
    """Return what is signed: the context, then a digest of the body."""
    return context.encode() + b"\0" + hashlib.sha256(body).digest()


@lru_cache(maxsize=4096)
def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)
