"""The address book: experience beats hearsay, everything bounded, files survive."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.disk import RealDisk
from fedcore.errors import ProtocolError
from p2p.identity.keys import Key
from p2p.members.addresses import (
    FILE,
    MAX_PER_PEER,
    AddressBook,
)

ANN, BOB, EVE = (Key(bytes([i]) * 32).peer for i in (1, 2, 3))
LAN, WAN, NAME = (
    "/ip4/192.168.1.7/tcp/4001",
    "/ip4/45.33.1.10/tcp/4001",
    "/dns/a.example.org/tcp/4001",
)
CIRCUIT = f"/ip4/45.33.1.99/tcp/4001/p2p/{EVE}/p2p-circuit/p2p/{ANN}"


class Memory:
    """A ``Disk`` in memory."""

    def __init__(self):
        self.files = {}

    def names(self):
        return sorted(self.files)

    def read(self, name):
        return self.files[name]

    def replace(self, name, data):
        self.files[name] = data


class Clock:
    now_s = 1000.0

    def __call__(self):
        self.now_s += 1
        return self.now_s


def book(disk=None, clock=None):
    return AddressBook(disk or Memory(), clock or Clock())


def order(book, peer=ANN):
    return [place.address for place in book.of(peer)]


def test_near_before_far_when_nothing_is_known():
    ours = book()
    assert ours.heard(ANN, [CIRCUIT, NAME, WAN, LAN]) == 0
    assert order(ours) == [LAN, WAN, NAME, CIRCUIT]


def test_what_worked_last_comes_first_and_what_failed_comes_last():
    ours = book()
    ours.heard(ANN, [CIRCUIT, NAME, WAN, LAN])
    ours.reached(ANN, CIRCUIT)
    ours.reached(ANN, WAN)
    ours.missed(ANN, LAN)
    assert order(ours) == [WAN, CIRCUIT, NAME, LAN]
    ours.missed(ANN, WAN)
    assert order(ours) == [CIRCUIT, NAME, LAN, WAN]
    ours.reached(ANN, LAN)
    assert order(ours) == [LAN, CIRCUIT, NAME, WAN]


def test_peers_are_sorted_by_the_last_time_they_were_met():
    ours = book()
    ours.heard(EVE, [WAN])
    ours.reached(ANN, LAN)
    ours.reached(BOB, WAN)
    assert ours.peers() == [BOB, ANN, EVE]
    ours.reached(ANN, LAN)  # what was asked for before is no answer any more
    assert ours.peers() == [ANN, BOB, EVE]
    ours.forget(BOB)
    assert ours.peers() == [ANN, EVE]


def test_hearsay_never_pushes_out_what_worked():
    ours = book()
    ours.reached(ANN, CIRCUIT)
    for port in range(2000, 2500):
        ours.heard(ANN, [f"/ip4/192.168.1.9/tcp/{port}"])
    assert order(ours)[0] == CIRCUIT
    assert len(order(ours)) == MAX_PER_PEER


def test_one_message_is_read_only_so_far():
    endless = (f"/ip4/192.168.1.9/tcp/{port}" for port in range(1, 60000))
    assert book().heard(ANN, endless) == 0
    assert sum(1 for _ in endless) > 59000


def test_named_peers_never_push_out_met_ones(monkeypatch):
    monkeypatch.setattr("p2p.members.addresses.MAX_PEERS", 20)
    ours = book()
    ours.reached(ANN, WAN)
    for i in range(100):
        ours.heard(Key(bytes([i]) + bytes(31)).peer, [LAN])
    assert len(ours.peers()) == 20
    assert ours.peers()[0] == ANN


def test_wrong_addresses_are_counted_and_leave_no_trace():
    ours = book()
    of_eve = f"{WAN}/p2p/{EVE}"
    assert ours.heard(ANN, ["/ip4/0.0.0.0/tcp/1", "x" * 9999, of_eve]) == 3
    assert ours.peers() == []
    with pytest.raises(ProtocolError):
        ours.heard("../../etc", [WAN])
    with pytest.raises(ProtocolError, match="given an address of"):
        ours.reached(ANN, of_eve)
    ours.missed(ANN, "never heard of")
    assert ours.peers() == []


def test_it_is_remembered_and_saving_twice_writes_the_same():
    disk, clock = Memory(), Clock()
    ours = book(disk, clock)
    ours.heard(ANN, [CIRCUIT, NAME, WAN, LAN])
    ours.reached(ANN, WAN)
    ours.missed(ANN, LAN)
    ours.reached(BOB, NAME)
    ours.save()
    again = book(disk, clock)
    assert again.fault == ""
    assert again.peers() == ours.peers() == [BOB, ANN]
    assert again.of(ANN) == ours.of(ANN)
    before = disk.files[FILE]
    again.missed(ANN, "unknown")
    again.heard(EVE, [WAN])
    again.forget(EVE)
    again.save()
    assert disk.files[FILE] == before
    again.forget(ANN)
    assert again.peers() == [BOB]


def test_nothing_is_written_when_nothing_changed():
    disk = Memory()
    book(disk).save()
    assert disk.files == {}


def test_a_clock_that_was_wrong_does_not_win_for_ever():
    disk = Memory()
    ahead = book(disk, lambda: 1e12)
    ahead.reached(ANN, LAN)
    ahead.save()
    now = book(disk, Clock())
    assert now.of(ANN)[0].success_s < 2000
    now.reached(ANN, WAN)
    assert order(now) == [WAN, LAN]


@pytest.mark.parametrize("damage", [b"", b"FCA", b"FCA\x01" + bytes(40), b"x" * 5000])
def test_a_damaged_file_is_a_new_book_and_a_note(damage):
    disk = Memory()
    disk.files[FILE] = damage
    ours = book(disk)
    assert ours.peers() == []
    assert "damaged" in ours.fault


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.data())
def test_no_file_breaks_it(data, choose):
    disk = Memory()
    ours = book(disk)
    ours.heard(ANN, [CIRCUIT, NAME, WAN, LAN])
    ours.save()
    good = disk.files[FILE][:-32]
    at = choose.draw(st.integers(0, len(good)))
    body = good[:at] + data + good[choose.draw(st.integers(0, len(good))) :]
    disk.files[FILE] = body + hashlib.sha256(body).digest()
    for peer in (again := book(disk)).peers():
        assert len(again.of(peer)) <= MAX_PER_PEER


@pytest.mark.slow
def test_the_file_survives_kill_9(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from fedcore.disk import RealDisk\n"
        "from p2p.identity.keys import Key\n"
        "from p2p.members.addresses import AddressBook\n"
        "book = AddressBook(RealDisk(Path(sys.argv[1])), time.time)\n"
        "for i in range(100000):\n"
        "    peer = Key(bytes([i % 250]) + bytes(31)).peer\n"
        "    book.reached(peer, f'/ip4/10.0.0.1/tcp/{i % 60000 + 1}')\n"
        "    book.save(); print(i, flush=True)\n"
    )
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        with child:
            for _ in range(25):
                assert child.stdout.readline()
            os.kill(child.pid, 9)
        again = AddressBook(RealDisk(tmp_path), lambda: 4e9)
        assert again.fault == ""
        assert len(again.peers()) >= 25
