"""Signalling of data connections: one offer, one answer, two matching punches."""

import itertools
import random
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from fedcore.errors import ProtocolError
from p2p.machine import Answer, Answered, Ask, Asked, Failed, Refuse, Wake, Woken
from p2p.nat.addresses import Address, Candidate
from p2p.nat.berths import Berths, SpliceDesk
from p2p.nat.direct import BUSY, LIKELY_S, TOPIC, UNLIKELY_S, Direct
from p2p.nat.effects import Book, Here, NotOpened, Open, Opened, Punch, Relays, UpBy
from p2p.nat.grants import WANTED, Warden
from p2p.nat.kinds import Nat
from p2p.nat.offer import Offer, encode_offer
from p2p.nat.reach import Reach

RELAY = Address("45.33.1.9", 4004)


def here(last, nat=Nat.KEEPS):
    return Here((Candidate("observed", Address(f"45.33.1.{last}", 4001)),), (), nat)


def side(me, last, nat=Nat.KEEPS):
    rng, tickets = random.Random(last), itertools.count(100 * last)
    direct = Direct(me, b"cert " + me.encode(), Berths(tickets, rng), tickets, rng)
    direct.step(0.0, here(last, nat))
    return direct


def only(effects, kind):
    (found,) = [e for e in effects if isinstance(e, kind)]
    return found


def offered(direct, peer, ticket=7, **more):
    return only(direct.step(0.0, Open(peer, ticket, **more)), Ask)


def answered(direct, ask, sender, ticket=55):
    """Let ``direct`` answer; return the answer and its punch."""
    effects = direct.step(0.0, Asked(sender, TOPIC, ask.body, ticket))
    return only(effects, Answer), only(effects, Punch)


def test_both_sides_punch_with_one_token_and_opposite_roles():
    a, b = side("a", 1), side("b", 2)
    ask = offered(a, "b")
    answer, theirs = answered(b, ask, "a")
    ours = only(a.step(0.1, Answered("b", ask.ticket, answer.body)), Punch)
    assert ours.token == theirs.token
    assert (ours.dialer, theirs.dialer) == (True, False)
    assert (ours.certificate, theirs.certificate) == (b"cert b", b"cert a")
    assert [str(c.address) for c in ours.candidates] == ["45.33.1.2:4001"]
    assert [str(c.address) for c in theirs.candidates] == ["45.33.1.1:4001"]
    assert ours.ticket == 7


def test_when_offers_cross_the_one_of_the_smaller_name_stands():
    a, b = side("a", 1), side("b", 2)
    from_a, from_b = offered(a, "b"), offered(b, "a", 8)
    refusal = only(a.step(0.0, Asked("b", TOPIC, from_b.body, 1)), Refuse)
    answer, of_b = answered(b, from_a, "a")
    assert b.step(0.1, Failed("a", from_b.ticket, False, refusal.why)) == []
    of_a = only(a.step(0.1, Answered("b", from_a.ticket, answer.body)), Punch)
    assert of_a.token == of_b.token
    assert (of_a.ticket, of_b.ticket) == (7, 8)  # both orders are served


def test_a_refusal_ends_the_order():
    a = side("a", 1)
    ask = offered(a, "b")
    (end,) = a.step(0.1, Failed("b", ask.ticket, True, "gone"))
    assert end == NotOpened("b", 7, "gone")
    assert offered(a, "b", 9)  # and the next may begin


def test_one_connection_with_a_peer_is_opened_at_a_time():
    a, b = side("a", 1), side("b", 2)
    ask = offered(a, "b")
    assert a.step(0.0, Open("b", 9)) == [NotOpened("b", 9, BUSY)]
    answered(b, ask, "a")
    again = b.step(0.0, Asked("a", TOPIC, ask.body, 56))
    assert again == [Refuse(56, BUSY)]
    punch_ticket = b._punches["a"]
    b.step(1.0, Opened("a", punch_ticket, "direct (punched)"))
    answered(b, ask, "a", 57)


def test_nothing_is_opened_before_we_know_where_we_are():
    rng, tickets = random.Random(0), itertools.count()
    direct = Direct("a", b"c", Berths(tickets, rng), tickets, rng)
    (end,) = direct.step(0.0, Open("b", 1))
    assert "not known yet" in end.why


def test_a_false_answer_names_the_peer():
    a = side("a", 1)
    ask = offered(a, "b")
    other = encode_offer(Offer(b"?" * 16, b"c", ()))
    (end,) = a.step(0.1, Answered("b", ask.ticket, other))
    assert end.why == "b: an answer to another offer"
    ask = offered(a, "b")
    (end,) = a.step(0.1, Answered("b", ask.ticket, b"\xff" * 9))
    assert end.why.startswith("b: ")


def test_a_peer_cannot_make_us_dial_without_end():
    a = side("a", 1)
    rng = random.Random(5)
    for number in range(10):
        body = encode_offer(Offer(rng.randbytes(16), b"c", ()))
        punch = only(a.step(number, Asked("z", TOPIC, body, number)), Punch)
        a.step(number, NotOpened("z", punch.ticket, "no"))
    with pytest.raises(ProtocolError, match="z sent 10 offers within a minute"):
        a.step(11.0, Asked("z", TOPIC, body, 99))
    only(a.step(80.0, Asked("z", TOPIC, body, 99)), Punch)


def test_many_at_once_are_refused():
    a = side("a", 1)
    a.parallel = 2
    for number in range(2):
        body = encode_offer(Offer(bytes([number]) * 16, b"c", ()))
        a.step(0.0, Asked(f"p{number}", TOPIC, body, number))
    body = encode_offer(Offer(b"x" * 16, b"c", ()))
    assert a.step(0.0, Asked("p3", TOPIC, body, 9)) == [Refuse(9, "busy with others")]


def test_an_offer_that_breaks_the_rules_changes_nothing():
    a = side("a", 1)
    for body in (b"", b"\x00" * 30, bytes(5000)):
        with pytest.raises(ProtocolError):
            a.step(0.0, Asked("z", TOPIC, body, 1))
    assert not a._punches


def test_symmetric_peers_wait_less_for_a_direct_way():
    for nat, patience_s in [(Nat.KEEPS, LIKELY_S), (Nat.SYMMETRIC, UNLIKELY_S)]:
        a, b = side("a", 1, nat), side("b", 2)
        _, punch = answered(b, offered(a, "b"), "a")
        assert punch.patience_s == patience_s


def granted(direct, relay="r", address=RELAY):
    """Give ``direct`` leave at a relay."""
    (ask, *_) = direct.berths.step(0.0, Relays((relay,)))
    desk = SpliceDesk(Warden(b"s" * 32), (address,), lambda: 1e9)
    (answer,) = desk.step(0.0, Asked(direct.me, ask.topic, ask.body, 1))
    direct.berths.step(0.0, Answered(relay, ask.ticket, answer.body))


def test_both_sides_ask_the_same_relays():
    a, b = side("a", 1), side("b", 2)
    granted(a, "r1", RELAY)
    granted(b, "r1", RELAY)
    ask = offered(a, "b")
    answer, theirs = answered(b, ask, "a")
    ours = only(a.step(0.1, Answered("b", ask.ticket, answer.body)), Punch)
    assert ours.splices == theirs.splices
    assert [s.relay for s in ours.splices] == ["r1"]
    assert ours.splices[0].leave.token == ours.token


def test_an_upgrade_asks_no_relay():
    a, b = side("a", 1), side("b", 2)
    granted(a)
    granted(b)
    ask = offered(a, "b", direct_only=True)
    answer, theirs = answered(b, ask, "a")
    ours = only(a.step(0.1, Answered("b", ask.ticket, answer.body)), Punch)
    assert (ours.splices, theirs.splices) == ((), ())
    assert ours.upgrade
    assert theirs.upgrade


def test_both_sides_know_that_a_channel_is_to_be_beside_another():
    a, b = side("a", 1), side("b", 2)
    for beside in (True, False):
        ask = offered(a, "b", 7, direct_only=True, beside=beside)
        answer, theirs = answered(b, ask, "a")
        ours = only(a.step(0.1, Answered("b", ask.ticket, answer.body)), Punch)
        assert ours.beside is theirs.beside is beside
        a.step(0.2, Opened("b", 7, "direct (punched)"))
        b.step(0.2, Opened("a", theirs.ticket, "direct (punched)"))


def test_a_relay_inside_our_network_is_not_dialled_on_a_strangers_word():
    a, b = side("a", 1), side("b", 2)
    granted(a, "trap", Address("192.168.1.1", 4004))
    _, theirs = answered(b, offered(a, "b"), "a")
    assert theirs.splices == ()


@pytest.mark.parametrize("victim", [("127.0.0.1", 4004), ("45.33.1.9", 22)])
def test_not_even_a_relay_of_ours_names_services_of_the_system(victim):
    a, b = side("a", 1), side("b", 2)
    a.step(0.0, replace(here(1), interfaces=(ip_interface("45.33.1.1/24"),)))
    granted(a, "trap", Address(*victim))
    ask = offered(a, "b")
    answer, _ = answered(b, ask, "a")
    ours = only(a.step(0.1, Answered("b", ask.ticket, answer.body)), Punch)
    assert ours.splices == ()


def test_a_relay_of_ours_may_be_private():
    a, b = side("a", 1), side("b", 2)
    granted(a, "office", Address("10.1.2.3", 4004))
    ask = offered(a, "b")
    answer, _ = answered(b, ask, "a")
    ours = only(a.step(0.1, Answered("b", ask.ticket, answer.body)), Punch)
    assert [s.relay for s in ours.splices] == ["office"]


def test_leave_is_renewed_in_time_and_asked_for_again_after_a_refusal():
    berths = Berths(itertools.count(), random.Random(0))
    ask, *_ = berths.step(0.0, Relays(("r",)))
    note, wake = berths.step(1.0, Failed("r", ask.ticket, False, "not here"))
    assert note.kind == "no-splice"
    again, *_ = berths.step(wake.at_s, Woken())
    assert again.body == WANTED
    grant = SpliceDesk(Warden(b"s" * 32), (RELAY,), lambda: 1e9).step(
        0.0, Asked("a", again.topic, WANTED, 1)
    )
    (wake,) = berths.step(wake.at_s, Answered("r", again.ticket, grant[0].body))
    assert 1000 < wake.at_s < 3600
    assert berths.splices(b"t" * 16, 100.0)
    assert not berths.splices(b"t" * 16, 9999.0)
    berths.step(200.0, Relays(()))
    assert not berths.splices(b"t" * 16, 200.0)


def test_a_relay_that_does_not_know_its_address_is_offered_as_it_was_reached():
    berths, told = (
        Berths(itertools.count(), random.Random(0)),
        Address("10.0.0.5", 4002),
    )
    ask, *_ = berths.step(0.0, Relays(("r",), {"r": "45.33.1.7"}))
    desk = SpliceDesk(Warden(b"s" * 32), (told,), lambda: 1e9)
    (answer,) = desk.step(0.0, Asked("a", ask.topic, WANTED, 1))
    berths.step(0.0, Answered("r", ask.ticket, answer.body))
    (splice,) = berths.splices(b"t" * 16, 1.0)
    assert splice.address == Address("45.33.1.7", 4002)
    berths.step(2.0, Relays(("r",)))
    assert berths.splices(b"t" * 16, 3.0)[0].address == told


def test_a_question_in_other_words_is_refused():
    desk = SpliceDesk(Warden(b"s" * 32), (RELAY,), lambda: 1e9)
    with pytest.raises(ProtocolError, match="a asks"):
        desk.step(0.0, Asked("a", "/splice/1", b"", 1))


def test_the_whole_goes_from_a_book_to_a_channel():
    a, b = (
        Reach.of("a", b"ca", random.Random(1)),
        Reach.of("b", b"cb", random.Random(2)),
    )
    for reach, last in ((a, 1), (b, 2)):
        reach.step(0.0, here(last))
    a.step(0.0, Book("b", ("/ip4/45.33.1.2/tcp/1",)))
    effects = a.step(1.0, UpBy("b", "r"))
    ask = only([*effects, *a.step(1.0, Woken())], Ask)
    reply = b.step(1.0, Asked("a", TOPIC, ask.body, 5))
    answer = only(reply, Answer)
    punch = only(a.step(1.1, Answered("b", ask.ticket, answer.body)), Punch)
    a.step(1.2, Opened("b", punch.ticket, "direct (punched)"))
    assert a.words == {"b": "direct (punched)"}
    assert any(isinstance(e, Wake) for e in a.step(1.3, Woken()))
