"""One line of text that lets whoever holds it join."""

import re

import pytest

from fedcore.errors import ConfigError
from p2p.identity.armour import armoured, opened
from p2p.identity.invites import Terms, invite, read_invite
from p2p.identity.keys import Key
from p2p.identity.qr import svg_qr, terminal_qr
from tests.identity_cases import (
    ANN,
    BOB,
    DAY,
    FOUNDER,
    NET,
    NOW,
    ROOT,
    SECRET,
    address,
    joined,
    text,
)

CIRCUIT = f"{address(BOB)}/p2p-circuit/p2p/{FOUNDER.peer}"
PLACES = (address(FOUNDER), CIRCUIT, f"/dns/example.org/tcp/1/p2p/{BOB.peer}")


def test_an_invite_comes_back_as_it_was_made():
    found = read_invite(text("observer", to=PLACES))
    assert (found.name, found.network, found.role) == ("digits", NET, "observer")
    assert (found.issuer, found.addresses) == (FOUNDER.peer, PLACES)
    assert (found.issued_s, found.expires_s) == (NOW, NOW + DAY)
    assert (found.id, found.secret) == (SECRET.public.hex(), SECRET)


def test_it_is_one_short_line_that_survives_mail_and_capitals():
    line = text(to=PLACES[:2])
    assert re.fullmatch("fed1:[a-z2-7]+", line)
    assert len(line) < 600
    assert (
        read_invite(line.upper()) == read_invite(f"  {line}\r\n") == read_invite(line)
    )


def test_its_secret_is_not_shown():
    assert "115, 115" not in repr(read_invite(text()))
    assert SECRET.seed.hex() not in repr(read_invite(text()))
    assert "sss" not in repr(read_invite(text()))


def test_an_admins_invite_carries_the_admins_opening():
    line = text("peer", joined(ANN, "admin"), ANN, secret=BOB)
    assert read_invite(line).issuer == ANN.peer


def test_two_invites_differ():
    assert invite(ROOT, FOUNDER, Terms(), NOW) != invite(ROOT, FOUNDER, Terms(), NOW)


def test_every_slip_in_copying_is_told_from_a_forgery():
    line = text(to=PLACES)
    slips = [line[:at] + other(line[at]) + line[at + 1 :] for at in range(5, len(line))]
    slips += [line[:-1], line[:300], line[:5], line + "a", line[:50] + line[51:]]
    slips += [line.replace("a", "A"), line[:9] + " " + line[9:], line[:9] + "\u017f"]
    for slip in slips:
        with pytest.raises(ConfigError, match="slip or a gap"):
            read_invite(slip)


def other(letter):
    return "b" if letter == "a" else "a"


def test_a_forgery_is_named():
    payload = opened(text())
    for at in (10, len(ROOT) + 5, len(ROOT) + 40, len(payload) - 10):
        changed = bytearray(payload)
        changed[at] ^= 1
        with pytest.raises(ConfigError, match="forged"):
            read_invite(armoured(bytes(changed)))


@pytest.mark.parametrize("line", ["", "hello", "fed1", "http://x", "x" * 9000, "fed:a"])
def test_what_is_no_invite_is_named(line):
    with pytest.raises(ConfigError, match="is no invite: one begins with fed1:"):
        read_invite(line)


def test_an_invite_of_a_newer_program_says_to_update():
    with pytest.raises(ConfigError, match=r"newer program made this invite \(fed2\)"):
        read_invite("fed2:" + text()[5:])


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms("king"), "'king' is unknown"),
        (Terms("peer", 0.0), "last longer"),
        (Terms("peer", DAY, ["/ip4/192.0.2.1/tcp/1"]), "does not end with /p2p/"),
        (Terms("peer", DAY, ["here"]), "is not an address"),
        (Terms("peer", DAY, ["/ip4/1.2.3.4/tcp/1/p2p/Qm"]), "not the id"),
        (Terms("peer", DAY, [address(ANN)] * 9), "at most 8"),
        (Terms("peer", 1e15), "no date"),
    ],
)
def test_terms_that_cannot_be_granted_are_named(terms, words):
    with pytest.raises(ConfigError, match=words):
        invite(ROOT, FOUNDER, terms, NOW)


def test_nobody_invites_in_the_name_of_another():
    with pytest.raises(ConfigError, match=f"{FOUNDER.peer} did not sign"):
        invite(ROOT, ANN, Terms(), NOW)


def test_pictures_fit_a_terminal_and_a_page():
    line = text(to=PLACES[:2])
    rows = terminal_qr(line).splitlines()
    assert max(map(len, rows)) <= 80
    assert svg_qr(line).startswith("<svg")
    with pytest.raises(ConfigError, match="fewer addresses"):
        terminal_qr("fed1:" + "a" * 4300)


def test_a_key_is_secret_but_its_id_is_not():
    assert repr(Key(b"k" * 32)) == "Key()"
