"""Who belongs to a network, proved by signatures alone."""

import pytest

from fedcore.errors import ConfigError, ProtocolError
from p2p.identity.chain import MAX_BYTES, Grant, add_accept, add_grant, add_subkey
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import Key, peer_of, verify
from p2p.identity.network import check_founding, found
from p2p.identity.openings import check_opening, open_subkey, open_with
from p2p.identity.rights import RIGHTS, ROLES, may
from tests.identity_cases import (
    ANN,
    BOB,
    DAY,
    EVE,
    FOUNDER,
    FOUNDING,
    NET,
    NOW,
    ROOT,
    SECRET,
    WRITER,
    joined,
    line_of,
    text,
)


def test_the_founders_opening_is_the_founding_itself():
    opening = check_opening(ROOT, NET)
    assert opening.peer == opening.writer == opening.issuer == FOUNDER.peer
    assert (opening.role, opening.invite, opening.depth) == ("admin", "", 0)
    assert (opening.when_s, opening.expires_s) == (NOW, None)
    assert opening.founding == FOUNDING == check_founding(ROOT)


def test_two_networks_of_one_name_and_founder_differ():
    assert (
        found("digits", FOUNDER, NOW).network != found("digits", FOUNDER, NOW).network
    )


@pytest.mark.parametrize("role", ROLES)
def test_an_opening_says_who_came_how(role):
    opening = check_opening(joined(ANN, role, now=NOW + 5), NET)
    assert opening.peer == opening.writer == ANN.peer
    assert (opening.role, opening.issuer) == (role, FOUNDER.peer)
    assert opening.invite == SECRET.public.hex()
    assert (opening.when_s, opening.expires_s) == (NOW + 5, NOW + DAY)


def test_one_invite_admits_many():
    invite = read_invite(text())
    peers = {check_opening(open_with(invite, k, NOW), NET).peer for k in (ANN, BOB)}
    assert peers == {ANN.peer, BOB.peer}


def test_a_chain_has_four_invites_at_most():
    line = line_of(4)
    deepest = check_opening(line[4][1], NET)
    assert [step.peer for step in deepest.lineage] == [key.peer for key, _ in line[1:]]
    with pytest.raises(ConfigError, match="more than 4 invites"):
        text("peer", line[4][1], line[4][0], secret=Key(b"x" * 32))


def test_the_longest_opening_fits():
    key = Key(b"l" * 32)
    founding = found("n" * 64, key, NOW)
    opening = founding.encode()
    for n in range(4):
        terms = Terms("admin", DAY)
        guest = Key(bytes([n + 90]) * 32)
        read = read_invite(invite(opening, key, terms, NOW))
        opening, key = open_with(read, guest, NOW), guest
    opening = open_subkey(opening, key, WRITER, NOW)
    assert check_opening(opening, founding.network).depth == 4
    assert len(opening) == 1482 <= MAX_BYTES


@pytest.mark.parametrize("role", ["peer", "observer", "relay"])
def test_only_admins_invite(role):
    with pytest.raises(ConfigError, match=f"its role is {role}"):
        text("peer", joined(ANN, role), ANN, secret=BOB)


def test_a_writer_of_its_own_belongs_to_the_same_member():
    opening = joined(ANN)
    second = check_opening(open_subkey(opening, ANN, WRITER, NOW + 9), NET)
    assert (second.peer, second.writer, second.when_s) == (
        ANN.peer,
        WRITER.peer,
        NOW + 9,
    )
    assert second.lineage == check_opening(opening, NET).lineage
    founders = check_opening(open_subkey(ROOT, FOUNDER, WRITER, NOW), NET)
    assert (founders.peer, founders.writer) == (FOUNDER.peer, WRITER.peer)


def test_nothing_follows_a_writers_key():
    second = open_subkey(joined(ANN, "admin"), ANN, WRITER, NOW)
    for longer in (
        add_subkey(second, ANN, EVE, NOW),
        add_grant(second, ANN, grant(ANN, BOB)),
    ):
        with pytest.raises(ProtocolError, match="goes on after a writer's key"):
            check_opening(longer, NET)


def test_nobody_gives_a_writer_to_somebody_else():
    with pytest.raises(ProtocolError, match=f"{ANN.peer} did not sign"):
        open_subkey(joined(ANN), EVE, WRITER, NOW)


def test_an_opening_of_another_network_is_refused():
    other = found("digits", FOUNDER, NOW, b"x" * 16)
    with pytest.raises(ProtocolError, match="another network"):
        check_opening(joined(ANN), other.network)


def test_an_invite_that_was_not_used_is_no_opening():
    with pytest.raises(ProtocolError, match="not yet used"):
        check_opening(read_invite(text()).grant, NET)


def test_who_does_not_know_the_secret_cannot_use_an_invite():
    grant = read_invite(text()).grant
    with pytest.raises(ProtocolError, match="fedcore/admission/1"):
        check_opening(add_accept(grant, EVE, EVE, NOW), NET)


def test_nobody_opens_for_somebody_else():
    """Both the invite's key and the peer's must sign."""
    invite = read_invite(text())
    mine = open_with(invite, EVE, NOW)
    theirs = mine.replace(EVE.public, ANN.public)
    with pytest.raises(ProtocolError, match="did not sign"):
        check_opening(theirs, NET)


def test_an_expired_invite_is_not_used():
    invite = read_invite(text())
    assert open_with(invite, ANN, NOW + DAY)
    with pytest.raises(ConfigError, match=r"expired on 2023-11-15 22:13 UTC.*22:14"):
        open_with(invite, ANN, NOW + DAY + 60)
    late = add_accept(invite.grant, invite.secret, ANN, NOW + DAY + 60)
    with pytest.raises(ProtocolError, match="60 s after it had expired"):
        check_opening(late, NET)


def test_nobody_is_invited_by_its_own_guests():
    ann = joined(ANN, "admin")
    with pytest.raises(ConfigError, match="was invited by its own guests"):
        open_with(read_invite(text("peer", ann, ANN, secret=BOB)), FOUNDER, NOW)


def test_garbage_is_refused():
    for data in (b"", ROOT[:-1], ROOT + b"\0", b"\xff" * 300, bytes(MAX_BYTES + 1)):
        with pytest.raises(ProtocolError):
            check_opening(data, NET)
    with pytest.raises(ProtocolError, match="not the id of a network"):
        check_opening(ROOT, NET.upper())


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "ü" * 33])
def test_a_network_needs_a_name_that_can_be_shown(name):
    with pytest.raises(ConfigError, match="network's name"):
        found(name, FOUNDER, NOW)


def test_a_clock_that_shows_no_date_is_named():
    with pytest.raises(ConfigError, match="shows no date"):
        found("digits", FOUNDER, -1.0)


def test_rights():
    assert {role for role in ROLES if may(role, "invite")} == {"admin"}
    assert {role for role in ROLES if may(role, "write")} == {"admin", "peer"}
    assert {role for role in ROLES if may(role, "read")} == set(ROLES) - {"relay"}
    assert RIGHTS["relay"] == {"relay"}


def grant(issuer, secret):
    return Grant(secret.public.hex(), issuer.peer, "peer", NOW, NOW + DAY)


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize(
    "low",
    [
        bytes(32),
        b"\1" + bytes(31),
        bytes.fromhex("ec" + "ff" * 30 + "7f"),
        bytes.fromhex("ed" + "ff" * 30 + "7f"),
        bytes.fromhex("ee" + "ff" * 30 + "7f"),
        bytes.fromhex(
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
        ),
        bytes.fromhex(
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
        ),
    ],
)
def test_keys_for_which_anybody_can_sign_sign_nothing(low, sign):
    """With R of the same kind and S = 0, one of eight messages would pass."""
    weak = low[:31] + bytes([low[31] | sign])
    bodies = [bytes([n]) for n in range(60)]
    for nonce in (b"\1" + bytes(31), bytes(32), weak):
        signature = nonce + bytes(32)
        assert not any(verify(peer_of(weak), "x", body, signature) for body in bodies)
