"""What two peers say at the door: three messages, each of one form only.

    hello    A asks:     preamble, 1, badge, challenge of A
    answer   B answers:  preamble, 2, challenge of B, B's proof
    proof    A asks:     preamble, 3, challenge of A, A's proof
    welcome  B answers:  4

A preamble is the oldest and the newest protocol spoken and the program's version. A
badge is a digest of the network's id, both peers and the challenge: who does not know
the network's id can neither make one nor learn the id from it. A proof is a boot nonce,
a clock reading, an opening, and a signature over all of this and the other's challenge,
so that nothing said once is worth anything the second time, or to a third peer.
"""

import hashlib
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, fault_of, shown
from fedcore.wire import Reader, text, varint
from p2p.identity.chain import MAX_BYTES
from p2p.identity.keys import SIGNATURE_BYTES, Key, public_of, verify
from p2p.identity.network import MAX_DATE_S

OLDEST, NEWEST = 1, 1  # protocols that this program speaks
HELLO, ANSWER, PROOF, WELCOME = 1, 2, 3, bytes([4])
CHALLENGE_BYTES = 32
BOOT_BYTES = 8
MAX_HELLO_BYTES = MAX_BYTES + 512
_BADGE_BYTES = 32
_PROGRAM_BYTES = 32
_MAX_PROTOCOL = 1 << 16
_CONTEXT = "fedcore/hello/1"


class VersionError(ProtocolError):
    """The other program speaks no protocol that this one knows."""


@dataclass(frozen=True)
class Preamble:
    """What every program can read of every other, however old or new.

    Attributes:
        program: its version, such as ``"0.1.0"``.
        oldest: the first protocol it speaks.
        newest: the last one.
    """

    program: str
    oldest: int = OLDEST
    newest: int = NEWEST

    def encode(self) -> bytes:
        return varint(self.oldest) + varint(self.newest) + text(self.program)


@dataclass(frozen=True)
class Hello:
    """The first message."""

    preamble: Preamble
    badge: bytes
    challenge: bytes

    def encode(self) -> bytes:
        return self.preamble.encode() + bytes([HELLO]) + self.badge + self.challenge


@dataclass(frozen=True)
class Proof:
    """Who speaks, and that it is now.

    Attributes:
        kind: ``ANSWER`` or ``PROOF``.
        challenge: of the speaker, for the other to sign, or that it has signed.
        boot: 8 random bytes of this start of the program.
        clock_s: what its clock shows, in seconds since 1970.
        opening: its opening, not yet checked.
        signature: of the speaker.
    """

    preamble: Preamble
    kind: int
    challenge: bytes
    boot: bytes
    clock_s: int
    opening: bytes
    signature: bytes = b""

    def encode(self) -> bytes:
        return self.unsigned() + self.signature

    def unsigned(self) -> bytes:
        size = varint(len(self.opening))
        clock = varint(self.clock_s)
        head = self.preamble.encode() + bytes([self.kind])
        return head + self.challenge + self.boot + clock + size + self.opening


@dataclass(frozen=True)
class Meeting:
    """What a proof is bound to.

    Attributes:
        network: the network's id.
        speaker: who proves.
        listener: to whom.
        challenge: the listener's.
    """

    network: str
    speaker: PeerId
    listener: PeerId
    challenge: bytes

    def badge(self) -> bytes:
        """Return what shows that the speaker knows the network's id."""
        return hashlib.sha256(b"fedcore/badge/1\0" + self._bytes()).digest()

    def signed(self, key: Key, proof: Proof) -> bytes:
        """Return ``proof`` of the owner of ``key``, signed, as bytes."""
        body = proof.unsigned()
        return body + key.sign(_CONTEXT, self._bytes() + body)

    def check(self, proof: Proof) -> None:
        """Raise ProtocolError unless the speaker signed ``proof`` in this meeting."""
        said = self._bytes() + proof.unsigned()
        if not verify(self.speaker, _CONTEXT, said, proof.signature):
            raise ProtocolError(f"{self.speaker} did not sign our challenge")

    def _bytes(self) -> bytes:
        names = public_of(self.speaker) + public_of(self.listener)
        return bytes.fromhex(self.network) + names + self.challenge


def read_hello(data: bytes) -> Hello | Proof:
    """Return the message that ``data`` is; its signature is not checked.

    Raises:
        VersionError: from a program so old or so new that we cannot understand it.
        ProtocolError: it is no such message, in its one form.
    """
    if len(data) > MAX_HELLO_BYTES:
        raise ProtocolError(f"a hello of {len(data)} bytes, above {MAX_HELLO_BYTES}")
    reader = Reader(data)
    preamble = _read_preamble(reader)
    kind = reader.take(1)[0]
    if kind not in (HELLO, ANSWER, PROOF):
        raise ProtocolError(f"unknown kind {kind} of hello")
    read = _read_first if kind == HELLO else _read_proof
    message = read(reader, preamble, kind)
    if message.encode() != data:
        raise ProtocolError("a hello in a form that nobody writes")
    return message


def _read_preamble(reader: Reader) -> Preamble:
    oldest, newest = reader.varint(_MAX_PROTOCOL), reader.varint(_MAX_PROTOCOL)
    program = reader.text(_PROGRAM_BYTES)
    if fault_of(program) or not oldest <= newest:
        raise ProtocolError(f"protocols {oldest} to {newest} of {shown(program)}")
    if oldest > NEWEST:
        raise VersionError(
            f"its program ({program}) is newer and speaks protocols {oldest} to "
            f"{newest}, ours only {OLDEST} to {NEWEST}: update this program"
        )
    if newest < OLDEST:
        raise VersionError(
            f"its program ({program}) is older and speaks protocols {oldest} to "
            f"{newest}, ours only {OLDEST} to {NEWEST}: that one must be updated"
        )
    return Preamble(program, oldest, newest)


def _read_first(reader: Reader, preamble: Preamble, _kind: int) -> Hello:
    badge = bytes(reader.take(_BADGE_BYTES))
    return Hello(preamble, badge, bytes(reader.take(CHALLENGE_BYTES)))


def _read_proof(reader: Reader, preamble: Preamble, kind: int) -> Proof:
    challenge = bytes(reader.take(CHALLENGE_BYTES))
    boot = bytes(reader.take(BOOT_BYTES))
    clock_s = reader.varint(MAX_DATE_S)
    opening = bytes(reader.take(reader.varint(MAX_BYTES)))
    signature = bytes(reader.take(SIGNATURE_BYTES))
    return Proof(preamble, kind, challenge, boot, clock_s, opening, signature)
