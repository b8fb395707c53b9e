"""A peer's certificate: its identity key, signed by itself, and nothing else.

It is a pure function of the key, with fixed dates, so that it needs no clock, never
expires and has one spelling; whoever knows the peer id can tell it from any other.
"""

import datetime
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import SEED_BYTES, SIGNATURE_BYTES, Key, peer_of

KEY_BYTES = 32
_NOBODY = Ed25519PrivateKey.from_private_bytes(bytes(SEED_BYTES))
_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_TO = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Credentials:
    """What a peer proves itself with on a channel.

    Attributes:
        peer: its name.
        certificate: what others pin, in DER; tell them before they connect.
        secret: the private key, in PEM.
    """

    peer: PeerId
    certificate: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, key: Key) -> "Credentials":
        """Return the credentials of ``key``; the same ones every time."""
        private = Ed25519PrivateKey.from_private_bytes(key.seed)
        made = _signed(private.public_key(), private)
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return cls(key.peer, made.public_bytes(serialization.Encoding.DER), pem)


def peer_of_certificate(certificate: bytes) -> PeerId:
    """Return whose certificate this is.

    Raises:
        ProtocolError: it is not exactly the certificate that some peer's key makes.
    """
    at = _key_at()
    public_bytes = certificate[at : at + KEY_BYTES]
    if len(public_bytes) != KEY_BYTES:
        raise ProtocolError(f"a certificate of {len(certificate)} bytes")
    public = Ed25519PublicKey.from_public_bytes(public_bytes)
    form = _signed(public, _NOBODY)
    whole = form.public_bytes(serialization.Encoding.DER)
    if certificate[:-SIGNATURE_BYTES] != whole[:-SIGNATURE_BYTES]:
        raise ProtocolError("a certificate with more, or less, than a peer's key in it")
    try:
        public.verify(certificate[-SIGNATURE_BYTES:], form.tbs_certificate_bytes)
    except InvalidSignature as error:
        raise ProtocolError("a certificate that its key did not sign") from error
    return peer_of(public_bytes)


@cache
def _key_at() -> int:
    """Return where the key is in every certificate: peer ids are equally long."""
    public = _NOBODY.public_key()
    whole = _signed(public, _NOBODY).public_bytes(serialization.Encoding.DER)
    return whole.index(public.public_bytes_raw())


def _signed(public: Ed25519PublicKey, signer: Ed25519PrivateKey) -> x509.Certificate:
    name = peer_of(public.public_bytes_raw())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .sign(signer, None)
    )
