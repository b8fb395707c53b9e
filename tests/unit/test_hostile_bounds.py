"""What others say is remembered up to a bound; twins that never meet are noticed."""

import os
import random

from p2p.identity.keys import Key
from p2p.members.boots import Boots
from p2p.members.card import About, new_card
from p2p.members.own import TELL_AGAIN, Own
from p2p.state.chain import WRITERS, writer_of
from p2p.state.encoding import Item
from p2p.state.talks import Talks


def test_a_peer_that_tells_of_ever_more_logs_is_remembered_up_to_a_bound():
    talks = Talks(logs=None, rng=random.Random(1), timeout_s=1.0)
    talks.up("eve")
    for _ in range(3):
        rows = [Item(writer_of(os.urandom(32)), 1, bytes(16)) for _ in range(2000)]
        talks.want("eve", rows)
    assert len(talks._due["eve"]) == WRITERS
    assert rows[-1].writer in talks._due["eve"]  # the newest stay


def test_a_twin_is_noticed_by_an_old_card_that_it_tells_itself():
    key, boots = Key.fresh(), Boots()
    old, new = (new_card(key, boot * 8, 1, bytes(16), About()) for boot in (b"a", b"b"))
    assert boots.told(key.peer, [old], 0) == boots.told(key.peer, [new], 90) == []
    assert boots.told("somebody", [old], 200) == []  # hearsay may be late
    assert [note.kind for note in boots.told(key.peer, [old], 200)] == ["twin"]
    assert boots.told(key.peer, [old], 201) == []


def test_what_a_program_said_as_it_ended_makes_no_twin_of_its_successor():
    key, boots = Key.fresh(), Boots()
    old, new = (new_card(key, boot * 8, 1, bytes(16), About()) for boot in (b"a", b"b"))
    said = [
        (old, 0),
        (new, 90),
        (old, 92),
        (new, 95),
        (old, 104),
        (new, 105),
        (new, 200),
    ]
    assert [boots.told(key.peer, [card], now_s) for card, now_s in said] == [[]] * 7


def test_our_card_is_told_again_now_and_then():
    own = Own(Key.fresh(), About(), random.Random(1))
    card = own.card
    told = [own.beat(float(second)) for second in range(2 * TELL_AGAIN)]
    assert [n for n, again in enumerate(told, 1) if again] == [8, 16]
    assert own.card == card
