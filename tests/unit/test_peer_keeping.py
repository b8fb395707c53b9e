"""What is fetched unasked: one of each member, and what nobody has is put off."""

from types import SimpleNamespace

from clients.peer.keeping import AGAIN_S, LOOK, MOST, Keeping
from fedcore.errors import StorageError
from p2p.state.bodies import Checkpoint

ROOT = "0" * 64


def point(cid, run="run", version=0, size_bytes=1):
    return Checkpoint(run, version, cid, size_bytes, ROOT)


def chosen(keeping, now_s, listed, wanted=(), lacks=lambda cid: True):
    found = keeping.chosen(now_s, lambda: listed, wanted, lacks)
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


def test_a_long_list_is_gone_through_in_parts_and_then_again():
    listed = [(point(f"c{n}"), ("eve",)) for n in range(2 * LOOK)]
    looked, keeping = [], Keeping()

    def lacks(cid):
        looked.append(cid)
        return cid == f"c{2 * LOOK - 1}"

    assert chosen(keeping, 0.0, listed, (), lacks) == []
    assert len(looked) == LOOK
    assert chosen(keeping, 1.0, listed, (), lacks) == [(f"c{2 * LOOK - 1}", "eve")]
    chosen(keeping, 2.0, listed, (), lacks)
    assert looked[-1] == f"c{LOOK - 1}"  # from the start


MB = 1_000_000


class Lent:
    """A shelf of 100 MB with some blobs."""

    quota_bytes = 100 * MB

    def __init__(self, **sizes_mb):
        self.sizes = {cid: mb * MB for cid, mb in sizes_mb.items()}
        self.pinned = set()

    def blobs(self):
        return [
            SimpleNamespace(cid=c, size_bytes=n, pinned=c in self.pinned)
            for c, n in self.sizes.items()
        ]

    def total_bytes(self):
        return sum(self.sizes.values())


def going(shelf, new, by, listed, wanted=()):
    """Return what has to go for ``new``, once all of ``listed`` has been looked at."""
    keeping = Keeping()
    chosen(keeping, 0.0, listed, (), lambda cid: cid not in shelf.sizes)
    chosen(keeping, AGAIN_S, listed, (), lambda cid: cid not in shelf.sizes)
    try:
        return keeping.going(new, by, lambda: listed, wanted, shelf)
    except StorageError:
        return None


def test_what_is_huge_pushes_nobody_out():
    old = (point("old", size_bytes=60 * MB), ("bob",))
    huge = point("huge", size_bytes=41 * MB)
    assert going(Lent(old=60), huge, "eve", [old]) is None
    fits = point("fits", size_bytes=40 * MB)
    assert going(Lent(old=60), fits, "eve", [old]) == []


def test_one_member_takes_half_at_most():
    assert going(Lent(), point("a", size_bytes=50 * MB), "eve", []) == []
    assert going(Lent(), point("a", size_bytes=51 * MB), "eve", []) is None
    one = (point("one", run="other", size_bytes=30 * MB), ("eve",))
    assert going(Lent(one=30), point("b", size_bytes=21 * MB), "eve", [one]) is None
    assert going(Lent(one=30), point("b", size_bytes=21 * MB), "bob", [one]) == []


def test_what_is_under_way_counts_too():
    one = (point("one", size_bytes=45 * MB), ("eve",))
    two = point("two", size_bytes=6 * MB)
    assert going(Lent(), two, "eve", [one], ["one"]) is None
    assert going(Lent(), two, "eve", [one]) == []


def test_a_newer_version_replaces_older_ones_of_the_same_member():
    rows = [(point(f"v{n}", version=n, size_bytes=20 * MB), ("bob",)) for n in (0, 1)]
    new = point("v2", version=2, size_bytes=20 * MB)
    assert going(Lent(v0=20, v1=20), new, "bob", rows) == ["v0"]
    late = point("v", version=-1, size_bytes=20 * MB)
    assert going(Lent(v0=20, v1=20), late, "bob", rows) is None
    shared = [(row[0], ("bob", "cyd")) for row in rows]
    assert going(Lent(v0=20, v1=20), new, "bob", shared) is None


def test_what_others_list_or_the_owner_keeps_is_nobodys_older_version():
    """Whatever its id is listed as: a member may list content that is not its own."""
    taken = (point("bobs", run="mine", size_bytes=20 * MB), ("eve",))
    bobs = (point("bobs", run="other", size_bytes=20 * MB), ("bob",))
    huge = point("huge", run="mine", version=1, size_bytes=49 * MB)
    shelf = Lent(bobs=20, rest=45)
    assert going(shelf, huge, "eve", [taken]) == ["bobs"]  # nobody else wants it
    assert going(shelf, huge, "eve", [taken, bobs]) is None
    assert going(shelf, huge, "eve", [taken], ["bobs"]) is None  # it is being fetched
    shelf.pinned = {"bobs"}
    assert going(shelf, huge, "eve", [taken]) is None


def test_one_that_is_two_versions_makes_room_once():
    rows = [(point("a", version=n, size_bytes=20 * MB), ("eve",)) for n in (0, 1)]
    new = point("b", version=2, size_bytes=45 * MB)
    assert going(Lent(a=20, rest=60), new, "eve", rows) is None


def test_what_is_here_counts_as_long_as_it_is():
    """However small it is said to be."""
    tiny = (point("a", run="other", size_bytes=1), ("eve",))
    assert going(Lent(a=40), point("b", size_bytes=20 * MB), "eve", [tiny]) is None
