"""Every signed encoding, to the bit. They are promises to other programs."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2p.identity.armour import armoured
from p2p.identity.openings import open_subkey
from p2p.identity.removals import Removal
from p2p.members.card import About, Beat, chain_of, new_card
from p2p.members.gossip import Gossip
from p2p.members.hello import ANSWER, PROOF, Hello, Meeting, Preamble, Proof
from tests.identity_cases import (
    ANN,
    BOB,
    EVE,
    FOUNDER,
    FOUNDING,
    NET,
    NOW,
    ROOT,
    SECRET,
    WRITER,
    address,
    joined,
    text,
)

CHALLENGES = bytes(range(32)), bytes(range(32, 64))
LINKS = chain_of(b"seed")
ABOUT = About((address(ANN),), "1.2", "relay", True, True, 1, 2, 65535, 100, "ann's")
CARD = new_card(ANN, b"bootboot", 300, LINKS[0], ABOUT)
BEAT = Beat(CARD.id, 511, LINKS[511])
REMOVAL = Removal("peer", ANN.peer, frozenset([EVE.peer, BOB.peer]), {ANN.peer: 300})
REVOKED = Removal("invite", SECRET.public.hex())
PREAMBLE = Preamble("0.1.0")
MEETING = Meeting(NET, ANN.peer, BOB.peer, CHALLENGES[1])


def proof(kind):
    said = Proof(PREAMBLE, kind, CHALLENGES[0], b"bootboot", NOW, joined(ANN))
    return MEETING.signed(ANN, said)


MADE = {
    "founding": ROOT,
    "invite": text("observer", to=(address(FOUNDER), address(BOB))).encode(),
    "opening": joined(ANN),
    "opening of a second key": open_subkey(joined(ANN), ANN, WRITER, NOW + 1),
    "opening of an admin's guest": joined(
        BOB, "peer", joined(ANN, "admin"), ANN, secret=EVE
    ),
    "removal of a peer": REMOVAL.encode(),
    "removal of an invite": REVOKED.encode(),
    "hello": Hello(PREAMBLE, MEETING.badge(), CHALLENGES[0]).encode(),
    "answer": proof(ANSWER),
    "proof": proof(PROOF),
    "card": CARD.raw,
    "beat": BEAT.encode(),
    "gossip": Gossip(((CARD, BEAT),), (BEAT,), (b"wantedid",)).encode(),
}
GOLDEN = {
    "founding": (
        127,
        "4a95086b6c07e69f8af6e5574179717952d97318645b9a93a21fdcafd9305a01",
    ),
    "invite": (
        553,
        "f1ae0078005c8e63826967a5cc3f5c6a971759d04b430d18d3a9d69974c9f7cc",
    ),
    "opening": (
        409,
        "b86376b2be958309ef7eeb533624a8d1a30b2e341ba3827d028185d808320afd",
    ),
    "opening of a second key": (
        578,
        "65149ca6f934ccf6e0279fd696d75b9b7827700a8b100188b097b0b706783978",
    ),
    "opening of an admin's guest": (
        691,
        "ffa45103d61f149c727e3f317cd3bf6fe98cb20d5216acb1848d16e92b9884d7",
    ),
    "removal of a peer": (
        141,
        "15256f34533e683fa3ea93e95132f3ee39601fb8f0ad794d237d435459311fdb",
    ),
    "removal of an invite": (
        37,
        "5105e172f97fa9b834b2904abe787495ba5861335114c84eb1ad1acaf2d5fe48",
    ),
    "hello": (
        73,
        "5bc9f10a43c5e5b2d5d1a6819d00b98b582b7c3be4106f89b9eb81bd7b98d134",
    ),
    "answer": (
        529,
        "b3984aa65d7a4e97021c16ac4fc2eca386c30089c482f030820c5ffa47a31a28",
    ),
    "proof": (
        529,
        "e56881adc73ae50ba67761ae0df57ca63a4de3210c68d4b07b6522c676b26b6b",
    ),
    "card": (
        222,
        "b8f184e96e31486a52bea75296ba6ddca045a0b7dc8546b6cc4d250df5b40353",
    ),
    "beat": (
        26,
        "71f381a85b4ec1154e0befce43628fe411a1f01fccb67190da39235e8583abbd",
    ),
    "gossip": (
        279,
        "37058ed655708b146d9b08506229e9d865ce87de359a7fb4da5302daa7213d7f",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_the_bytes_are_fixed(name):
    data = MADE[name]
    assert (len(data), hashlib.sha256(data).hexdigest()) == GOLDEN[name]


def test_ids_are_fixed():
    assert FOUNDER.peer == "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
    assert NET == "06ec6619b25d7aae9b669d6c959a91fbe971125b149c7de049e954851853fe8d"
    assert FOUNDING.network == hashlib.sha256(ROOT[:-64]).hexdigest()
    assert CARD.id.hex() == "b8f184e96e31486a"


def test_a_founding_is_what_it_says_it_is():
    """Written by hand, as another program would."""
    statement = b"\x06digits" + FOUNDER.public + bytes(16) + NOW.to_bytes(8, "big")
    said = b"fedcore/founding/1\0" + hashlib.sha256(statement).digest()
    assert ROOT[:-64] == statement
    Ed25519PublicKey.from_public_bytes(FOUNDER.public).verify(ROOT[-64:], said)


def test_a_beat_is_what_it_says_it_is():
    link = BEAT.link
    for _ in range(511):
        link = hashlib.sha256(b"fedcore/beat/1\0" + link).digest()[:16]
    assert link == CARD.anchor
    assert BEAT.encode() == CARD.id + (511).to_bytes(2, "big") + BEAT.link


def test_armour_is_base32_with_four_bytes_of_sha256():
    assert armoured(b"hello") == "fed1:nbswy3dpftze3oq"
    assert hashlib.sha256(b"hello").digest()[:4].hex() == "2cf24dba"
