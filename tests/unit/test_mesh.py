"""What the parts of a peer learn of each other: door, reach and the members' parts."""

from dataclasses import dataclass, field

import pytest

from fedcore.errors import ProtocolError
from p2p.circuit import peer_in
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    HangUp,
    Note,
    Told,
    Up,
    Wake,
    Woken,
)
from p2p.members import door as doors
from p2p.members.effects import Admitted, TurnedAway
from p2p.mesh import GOODBYE_S, Mesh
from p2p.nat.addresses import Address
from p2p.nat.effects import (
    Book,
    Closed,
    Dial,
    Dialled,
    NotDialled,
    Opened,
    Relays,
    Unwanted,
    UpBy,
)
from p2p.relaying import (
    AGAIN_S,
    TOPIC,
    WANTED,
    Desk,
    Guests,
    encode_services,
    read_services,
)


@dataclass
class Scripted:
    """Writes down its events and does what it was told to do at one of them."""

    topics: tuple = ()
    acts: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)

    def step(self, now_s, event):
        self.seen.append(event)
        return self.acts.get(type(event), lambda event: ())(event)


class FakeDoor(Scripted):
    """Lets in, or turns away, whoever says hello, as the test says."""

    inside = ()

    def members(self):
        return dict.fromkeys(self.inside)

    def admits(self, peer):
        return peer in self.inside


@pytest.fixture
def house():
    door, reach = FakeDoor(("/hello/1",)), Scripted(("/direct/1",))
    state = Scripted(("/state/1",))
    mesh = Mesh(door, reach, {"state": state})
    mesh.step(0.0, Woken())
    for part in (door, reach, state):
        part.seen.clear()
    return mesh, door, reach, state


def let_in(mesh, door, peer, now_s=1.0):
    """Have ``peer`` say hello and be admitted."""
    door.inside = (*door.inside, peer)
    words = {"opening": None, "boot": b"", "program": "1"}
    door.acts[Asked] = lambda event: [Admitted("admitted", "in", event.peer, **words)]
    return mesh.step(now_s, Asked(peer, "/hello/1", b"hi", 1))


@pytest.mark.parametrize(
    "event", [Told("p", "/state/1", b""), Asked("p", "/state/1", b"", 1)]
)
def test_strangers_may_only_say_hello(house, event):
    mesh, door, _, state = house
    with pytest.raises(ProtocolError, match="past the door"):
        mesh.step(1.0, event)
    mesh.step(1.0, Asked("p", "/hello/1", b"", 2))
    assert (state.seen, door.seen) == ([], [Asked("p", "/hello/1", b"", 2)])


def test_who_is_admitted_is_up_for_all(house):
    mesh, door, reach, state = house
    mesh.step(1.0, UpBy("p", None))
    assert (door.seen, reach.seen, state.seen) == ([Up("p")], [], [])
    let_in(mesh, door, "p")
    assert reach.seen == [Book("p", ()), UpBy("p", None)]
    assert state.seen == [Up("p")]
    mesh.step(2.0, Told("p", "/state/1", b"news"))
    assert state.seen[-1] == Told("p", "/state/1", b"news")


def test_an_attempt_ends_well_only_past_the_door(house):
    mesh, door, reach, _ = house
    reach.acts[Book] = lambda event: [Dial("p", ("/a",), 5)]
    mesh.addresses = lambda: {"p": ("/a",)}
    (dial,) = [e for e in mesh.step(1.0, Woken()) if isinstance(e, Dial)]
    mesh.step(2.0, Dialled("p", dial.ticket))
    assert reach.seen == [Book("p", ("/a",))]
    let_in(mesh, door, "p")
    assert reach.seen[-1] == Dialled("p", 5)


def test_an_attempt_fails_when_the_door_turns_away(house):
    mesh, door, reach, state = house
    reach.acts[Book] = lambda event: [Dial("p", ("/a",), 5)]
    mesh.addresses = lambda: {"p": ("/a",)}
    (dial,) = [e for e in mesh.step(1.0, Woken()) if isinstance(e, Dial)]
    mesh.step(2.0, Dialled("p", dial.ticket))
    away = TurnedAway("turned-away", "expired", "p", reason="expired")
    door.acts[Answered] = door.acts[Asked] = lambda event: [away]
    out = mesh.step(3.0, Asked("p", "/hello/1", b"", 1))
    assert away in out
    assert not [e for e in out if isinstance(e, HangUp)]  # it shall hear why
    assert reach.seen[-1] == NotDialled("p", 5, "expired")
    assert state.seen == [Down("p", "expired")]
    assert HangUp("p", "expired") in mesh.step(9.0, Woken())


def test_who_waits_for_us_to_begin_has_time_to_ask_and_hear_why():
    assert GOODBYE_S > doors.PATIENCE_S


def test_a_relay_stays_though_it_is_no_member(house):
    mesh, door, _, _ = house
    mesh.relays.add("r")
    mesh.step(1.0, UpBy("r", None))
    away = TurnedAway("turned-away", "no member", "r", reason="refused us")
    door.acts[Asked] = lambda event: [away]
    assert away not in mesh.step(1.0, Asked("r", "/hello/1", b"", 1))
    later = [e for at_s in (3, 70, 140) for e in mesh.step(at_s, Woken())]
    assert not [e for e in later if isinstance(e, HangUp)]


def test_who_never_comes_inside_is_let_go(house):
    mesh, door, _, _ = house
    mesh.step(1.0, UpBy("idle", None))
    mesh.step(1.0, UpBy("p", None))
    let_in(mesh, door, "p")
    assert not [e for e in mesh.step(50.0, Woken()) if isinstance(e, HangUp)]
    gone = [e for e in mesh.step(62.0, Woken()) if isinstance(e, HangUp)]
    assert [e.peer for e in gone] == ["idle"]


def test_a_peer_is_down_when_its_last_way_is_gone(house):
    mesh, door, reach, state = house
    mesh.step(1.0, UpBy("p", None))
    let_in(mesh, door, "p")
    mesh.step(2.0, Opened("p", 77, "direct (punched)"))
    state.seen.clear()
    mesh.step(3.0, Down("p", "cut"))
    assert state.seen == []
    mesh.step(4.0, Closed("p", "silent"))
    assert state.seen == [Down("p", "silent")]
    assert [type(e) for e in reach.seen[-2:]] == [Down, Closed]


def test_the_reach_hears_of_changes_in_whom_to_reach(house):
    mesh, _, reach, _ = house
    mesh.addresses = lambda: {"p": ("/a",)}
    mesh.step(1.0, Woken())
    mesh.step(2.0, Woken())
    assert reach.seen == [Book("p", ("/a",))]
    mesh.addresses = dict
    mesh.step(3.0, Woken())
    assert reach.seen[-1] == Unwanted("p")


def test_relays_are_asked_for_their_services_and_told_to_the_reach(house):
    mesh, _, reach, _ = house
    mesh.step(1.0, UpBy("r", None))
    mesh.relays.add("r")  # learned only afterwards
    (ask,) = [e for e in mesh.step(2.0, Woken()) if isinstance(e, Ask)]
    assert (ask.peer, ask.topic, ask.body) == ("r", TOPIC, WANTED)
    assert Relays(("r",)) in reach.seen
    eye = Address("192.0.2.7", 4003)
    mesh.step(3.0, Answered("r", ask.ticket, encode_services([eye])))
    assert mesh.guests.services() == (eye,)
    mesh.step(4.0, Down("r"))
    assert mesh.guests.services() == ()


def test_a_relay_that_is_known_is_asked_as_soon_as_it_is_here(house):
    mesh, door, reach, _ = house
    mesh.relays.add("r")
    told = []
    mesh.guests.changed = lambda: told.append(mesh.guests.services())
    (ask,) = [e for e in mesh.step(1.0, UpBy("r", None)) if isinstance(e, Ask)]
    assert (ask.topic, Relays(("r",)) in reach.seen) == (TOPIC, True)
    eye = Address("192.0.2.7", 4003)
    refused = Failed("r", ask.ticket, lost=False, why="come in first")
    mesh.step(1.1, refused)
    (ask,) = [e for e in let_in(mesh, door, "r", 1.2) if isinstance(e, Ask)]
    mesh.step(1.3, Answered("r", ask.ticket, encode_services([eye])))
    mesh.step(1.4, Woken())
    mesh.step(2.0, Down("r"))
    assert told == [(eye,), ()]


def test_where_a_relay_was_reached_is_where_its_services_are(
    house,
):
    mesh, _, reach, _ = house
    mesh.relays = {"r", "s"}
    mesh.step(1.0, UpBy("r", None, "/ip4/45.33.1.7/tcp/4001"))
    (ask, *_) = [
        e
        for e in mesh.step(2.0, UpBy("s", "r", "/ip4/45.33.1.7/tcp/4001/p2p-circuit"))
        + mesh.step(AGAIN_S + 2, Woken())
        if isinstance(e, Ask) and e.peer == "r"
    ]
    assert reach.seen[-1] == Relays(("r", "s"), {"r": "45.33.1.7"})
    eye = Address("10.0.0.5", 4003)
    mesh.step(9.0, Answered("r", ask.ticket, encode_services([eye])))
    assert mesh.guests.services() == (Address("45.33.1.7", 4003),)


def test_services_may_be_looked_at_while_relays_come():
    """The scout looks from its own thread."""
    guests = Guests({"r": (Address("192.0.2.7", 4003),)})

    class Meanwhile(dict):
        def get(self, key):
            guests.found["s"] = ()

    guests.hosts = Meanwhile()
    assert guests.services() == (Address("192.0.2.7", 4003),)


def test_what_is_heard_may_be_replaced(house):
    mesh, _, _, state = house
    state.acts[Woken] = lambda event: [Note("a", "one"), Note("b", "two"), Wake(5.0)]
    mesh.hears = lambda now_s, e: [Note("c", "3")] if e == Note("a", "one") else None
    out = mesh.do("state", 1.0, state.acts[Woken](None))
    assert [e.kind for e in out if isinstance(e, Note)] == ["b", "c"]


def test_a_relay_that_does_not_answer_is_asked_again():
    guests = Guests()
    (first,) = guests.look(0.0, ["r"])
    assert guests.look(1.0, ["r"]) == []
    guests.step(1.0, Failed("r", first.ticket, lost=False, why="come in first"))
    (again,) = guests.look(AGAIN_S, ["r"])
    guests.step(6.0, Answered("r", again.ticket, encode_services([])))
    assert guests.look(60.0, ["r"]) == []


def test_a_desk_answers_and_refuses():
    desk = Desk((Address("192.0.2.7", 4003),))
    (answer,) = desk.step(0.0, Asked("p", TOPIC, WANTED, 3))
    assert answer == Answer(3, encode_services(desk.services))
    with pytest.raises(ProtocolError):
        desk.step(0.0, Asked("p", TOPIC, b"what", 3))


def test_services_are_read_in_one_form_only():
    good = encode_services([Address("192.0.2.7", 4003), Address("::1", 9)])
    assert read_services(good)[1] == Address("::1", 9)
    for bad in (b"", good + b"x", good[:-1], b"\xff" * 9, b"\x05" + good[1:]):
        with pytest.raises(ProtocolError):
            read_services(bad)


def test_whose_address_it_is():
    assert peer_in("/ip4/192.0.2.7/tcp/1/p2p/A/p2p-circuit/p2p/B") == "B"
    assert peer_in("/ip4/192.0.2.7/tcp/1") is None
