"""Who was sent away, decided alike by everyone."""

import itertools
from dataclasses import replace

import pytest

from fedcore.errors import ProtocolError
from p2p.identity.keys import Key, peer_of
from p2p.identity.openings import check_opening
from p2p.identity.removals import (
    MAX_KEPT,
    Removal,
    Said,
    read_removal,
    removal_of,
    standing,
)
from p2p.state.chain import BODY_BYTES
from tests.identity_cases import ANN, BOB, EVE, FOUNDER, NET, ROOT, SECRET, joined

OTHER = Key(b"o" * 32)
THIRD = Key(b"t" * 32)


def opened(*args, **kwargs):
    return check_opening(joined(*args, **kwargs), NET)


ROOTED = check_opening(ROOT, NET)
ADMIN = joined(ANN, "admin")  # rank 1
ANNS = check_opening(ADMIN, NET)
RIVALS = opened(BOB, "admin", secret=OTHER)  # rank 1, by another invite
GUESTS = opened(EVE, "peer", ADMIN, ANN, OTHER)  # invited by ANN
LATES = opened(THIRD, "peer", ADMIN, ANN, OTHER)


def test_an_evicted_peer_is_out_and_its_earlier_words_stay():
    away = Removal("peer", EVE.peer, kept={EVE.peer: 7})
    found = standing([Said(ROOTED, 3, away)])
    assert found.why(GUESTS) == f"{EVE.peer} was evicted"
    assert (found.kept(GUESTS), found.kept(LATES)) == (7, None)
    assert found.why(LATES) is found.why(ANNS) is None


def test_a_revoked_invite_spares_whom_it_names():
    away = Removal("invite", OTHER.public.hex(), frozenset([EVE.peer]))
    found = standing([Said(ANNS, 1, away)])
    assert found.why(GUESTS) is None
    assert "was revoked" in found.why(LATES)
    assert found.kept(LATES) == 0


def test_guests_of_an_evicted_admin_stay_only_if_spared():
    away = Removal("peer", ANN.peer, frozenset([EVE.peer]), {ANN.peer: 4})
    found = standing([Said(ROOTED, 1, away)])
    assert found.why(GUESTS) is None
    assert (
        found.why(LATES) == f"{THIRD.peer} was invited by {ANN.peer}, which was evicted"
    )


@pytest.mark.parametrize("role", ["peer", "observer", "relay"])
def test_only_admins_remove(role):
    author = opened(BOB, role, secret=OTHER)
    found = standing([Said(author, 1, Removal("peer", EVE.peer))])
    assert found.why(GUESTS) is None


def test_nobody_removes_the_founder_or_an_admin_of_its_own_rank():
    away = [
        Said(ANNS, 1, Removal("peer", FOUNDER.peer)),
        Said(ANNS, 2, Removal("peer", BOB.peer)),
        Said(RIVALS, 1, Removal("peer", ANN.peer)),
        Said(RIVALS, 2, Removal("invite", SECRET.public.hex())),
        Said(ROOTED, 1, Removal("peer", FOUNDER.peer)),
    ]
    found = standing(away)
    assert {found.why(one) for one in (ROOTED, ANNS, RIVALS, GUESTS, LATES)} == {None}


def test_an_admin_removes_another_admins_guests():
    found = standing([Said(RIVALS, 1, Removal("peer", EVE.peer))])
    assert found.why(GUESTS) == f"{EVE.peer} was evicted"


def test_what_an_admin_said_before_it_was_evicted_still_counts():
    before = Said(ANNS, 3, Removal("peer", EVE.peer))
    after = Said(ANNS, 4, Removal("peer", THIRD.peer))
    names = frozenset([EVE.peer, THIRD.peer])
    away = Said(ROOTED, 1, Removal("peer", ANN.peer, names, {ANN.peer: 4}))
    found = standing([after, before, away])
    assert found.why(GUESTS) == f"{EVE.peer} was evicted"
    assert found.why(LATES) is None


def test_the_order_does_not_matter():
    said = [
        Said(
            ROOTED, 1, Removal("peer", ANN.peer, frozenset([EVE.peer]), {ANN.peer: 2})
        ),
        Said(ANNS, 1, Removal("peer", EVE.peer, kept={EVE.peer: 3})),
        Said(ANNS, 2, Removal("peer", THIRD.peer)),
        Said(RIVALS, 1, Removal("peer", EVE.peer, kept={EVE.peer: 5})),
    ]
    openings = (ROOTED, ANNS, RIVALS, GUESTS, LATES)
    found = {
        tuple((s.why(o), s.kept(o)) for o in openings)
        for order in itertools.permutations(said)
        for s in [standing([*order, *order[:2]])]
    }
    assert len(found) == 1
    assert found.pop()[3] == (f"{EVE.peer} was evicted", 3)


def test_a_removal_as_things_stand():
    everyone = [ROOTED, ANNS, RIVALS, GUESTS, LATES]
    lengths = {ANN.peer: 9, EVE.peer: 5, THIRD.peer: 6, BOB.peer: 2}
    mild = removal_of("peer", ANN.peer, everyone, lengths)
    assert mild == Removal(
        "peer", ANN.peer, frozenset([EVE.peer, THIRD.peer]), {ANN.peer: 9}
    )
    harsh = removal_of("peer", ANN.peer, everyone, lengths, spare=False)
    assert harsh.spared == frozenset()
    named = removal_of("peer", ANN.peer, everyone, lengths, spare=[BOB.peer])
    assert named.spared == frozenset([BOB.peer])
    assert harsh.kept == {ANN.peer: 9, EVE.peer: 5, THIRD.peer: 6}
    quiet = removal_of("invite", SECRET.public.hex(), everyone, lengths)
    assert (quiet.spared, quiet.kept) == (frozenset([ANN.peer]), {})


def test_a_removal_has_one_encoding():
    removal = Removal("peer", ANN.peer, frozenset([EVE.peer, BOB.peer]), {ANN.peer: 4})
    data = removal.encode()
    assert read_removal(data) == removal
    swapped = data[:37] + data[69:101] + data[37:69] + data[101:]
    twice = data[:37] + data[37:69] * 2 + data[101:]
    for bad in (b"", data + b"\0", data[:-1], b"\3" + data[1:], swapped, twice):
        with pytest.raises(ProtocolError):
            read_removal(bad)


def test_names_that_are_none_are_refused():
    for removal in (Removal("peer", "me"), Removal("invite", "00")):
        with pytest.raises(ProtocolError):
            removal.encode()


def test_one_with_thousands_of_logs_can_be_sent_away():
    writers = [peer_of(number.to_bytes(32, "big")) for number in range(4096)]
    logs = [replace(GUESTS, writer=writer) for writer in writers]
    lengths = {writer: number for number, writer in enumerate(writers)}
    away = removal_of("peer", EVE.peer, logs, lengths)
    assert len(away.encode()) <= BODY_BYTES
    assert away.kept == {writer: lengths[writer] for writer in writers[-MAX_KEPT:]}
    found = standing([Said(ROOTED, 1, away)])
    assert [found.kept(logs[n]) for n in (0, 4095)] == [0, 4095]
