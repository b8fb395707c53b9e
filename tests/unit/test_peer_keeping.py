"""What is fetched unasked: one of each member, and what nobody has is put off."""

from clients.peer.keeping import AGAIN_S, MOST, Keeping
from p2p.state.bodies import Checkpoint

ROOT = "0" * 64


def point(cid, run="run"):
    return Checkpoint(run, 0, cid, 1, ROOT)


def chosen(keeping, now_s, listed, wanted=(), lacks=lambda cid: True):
    found = keeping.chosen(now_s, listed, wanted, lacks)
    return [(point.cid, by) for point, by in found]


def test_a_list_of_one_member_keeps_nobody_from_the_others():
    keeping = Keeping()
    listed = [(point(f"junk{n}"), ("eve",)) for n in range(50)]
    listed += [(point("good"), ("bob",))]
    assert chosen(keeping, 0.0, listed) == [("junk0", "eve"), ("good", "bob")]
    assert chosen(keeping, 1.0, listed, ["junk0"]) == []


def test_one_who_vouches_for_what_is_good_takes_no_turn_of_it():
    keeping = Keeping()
    listed = [(point("junk"), ("eve",)), (point("good"), ("eve", "bob"))]
    assert chosen(keeping, 0.0, listed) == [("junk", "eve"), ("good", "bob")]


def test_what_failed_is_tried_again_but_later():
    keeping, listed = Keeping(), [(point("a"), ("bob",)), (point("b"), ("bob",))]
    assert chosen(keeping, 0.0, listed) == [("a", "bob")]
    assert chosen(keeping, 1.0, listed) == [("b", "bob")]
    assert chosen(keeping, 2.0, listed) == []
    assert chosen(keeping, AGAIN_S, listed) == [("a", "bob")]


def test_what_is_here_or_on_its_way_is_left_alone():
    keeping, listed = Keeping(), [(point(c), (c,)) for c in "abc"]
    found = chosen(keeping, 0.0, listed, ["a"], lambda cid: cid != "b")
    assert found == [("c", "c")]


def test_not_all_at_once():
    listed = [(point(f"c{n}"), (f"peer{n}",)) for n in range(3 * MOST)]
    assert len(chosen(Keeping(), 0.0, listed)) == MOST
