"""When a log may be written: after restarts, from backups, and beside a copy."""

import pytest

from fedcore.errors import ConfigError, ProtocolError
from p2p.state import author
from p2p.state.bodies import Count, Presence
from p2p.state.chain import Entry, Kind
from tests.state_cases import plain
from tests.state_world import World


def said(name):
    return [(Kind.COUNT, Count(name, 1).encode())]


def counted(world):
    states = [plain(node.replica.view) for node in world.nodes]
    assert all(state == states[0] for state in states)
    return set(states[0].totals)


def logs_of(node):
    return [pen.writer for pen in node.replica.author.pens]


def test_a_new_peer_opens_its_log_at_once():
    world = World(1, 1)
    [node] = world.nodes
    assert node.replica.ready
    assert node.replica.heads()[node.name][0] == 1


def test_after_a_restart_a_log_goes_on_once_peers_were_asked():
    world = World(2, 3)
    world.write(world.nodes[0], said("before"))
    world.settle()
    node = world.nodes[0]
    world.crash(node)
    world.start(node)
    assert not node.replica.ready
    world.run(world.now_s + 3)
    assert node.replica.ready
    world.write(node, said("after"))
    world.settle()
    assert logs_of(node) == [node.name]
    assert node.replica.heads()[node.name][0] == 3
    assert counted(world) == {"before", "after"}


def test_who_must_write_before_that_begins_another_log():
    world = World(3, 3)
    world.settle()
    node = world.nodes[1]
    world.crash(node)
    world.start(node)
    world.write(node, said("at once"))
    assert len(logs_of(node)) == 2
    world.settle()
    assert counted(world) == {"at once"}
    member = world.nodes[0].replica.view.members[node.name]
    assert set(member.writers) == set(logs_of(node))


def test_all_alone_after_a_restart_too():
    world = World(4, 1)
    [node] = world.nodes
    world.write(node, said("one"))
    world.crash(node)
    world.start(node)
    world.run(world.now_s + 60)
    assert not node.replica.ready
    world.write(node, said("two"))
    assert counted(world) == {"one", "two"}
    assert len(logs_of(node)) == 2


def test_a_further_log_is_found_again_after_a_restart():
    world = World(5, 3)
    node = world.nodes[1]
    world.crash(node)
    world.start(node)
    world.write(node, said("one"))
    world.settle()
    world.crash(node)
    world.start(node)
    world.run(world.now_s + 3)
    world.write(node, said("two"))
    world.settle()
    assert len(logs_of(node)) == 2
    assert counted(world) == {"one", "two"}


def test_an_old_backup_adopts_what_peers_know():
    world = World(6, 4)
    node = world.nodes[2]
    world.settle()
    old = node.store.copy()
    world.write(node, said("after the backup"))
    world.settle()
    world.crash(node)
    node.store = old
    world.start(node)
    world.run(world.now_s + 3)
    world.write(node, said("now"))
    world.settle()
    assert counted(world) == {"after the backup", "now"}
    assert logs_of(node) == [node.name]
    assert not world.nodes[0].replica.logs.by_writer[node.name].fork


def test_a_lost_disk_adopts_all_of_its_log():
    world = World(7, 3)
    node = world.nodes[1]
    world.write(node, said("before"))
    world.settle()
    world.crash(node)
    node.store = type(node.store)()
    world.start(node)
    world.run(world.now_s + 3)
    world.write(node, said("after"))
    world.settle()
    assert counted(world) == {"before", "after"}
    assert logs_of(node) == [node.name]


def test_two_copies_of_a_disk_lose_nothing_and_end_with_logs_of_their_own():
    world = World(8, 4)
    world.settle()
    node = world.nodes[1]
    twin = world.node(1, node.store.copy())
    world.nodes.append(twin)
    world.start(twin)
    world.run(world.now_s + 3)
    for name in ("a", "b"):
        world.write(node, said(f"node {name}"))
        world.write(twin, said(f"twin {name}"))
    world.settle()
    assert counted(world) == {"node a", "node b", "twin a", "twin b"}
    fork = world.nodes[0].replica.logs.by_writer[node.name].fork
    assert fork.position == 2
    assert len(logs_of(node)) == len(logs_of(twin)) == 2
    assert set(logs_of(node)) != set(logs_of(twin))
    notes = [note for other in world.nodes for note in other.notes]
    assert {note.kind for note in notes} == {"fork"}


def test_what_three_copies_say_again_counts_once():
    world = World(12, 5)
    world.settle()
    node = world.nodes[1]
    copies = [world.node(1, node.store.copy()) for _ in range(2)]
    late, twin = copies
    world.nodes.append(twin)
    world.start(twin)
    world.settle()
    world.write(node, said("both have this"))  # the twin adopts it, as it is its own
    world.settle()
    assert twin.replica.heads()[node.name][0] == 2
    world.nodes.append(late)
    world.start(late)
    late.replica.author.safe.add(node.name)  # as if it had asked before
    world.write(late, said("from a copy of the past"))
    world.settle()
    assert world.nodes[0].replica.logs.by_writer[node.name].fork.position == 2
    totals = plain(world.nodes[0].replica.view).totals
    assert totals == {"both have this": 1, "from a copy of the past": 1}
    both = [one.replica.view.members[node.name].writers for one in world.nodes]
    assert len(both[0]) == 4  # the frozen log, and one of each copy


def test_what_was_cut_off_is_said_again_even_after_a_crash():
    world = World(9, 1)
    [node] = world.nodes
    world.write(node, said("mine"))
    mine = [entry for entry, _ in node.store.rows(node.name, 1, 2)]
    node.store.freeze(node.name, 1, b"", b"", mine)  # and we die before saying it again
    node.store.commit()
    assert node.store.owed() == [Entry(Kind.COUNT, Count("mine", 1).encode())]
    world.crash(node)
    world.start(node)
    assert counted(world) == {"mine"}
    assert node.store.owed() == []
    world.crash(node)
    world.start(node)
    assert counted(world) == {"mine"}


def test_what_does_not_count_is_not_written():
    world = World(11, 4, roles={1: "observer", 2: "relay"})
    for number, kind, words in (
        (1, Kind.COUNT, "COUNT: a member whose role is observer cannot"),
        (2, Kind.FACT, "FACT: a member whose role is relay cannot"),
        (3, Kind.RUN, "RUN: a member whose role is peer cannot"),
    ):
        with pytest.raises(ConfigError, match=words):
            world.nodes[number].replica.write([(kind, b"")])
    leave = [(Kind.LEAVE, Presence(1).encode())]
    world.write(world.nodes[1], leave)
    world.settle()
    members = world.nodes[0].replica.view.members
    assert members[world.nodes[1].name].status == "left"


def test_openings_are_not_for_writing():
    world = World(10, 1)
    [node] = world.nodes
    root = node.replica.root()
    with pytest.raises(ProtocolError, match="OPENING"):
        node.replica.write([*said("x"), (Kind.OPENING, b"")])
    with pytest.raises(ProtocolError, match="above"):
        node.replica.write([*said("x"), (Kind.NOTE, bytes(70_000))])
    assert node.replica.root() == root
    assert node.replica.write([]) == []


def test_who_joins_again_with_another_role_begins_another_log():
    world = World(14, 3, roles={1: "observer"})
    world.settle()
    node = world.nodes[1]
    world.crash(node)
    world.roles[1] = "peer"
    world.start(node)
    world.run(world.now_s + 3)
    world.write(node, said("as a peer"))
    world.settle()
    assert counted(world) == {"as a peer"}
    assert len(logs_of(node)) == 2


def test_who_has_filled_a_log_begins_another(monkeypatch):
    monkeypatch.setattr(author, "LOG_ENTRIES", author.ROOM + 2)
    world = World(15, 2)
    for name in "abc":
        world.write(world.nodes[1], said(name))
    world.settle()
    assert counted(world) == set("abc")
    assert len(logs_of(world.nodes[1])) == 2
