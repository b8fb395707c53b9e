"""More logs than seats: who has one, on every replica alike; and room on disk."""

import random
from hashlib import sha256
from itertools import permutations

import pytest

from fedcore.errors import ConfigError
from p2p.identity.openings import open_subkey
from p2p.identity.removals import Said, read_removal
from p2p.state import seats
from p2p.state.bodies import Count
from p2p.state.chain import Kind, raw_of
from p2p.state.checking import check
from p2p.state.exchange import compared, news_for, reply_to, sync_of
from p2p.state.fold import Fold, said_in
from p2p.state.held import ENTRY_BYTES, News, Pen
from p2p.state.logs import Logs
from p2p.state.messages import decode, encode
from p2p.state.reference import fold as reference
from p2p.state.roots import Roots
from p2p.state.seats import judged
from p2p.state.store import MemoryLogStore
from tests.state_cases import NETWORK, OPENINGS, count, counts, logs, merge, plain
from tests.state_crowd import (
    FOUNDERS,
    begins,
    came,
    hears,
    invite_id,
    key_of,
    openings,
    removal,
    so_many,
)
from tests.state_world import FOUNDING, World

ROOT = (FOUNDERS, FOUNDING.encode())
CROWD = [came(f"eve {n}", "flood") for n in range(9)]
LATE = came("zoe", "other", after_s=90)


def writer(who):
    return who[0].writer


def out(*who, said=None, spoilt=()):
    return judged(openings(*who), said or {}, spoilt)[1]


def held_by(*who):
    found = logs()
    for one in who:
        begins(found, one)
    return found


def test_as_long_as_there_are_seats_everybody_has_one(monkeypatch):
    so_many(monkeypatch, 11)
    assert not out(ROOT, *CROWD, LATE)


def test_a_crowd_takes_seats_from_its_own_invite_only(monkeypatch):
    so_many(monkeypatch, 4)
    lost = out(ROOT, *CROWD, LATE, came("yan", "other"))
    assert lost == {writer(eve) for eve in CROWD} - {min(map(writer, CROWD))}


def test_within_an_invite_whoever_came_first_stays(monkeypatch):
    so_many(monkeypatch, 3)
    ages = [came(f"guest {n}", "party", after_s=9 - n) for n in range(4)]
    assert out(ROOT, *ages) == {writer(ages[0]), writer(ages[1])}


def test_one_peer_with_many_logs_pushes_out_nobody(monkeypatch):
    so_many(monkeypatch, 5)
    many = [CROWD[0]]
    for n in range(6):
        key = key_of(f"log {n}")
        opening = open_subkey(CROWD[0][1], CROWD[0][0].key, key, 1_700_000_000 + n)
        many.append((Pen(key, OPENINGS(opening)), opening))
    assert out(ROOT, *many, *CROWD[1:3]) == {writer(one) for one in many[2:]}


def test_guests_of_an_admin_share_what_is_its_own(monkeypatch):
    so_many(monkeypatch, 6)
    ann, bob = came("ann", "admins", "admin"), came("bob", "admins", "admin")
    guests = [came(f"guest {n}", "of ann", by="ann") for n in range(5)]
    quiet = came("quiet", "of bob", by="bob")
    lost = out(ROOT, ann, bob, *guests, quiet, LATE)
    assert len(lost) == 4
    assert lost < {writer(guest) for guest in guests}


def test_logs_of_which_nothing_counts_are_the_first_to_go(monkeypatch):
    so_many(monkeypatch, 4)
    held = held_by(ROOT, *CROWD[:3])
    gone = removal(held, "peer", CROWD[0][0].opening.peer)
    begins(held, ROOT, gone)
    begins(held, LATE)
    kept = {writer(one) for one in (ROOT, CROWD[1], CROWD[2], LATE)}
    assert held.by_writer.keys() == kept
    assert out(*CROWD[:5], spoilt={writer(CROWD[1])}) == {writer(CROWD[1])}


def test_removals_count_only_from_seats_of_admins(monkeypatch):
    so_many(monkeypatch, 3)
    monkeypatch.setattr(seats, "ADMIN_SEATS", 2)
    admins = [came(f"admin {n}", "many", "admin", after_s=n) for n in range(3)]
    held = held_by(CROWD[0])
    body = read_removal(removal(held, "peer", CROWD[0][0].opening.peer).body)
    for number, why in ((0, True), (1, True), (2, False)):
        pen = admins[number][0]
        said = {pen.writer: [Said(pen.opening, 1, body)]}
        cut, _ = judged(openings(*admins, CROWD[0]), said, ())
        assert (cut.why(CROWD[0][0].opening) is not None) == (why and number < 2)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_grouping_gives_the_same_state(monkeypatch, seed):
    so_many(monkeypatch, 6)
    draw = random.Random(seed)
    ann = came("ann", "admins", "admin")
    yan = came("yan", "other", after_s=draw.randint(0, 99))
    everybody = [*CROWD[:5], LATE, yan]
    everybody += [came(f"guest {n}", "of ann", by="ann") for n in range(3)]
    sources = []
    for who in everybody:
        source = held_by(ROOT, ann)
        begins(source, who, count(len(sources)))
        sources.append(source)
    last = held_by(ROOT, ann)
    guest = draw.choice([*CROWD, LATE])[0].opening.peer
    begins(last, draw.choice([ROOT, ann]), removal(held_by(*CROWD), "peer", guest))
    sources.append(last)
    roots = set()
    for _ in range(4):
        draw.shuffle(sources)
        parts = [held_by(ROOT) for _ in range(3)]
        for source in sources:
            hears(draw.choice(parts), source)
        whole = held_by(ROOT)
        for part in [*parts, *sources] * 2:  # what one had no seat for may have one now
            hears(whole, part, pieces_each=draw.randint(1, 9))
        roots.add(whole.root())
        assert len(whole.writers()) == 6
        assert plain(Fold(whole).view()) == reference(said_in(whole))
    assert len(roots) == 1


def test_sending_a_crowd_away_gives_the_seats_back(monkeypatch):
    so_many(monkeypatch, 5)
    honest = [came(f"guest {n}", "flood", after_s=50) for n in range(3)]
    held, theirs = held_by(ROOT, *honest), held_by(ROOT, *honest)
    for eve in CROWD:
        begins(held, eve)
    assert not {writer(one) for one in honest} & held.by_writer.keys()
    spared = removal(theirs, "invite", invite_id("flood"))
    begins(held, ROOT, spared)
    hears(held, theirs)
    assert {writer(one) for one in honest} < held.by_writer.keys()
    members = Fold(held).view().members
    assert all(members[one[0].opening.peer].status == "in" for one in honest)


def test_what_is_let_go_counts_no_more_and_leaves_nothing_behind(monkeypatch):
    so_many(monkeypatch, 2)
    held = logs()
    fold = Fold(held)
    begins(held, ROOT)
    begins(held, max(CROWD[:3], key=writer), count(5))
    assert fold.view().counters["c"].total == 5
    first = min(CROWD[:3], key=writer)
    for new in begins(held, first, count(7)):
        fold.take(new.opening, new.before.length, new.rows)
    assert fold.view().counters["c"].total == 7
    assert held.root() == held_by_entries(first, count(7)).root()
    assert held.store.load().keys() == {writer(ROOT), writer(first)}
    assert held.held_bytes == sum(log.disk_bytes for log in held.by_writer.values())


def held_by_entries(who, *entries):
    found = held_by(ROOT)
    begins(found, who, *entries)
    return found


def test_who_was_turned_away_is_not_asked_for_again_until_an_admin_speaks(monkeypatch):
    so_many(monkeypatch, 2)
    first, late = sorted(CROWD[:2], key=writer)
    held = held_by(ROOT, first, late)
    assert not held.takes(writer(late))
    begins(held, ROOT, removal(held, "peer", first[0].opening.peer))
    assert held.takes(writer(late))


@pytest.mark.parametrize("proved", [False, True])
def test_one_of_two_openings_that_had_no_seat_does_not_bar_the_other(
    monkeypatch, proved
):
    so_many(monkeypatch, 3)
    guests = [came(f"guest {n}", "party", after_s=n) for n in (1, 2)]
    early, late = (came("two-faced", "party", after_s=s) for s in (0, 9))
    one, other = held_by(ROOT, guests[0], early), held_by(ROOT, *guests, late)
    assert not other.takes(writer(late))
    if proved:
        other, twin = held_by(ROOT, *guests), held_by(late)
        fork = one.fork(writer(late), 1, twin.branch(writer(late), 1))
        assert not other.freeze(fork, ours=False)
    answer = news_for(one, compared(one, one.writers(), {}).give)
    found = check(other, answer.segments)
    other.add(*(new for new in found if isinstance(new, News)))
    assert other.root() == one.root()


def test_our_own_log_stays_with_us_and_comes_back(monkeypatch):
    so_many(monkeypatch, 3)
    mine, crowd = LATE, [came(f"early {n}", "other") for n in range(3)]
    held = Logs(NETWORK, MemoryLogStore(), OPENINGS, [writer(mine)])
    fold = Fold(held)
    begins(held, ROOT)
    begins(held, mine, count(3))
    assert fold.view().counters["c"].total == 3
    for one in crowd:
        begins(held, one)
    assert writer(mine) not in held.writers()
    assert held.tip(writer(mine)).length == 2
    assert held.item(writer(mine)).length == 0
    assert not list(held.segments(writer(mine), 0))
    assert "c" not in fold.view().counters
    others = held_by(ROOT, *crowd)
    assert held.root() == others.root()
    held.store.commit()
    again = Logs(NETWORK, held.store.copy(), OPENINGS, [writer(mine)])
    assert again.tip(writer(mine)).length == 2
    assert again.root() == others.root()
    away = removal(others, "peer", crowd[0][0].opening.peer)
    begins(held, ROOT, away)
    assert writer(mine) in held.writers()
    assert fold.view().counters["c"].total == 3
    begins(others, ROOT, away)
    hears(others, held)
    assert held.root() == others.root()


def test_replicas_of_a_full_network_agree_and_who_has_no_seat_is_told(monkeypatch):
    so_many(monkeypatch, 3)
    world = World(4, 5)
    world.settle()
    heads = [set(node.replica.heads()) for node in world.nodes]
    [seated] = {frozenset(node.replica.logs.writers()) for node in world.nodes}
    assert len(seated) == 3
    assert [len(mine) for mine in heads].count(4) == 2
    for node in world.nodes:
        said = [(Kind.COUNT, Count("c", 1).encode())]
        if node.name in seated:
            world.write(node, said)
        else:
            with pytest.raises(ConfigError, match="the network is full"):
                node.replica.write(said)
            world.start(node)  # asked nobody yet, it knows that another has none either
            with pytest.raises(ConfigError, match="the network is full"):
                node.replica.write(said)
            assert len(node.replica.author.pens) == 1
    world.settle()
    assert world.nodes[0].replica.view.counters["c"].total == 3


def test_of_one_sent_away_no_more_is_taken_than_the_removal_keeps():
    held, longer = held_by(ROOT), held_by(ROOT)
    eve = CROWD[0]
    for found in (held, longer):
        begins(found, eve, *counts([1, 2]))
    away = removal(held, "peer", eve[0].opening.peer)
    begins(longer, eve, *counts([3, 4]))
    begins(held, ROOT, away)
    hears(held, longer)
    assert held.tip(writer(eve)).length == 3
    assert not held.takes(writer(eve))
    begins(longer, ROOT, away)  # it has more, and shows as little
    assert longer.tip(writer(eve)).length == 5
    assert longer.item(writer(eve)) == held.item(writer(eve))
    assert longer.root() == held.root()
    assert [piece.end for piece in longer.segments(writer(eve), 0)] == [5]
    late = logs()
    hears(late, longer)
    hears(late, longer)
    assert late.root() == held.root()


def test_a_removal_that_ceases_to_count_gives_back_all_that_was_held():
    ann, eve = came("ann", "admins", "admin"), CROWD[0]
    held = held_by(ROOT, ann)
    begins(held, eve, *counts([1, 2]))
    fold = Fold(held)
    early = removal(held_by(ROOT, ann), "peer", ann[0].opening.peer)
    begins(held, ann, removal(held_by(eve), "peer", eve[0].opening.peer))
    assert "c" not in fold.view().counters
    begins(held, ROOT, early)  # of Ann's log only the opening counts
    assert fold.view().counters["c"].total == 3
    assert held.item(writer(eve)).length == 3


def test_who_writes_much_cannot_keep_out_who_writes_little():
    much, little = CROWD[0], LATE
    source = held_by(ROOT)
    begins(source, much, *counts(range(300)))
    begins(source, little, count(1))
    quota = 4 * 20 * ENTRY_BYTES
    target = Logs(NETWORK, MemoryLogStore(), OPENINGS, quota_bytes=quota)
    for _ in range(4):
        hears(target, source, pieces_each=1)
    assert not target.takes(writer(much))
    assert target.tip(writer(much)).length == 256  # one piece too many, at most
    assert target.tip(writer(little)).length == 2
    begins(source, little, *counts(range(5)))
    hears(target, source)
    assert target.tip(writer(little)).length == 7


def test_admins_are_heard_when_there_is_room_for_no_other_long_log():
    eve, source = CROWD[0], held_by(ROOT)
    begins(source, ROOT, *counts(range(120)))
    begins(source, eve, *counts(range(120)))
    target = Logs(NETWORK, MemoryLogStore(), OPENINGS)
    hears(target, source)
    target.quota_bytes = 2 * target.held_bytes
    assert target.full
    begins(source, ROOT, removal(source, "peer", eve[0].opening.peer))
    hears(target, source)
    assert target.root() == source.root()
    assert target.standing.why(eve[0].opening)
    target.quota_bytes = target.held_bytes  # there is an end to that, too
    assert not target.takes(writer(ROOT))


def test_who_has_no_room_for_a_log_is_not_sent_it_again_and_again():
    source, target = held_by(ROOT), held_by(ROOT)
    for found in (source, target):
        begins(found, CROWD[0], *counts([1, 2]))
    shared = source.root()
    for found in (source, target):
        found.changes.pin(shared)
    begins(source, CROWD[0], *counts([3, 4]))
    sent = reply_to(source, sync_of(target, shared)).said.segments
    assert [piece.writer for piece in sent] == [writer(CROWD[0])]
    target.quota_bytes = target.held_bytes
    for since in (shared, None):
        asked = decode(encode(sync_of(target, since)))
        assert asked.since == since
        assert not reply_to(source, asked).said.segments
    assert not reply_to(target, sync_of(source, None)).want


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_the_root_is_the_hash_of_all_rows_in_order(order):
    found, rows = Roots("net"), {}
    for at in order:
        key = sha256(bytes([at])).digest()
        rows[key] = key + bytes([at + 1]).ljust(8, b"\0") + bytes(8) + key[::-1]
        found.put(key, 7, 0, bytes(32))
        found.put(key, at + 1, 0, key[::-1])
    assert (
        found.root() == sha256(b"net" + b"".join(map(rows.get, sorted(rows)))).digest()
    )
    gone = sorted(rows)[1]
    found.drop(gone)
    found.drop(gone)
    del rows[gone]
    assert (
        found.root() == sha256(b"net" + b"".join(map(rows.get, sorted(rows)))).digest()
    )


def test_a_fork_makes_work_in_the_measure_of_its_own_log():
    held, twin = held_by(ROOT), held_by(ROOT)
    eve, ben = CROWD[0], CROWD[1]
    for found in (held, twin):
        begins(found, ben, *counts([10, 20]))
        begins(found, eve, *counts([1]))
    fold = Fold(held)
    begins(held, eve, count(2))
    begins(twin, eve, count(3))
    assert fold.view().counters["c"].total == 33
    merge(held, twin)
    read, rows = [], held.store.rows
    held.store.rows = lambda name, *place: (read.append(name), rows(name, *place))[1]
    assert fold.view().counters["c"].total == 31
    assert set(read) == {writer(eve)}
    assert fold.turns == 2


def test_a_long_log_that_forks_is_never_read_whole():
    held, twin, eve = held_by(ROOT), held_by(ROOT), CROWD[0]
    begins(twin, eve, count(1))
    begins(held, eve, *counts(range(2, 600)))
    read, rows = [], held.store.rows
    held.store.rows = lambda *place: (read.append(rows(*place)), read[-1])[1]
    size_bytes = held.tip(writer(eve)).size_bytes
    merge(held, twin)
    assert max(map(len, read)) <= 256
    gone_bytes = sum(len(entry.body) for entry in counts(range(2, 600)))
    assert held.tip(writer(eve)).size_bytes == size_bytes - gone_bytes
    assert held.tip(writer(eve)).length == 1


def test_a_row_is_named_by_the_key_of_its_writer():
    held = held_by(ROOT)
    row = raw_of(writer(ROOT)) + (1).to_bytes(8, "little") + bytes(8)
    whole = sha256(NETWORK.encode() + row + held.tip(writer(ROOT)).link)
    assert held.root() == whole.digest()
