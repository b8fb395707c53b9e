"""What two peers tell each other before they open a data connection, as bytes.

Layout: a byte for the form, the token, the kind of NAT, a byte of flags, then counted:
candidates, the certificate, and the relays that would splice.
"""

from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import shown
from fedcore.wire import Reader, check_name, text, varint
from p2p.nat.addresses import (
    Candidate,
    encode_address,
    encode_candidate,
    read_address,
    read_candidate,
)
from p2p.nat.candidates import MOST
from p2p.nat.effects import Splice
from p2p.nat.grants import TICKET_BYTES, encode_ticket, read_ticket
from p2p.nat.hello import TOKEN_BYTES
from p2p.nat.kinds import Nat

FORM = 1
MAX_CERTIFICATE_BYTES = 2048
MAX_OFFER_BYTES = 4096
MOST_SPLICES = 3
_MAX_RELAY_BYTES = 256
_DIRECT_ONLY, _BESIDE = 1, 2  # flags


@dataclass(frozen=True, slots=True)
class Offer:
    """One side's half, of the one who asks and of the one who answers.

    Attributes:
        token: 16 bytes, chosen by the one who asks, repeated by the other.
        certificate: DER, at most 2 KiB; the channel checks it.
        candidates: where this side may be dialled; unchecked.
        nat: the kind of NAT this side believes it is behind.
        splices: relays that would join the two, with leave for this token.
        direct_only: this side wants nothing that goes through a relay.
        beside: this side wants one more channel, beside a direct one.
    """

    token: bytes
    certificate: bytes = field(repr=False)
    candidates: tuple[Candidate, ...]
    nat: Nat = Nat.UNKNOWN
    splices: tuple[Splice, ...] = ()
    direct_only: bool = False
    beside: bool = False


def encode_offer(offer: Offer) -> bytes:
    """Return the bytes of ``offer``."""
    flags = offer.direct_only * _DIRECT_ONLY | offer.beside * _BESIDE
    parts = [
        bytes([FORM]) + offer.token + bytes([offer.nat.value, flags]),
        varint(len(offer.candidates)),
        *map(encode_candidate, offer.candidates),
        varint(len(offer.certificate)) + offer.certificate,
        varint(len(offer.splices)),
        *map(_splice, offer.splices),
    ]
    return b"".join(parts)


def read_offer(data: bytes) -> Offer:
    """Return the offer in ``data``.

    Raises:
        ProtocolError: ``data`` is not what ``encode_offer`` writes, is too long, or
            has no certificate.
    """
    if len(data) > MAX_OFFER_BYTES:
        raise ProtocolError(f"an offer of {len(data)} bytes, above {MAX_OFFER_BYTES}")
    reader = Reader(data)
    form = reader.take(1)[0]
    if form != FORM:
        raise ProtocolError(f"an offer of form {form}; this program knows {FORM}")
    token = bytes(reader.take(TOKEN_BYTES))
    nat, flags = _nat(reader.take(1)[0]), reader.take(1)[0]
    candidates = tuple(read_candidate(reader) for _ in range(reader.varint(MOST)))
    certificate = bytes(reader.take(reader.varint(MAX_CERTIFICATE_BYTES)))
    splices = tuple(_read_splice(reader) for _ in range(reader.varint(MOST_SPLICES)))
    told = (bool(flags & _DIRECT_ONLY), bool(flags & _BESIDE))
    offer = Offer(token, certificate, candidates, nat, splices, *told)
    if not certificate or encode_offer(offer) != data:
        raise ProtocolError("not an offer in the one form that the encoder writes")
    return offer


def _nat(value: int) -> Nat:
    try:
        return Nat(value)
    except ValueError as error:
        raise ProtocolError(f"{shown(value)} is no kind of NAT") from error


def _splice(splice: Splice) -> bytes:
    place = encode_address(splice.address)
    return text(splice.relay) + place + encode_ticket(splice.leave)


def _read_splice(reader: Reader) -> Splice:
    relay = reader.text(_MAX_RELAY_BYTES)
    check_name(relay)
    address = read_address(reader)
    return Splice(relay, address, read_ticket(reader.take(TICKET_BYTES)))
